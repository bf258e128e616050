"""A newcomer's way: a fresh checkout, one command, a served picture. Downloads what serving needs (about 70 MB)."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tests.support import copy_repository, fetch, free_port, golden_picture, served_bundle, wait_until_ready

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Newcomer:
    """A checkout whose only command so far was `make serve`."""

    folder: Path
    url: str
    server: subprocess.Popen[bytes]
    log: Path

    def make(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["make", *arguments], cwd=self.folder, env=ENVIRONMENT, capture_output=True, text=True, check=False
        )


# An outer make hands its flags down; this run is to be a newcomer's.
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "PYTHON"))}


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Newcomer]:
    served_bundle()
    folder = tmp_path_factory.mktemp("fresh") / "a checkout"
    copy_repository(folder)
    port, log = free_port(), folder.parent / "log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            ["make", "serve", f"PYTHON={sys.executable}"],
            cwd=folder,
            env=ENVIRONMENT | {"PORT": str(port)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until_ready(url, lambda: server.poll() is None, seconds=600)
        yield Newcomer(folder, url, server, log)
    finally:
        sys.stderr.write(log.read_text(errors="replace"))
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def test_one_command_answers_a_picture(newcomer: Newcomer) -> None:
    picture, probabilities = golden_picture(served_bundle())

    answer = fetch(f"{newcomer.url}/predict", picture, "image/png")

    assert answer["class"] == int(np.argmax(probabilities))
    assert answer["label"]


def test_it_installs_neither_training_nor_compiler(newcomer: Newcomer) -> None:
    python = newcomer.folder / ".venv" / "bin" / "python"
    listing = subprocess.run([python, "-m", "pip", "freeze"], check=True, capture_output=True, text=True).stdout
    packages = {line.partition("==")[0].lower() for line in listing.splitlines()}

    assert "onnxruntime" in packages
    assert packages & {"tensorflow", "tensorflow-cpu", "keras", "onnx", "onnx-ir", "tf2onnx", "pytest", "ruff"} == set()


def test_a_second_call_installs_nothing(newcomer: Newcomer) -> None:
    plan = newcomer.make("-n", "serve", "PORT=1234")

    assert plan.stdout.splitlines() == ["exec .venv/bin/python -m service --port 1234 "]


@pytest.mark.parametrize("group", [False, True], ids=["make", "process group"])
def test_the_end_of_make_is_the_orderly_end_of_the_server(tmp_path: Path, newcomer: Newcomer, group: bool) -> None:
    port = free_port()
    with (tmp_path / "log").open("w") as output:
        make = subprocess.Popen(
            ["make", "serve"],
            cwd=newcomer.folder,
            env=ENVIRONMENT | {"PORT": str(port)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        wait_until_ready(f"http://127.0.0.1:{port}", lambda: make.poll() is None)
        # A process manager signals the whole group; the server then hears it twice, since make passes it on.
        (os.killpg if group else os.kill)(make.pid, signal.SIGTERM)
        make.wait(timeout=60)
    finally:
        if make.poll() is None:
            os.killpg(make.pid, signal.SIGKILL)
            make.wait()
    log = (tmp_path / "log").read_text()

    with pytest.raises(OSError, match="refused"):
        fetch(f"http://127.0.0.1:{port}/v2/health/live")
    assert " ended" in log
    assert "at once" not in log
