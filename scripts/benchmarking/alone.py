"""ONNX Runtime without a server: what no server around it can exceed, and how steady the machine is."""

import multiprocessing
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from scripts.benchmarking.models import Model, session
from scripts.benchmarking.requests import pictures

WINDOW = 0.1  # seconds over which a speed is taken: a queue that grows for so long is a tail that one sees


@dataclass(frozen=True)
class Alone:
    """What processes of one thread did, a batch after the other.

    Attributes:
        rate: images a second, of all processes together.
        windows: speeds in tenths of a second, each divided by the median of its process.
    """

    rate: float
    windows: tuple[float, ...]


def run(file: Path, shape: tuple[int, ...], dtype: str, batch: int, seconds: float) -> Alone:
    """One process."""
    made = session(file)
    name, images = made.get_inputs()[0].name, pictures(batch, shape, dtype)
    for _ in range(3):
        made.run(None, {name: images})
    total, count, speeds = 0, 0, []
    begin = last = time.perf_counter()
    while (now := time.perf_counter()) - begin < seconds:
        if now - last >= WINDOW:
            speeds.append(count / (now - last))
            count, last = 0, now
        made.run(None, {name: images})
        count, total = count + batch, total + batch
    usual = statistics.median(speeds) if speeds else 1.0
    return Alone(total / (now - begin), tuple(speed / usual for speed in speeds))


def measure(model: Model, batch: int, seconds: float, processes: int) -> Alone:
    """Several such processes at once."""
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        runs = [pool.submit(run, model.file, model.shape, model.dtype, batch, seconds) for _ in range(processes)]
        found = [run.result() for run in runs]
    return Alone(sum(one.rate for one in found), tuple(speed for one in found for speed in one.windows))


def slow_speed(windows: Sequence[float]) -> float | None:
    """The speed that the machine has at most in one of twenty windows; None if there are too few to say."""
    return sorted(windows)[len(windows) // 20 - 1] if len(windows) >= 20 else None
