"""What tests of the whole product share: a checkout as a newcomer has it, a server to wait for, a picture to send."""

import io
import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]


def repository_files() -> list[Path]:
    """Every file that git keeps or would keep, by its path in the repository; skips where there is no checkout."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listing = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"not a git checkout: {error}")
    return [Path(name) for name in listing.split("\0") if name and (ROOT / name).is_file()]


def copy_repository(target: Path) -> None:
    """Write those files to a new folder, as a clone would."""
    for path in repository_files():
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / path, target / path)


def free_port() -> int:
    """A port that nobody listens on at this moment."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def fetch(url: str, body: bytes | None = None, content_type: str = "application/json") -> Any:
    """The JSON answer to a GET, or to a POST where there is a body; None where the body is empty."""
    request = urllib.request.Request(url, data=body, headers={"Content-Type": content_type} if body else {})
    with urllib.request.urlopen(request, timeout=30) as response:
        content = response.read()
    return json.loads(content) if content else None


def wait_until_ready(url: str, alive: Callable[[], bool], seconds: float = 120) -> None:
    """Wait for a server to answer that it is ready.

    Args:
        url: of the server, without a path.
        alive: whether there is still something to wait for.
        seconds: a bound for a test that would otherwise hang; no statement about speed.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end and alive():
        try:
            fetch(f"{url}/v2/health/ready")
            return
        except (OSError, urllib.error.URLError):
            time.sleep(0.2)
    pytest.fail(f"{url} did not become ready; " + ("it is still starting" if alive() else "it has ended"))


@contextmanager
def serving(models: Path) -> Iterator[str]:
    """The address of a real server with a model repository; it must end with status 0 at SIGTERM."""
    port = free_port()
    command = [sys.executable, "-m", "service", "--models", str(models), "--port", str(port)]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    try:
        wait_until_ready(f"http://127.0.0.1:{port}", lambda: process.poll() is None)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors


def png(picture: NDArray[np.uint8]) -> bytes:
    """A grey picture, uint8 [height, width, 1], as a PNG file."""
    file = io.BytesIO()
    Image.fromarray(picture[..., 0]).save(file, format="PNG")
    return file.getvalue()


def golden_picture(bundle: Path) -> tuple[bytes, Any]:
    """A real picture of a bundle as PNG, and the reference's probabilities for it."""
    with np.load(bundle / "golden.npz") as golden:
        pixels, probabilities = golden["image"][0], golden["probabilities"][0]
    return png(pixels), probabilities


def served_bundle() -> Path:
    """The version of kmnist that a server with this checkout's models/ serves; skips where there is none yet."""
    versions = [folder for folder in (ROOT / "models" / "kmnist").glob("[0-9]*") if (folder / "manifest.json").exists()]
    if not versions:
        pytest.skip("models/kmnist holds no bundle")
    return max(versions, key=lambda folder: int(folder.name))
