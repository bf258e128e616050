"""Say how large a container image is and how long it takes to be ready, as a table in Markdown.

    make image
    python scripts/image_report.py foldserve

The sizes are those on disk, as the Docker engine counts them; layers of less than a megabyte are left out. Every start
is a new container, hardened as the documentation runs it, until it answers that it is ready; the first start after a
build reads the files from disk and so may be slower than the others.
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterable
from datetime import datetime

HARDENED = ("--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges")
MEGABYTE = 1_000_000
LONGEST = 120.0  # seconds until a start is given up


class ReportError(RuntimeError):
    """The engine refused something, or a container did not become ready."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command; 0 done, 2 wrong arguments, no engine, no such image, or it does not start."""
    parser = argparse.ArgumentParser(
        prog="image_report.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("image", nargs="?", default="foldserve", help="its name or id (default: foldserve)")
    parser.add_argument("--times", type=int, default=10, help="how often it is started (default: 10)")
    parser.add_argument(
        "--run", action="append", default=[], metavar="ARGUMENT", help="for docker run, as --run=--gpus=all"
    )
    options = parser.parse_args(arguments)
    if options.times < 1:
        parser.error(f"--times is at least 1, not {options.times}")
    try:
        rows = [*sizes(options.image), *start_ups(options.image, options.times, options.run)]
    except ReportError as error:
        print(f"image_report: {error}", file=sys.stderr)
        return 2
    print(f"| `{options.image}` | |\n|---|---|")
    for name, value in rows:
        print(f"| {name} | {value} |")
    return 0


def docker(*arguments: str) -> str:
    """What a docker command prints; of a container that writes to standard error alone, that.

    Raises:
        ReportError: it fails, or is not there.
    """
    try:
        done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    except OSError as error:
        raise ReportError(f"docker cannot be run: {error}") from error
    if done.returncode != 0:
        raise ReportError(f"docker {arguments[0]}: {done.stderr.strip()}")
    return done.stdout.strip() or done.stderr.strip()


def sizes(image: str) -> Iterable[tuple[str, str]]:
    """The whole, and every layer worth naming, the lowest first."""
    yield "size", _megabytes(int(docker("image", "inspect", "--format", "{{.Size}}", image)))
    layers = docker("history", "--human=false", "--no-trunc", "--format", "{{json .}}", image).splitlines()
    for layer in map(json.loads, reversed(layers)):
        if int(layer["Size"]) >= MEGABYTE:
            yield f"… of which {_instruction(layer)}", _megabytes(int(layer["Size"]))


def _instruction(layer: dict[str, str]) -> str:
    """What made a layer, as short as both builders' records allow: `COPY .venv`."""
    made = re.sub(r"^/bin/sh -c #\(nop\)|# buildkit$", "", layer["CreatedBy"]).strip()
    words = made.split()
    if not words:
        return layer["Comment"] or "the base image"
    return f"`{words[0]} {words[-1]}`" if words[0] == "COPY" else f"`{made[:60]}`"


def start_ups(image: str, times: int, extra: list[str]) -> Iterable[tuple[str, str]]:
    """Seconds from `docker run`, and from the start of the process in the container, until it is ready."""
    runs = [_start(image, extra) for _ in range(times)]
    starts = f"{times} starts" if times > 1 else "one start"
    yield f"`docker run` until ready, {starts}", _spread([whole for whole, _ in runs])
    yield "… of which its process", _spread([process for _, process in runs])


def _start(image: str, extra: list[str]) -> tuple[float, float]:
    begun = time.time()
    name = docker("run", "--detach", "--publish=127.0.0.1::8000", *HARDENED, *extra, image)
    try:
        url = f"http://{docker('port', name, '8000/tcp').splitlines()[0]}/v2/health/ready"
        started = datetime.fromisoformat(docker("inspect", "--format", "{{.State.StartedAt}}", name)).timestamp()
        look = begun + 1  # asking the engine takes longer than asking the server
        while not _ready(url):
            if (now := time.time()) > look:
                look = now + 1
                if now - begun > LONGEST or docker("inspect", "--format", "{{.State.Running}}", name) != "true":
                    raise ReportError(f"{image} is not ready; its log ends:\n{docker('logs', '--tail=5', name)}")
            time.sleep(0.005)
        ready = time.time()
        return ready - begun, ready - started
    finally:
        docker("rm", "--force", name)


def _ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except (OSError, urllib.error.URLError):
        return False


def _megabytes(count: int) -> str:
    return f"{count / MEGABYTE:.0f} MB"


def _spread(seconds: list[float]) -> str:
    if len(seconds) == 1:
        return f"{seconds[0]:.2f} s"
    return f"{statistics.median(seconds):.2f} s ({min(seconds):.2f}–{max(seconds):.2f})"


if __name__ == "__main__":
    sys.exit(main())
