"""Time and memory of one fold, in a process of its own: python -m scripts.evaluation.cost MODEL.onnx TARGET."""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import onnx
import onnx.parser

import bnfold
from bnfold.files import save
from bnfold.mapped import load_mapped

SMALLEST = """<ir_version: 10, opset_import: ["": 18]> net (float[N,1,2,2] x) => (float[N,1,1,1] y)
    <float[1] a = {2}, float[1,1,2,2] w = {1, 2, 3, 4}>
    { r = Relu(x)  n = BatchNormalization(r, a, a, a, a)  y = Conv(n, w) }"""
_STATUS = Path("/proc/self/status")


class Cost(NamedTuple):
    """What one fold took."""

    seconds: float
    memory: float | None
    """Peak growth of the resident memory from the model's file to the folded one, in files; None if not on Linux.

    A fold of the smallest model comes first, so that the libraries' own code and tables are not counted: they are some
    megabytes, once in a process.
    """


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


def _fold(path: Path, target: str) -> None:
    """From a file to a file beside it, as `python -m bnfold fold` does it."""
    source = load_mapped(path)
    folded = bnfold.fold(source.model, target=target, weights=source.weights)
    save(folded.model, path.with_suffix(".folded.onnx"))


def _measure(path: Path, target: str) -> Cost:
    first = path.with_suffix(".first.onnx")
    onnx.save(onnx.parser.parse_model(SMALLEST), first)
    _fold(first, target)
    before = _memory("VmRSS")
    begin = time.perf_counter()
    _fold(path, target)
    seconds = time.perf_counter() - begin
    peak = _memory("VmHWM")
    grown = None if before is None or peak is None else (peak - before) / path.stat().st_size
    return Cost(seconds, grown)


if __name__ == "__main__":
    print(json.dumps(_measure(Path(sys.argv[1]), sys.argv[2])))
