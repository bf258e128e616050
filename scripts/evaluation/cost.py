"""Time and memory of one fold, in a process of its own: python -m scripts.evaluation.cost MODEL.onnx TARGET."""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import onnx

import bnfold
from bnfold.files import load, save

_STATUS = Path("/proc/self/status")


class Cost(NamedTuple):
    """What one fold took."""

    seconds: float
    memory: float | None
    """Peak growth of the resident memory from the imports to the written file, in files; None if not on Linux."""


def cost(model: onnx.ModelProto, target: str) -> Cost:
    """Fold a model in a fresh process.

    Raises:
        subprocess.CalledProcessError: the compiler fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(model, path)
        command = [sys.executable, "-m", "scripts.evaluation.cost", str(path), target]
        done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    return Cost(*json.loads(done.stdout))


def _memory(field: str) -> int | None:
    """A field of the kernel's account of this process, in bytes."""
    if not _STATUS.exists():
        return None
    fields = dict(line.split(":", maxsplit=1) for line in _STATUS.read_text().splitlines())
    return int(fields[field].split()[0]) * 1024


def _measure(path: Path, target: str) -> Cost:
    before = _memory("VmRSS")
    begin = time.perf_counter()
    folded = bnfold.fold(load(path), target=target)
    seconds = time.perf_counter() - begin
    save(folded.model, path.with_suffix(".folded.onnx"))
    peak = _memory("VmHWM")
    grown = None if before is None or peak is None else (peak - before) / path.stat().st_size
    return Cost(seconds, grown)


if __name__ == "__main__":
    print(json.dumps(_measure(Path(sys.argv[1]), sys.argv[2])))
