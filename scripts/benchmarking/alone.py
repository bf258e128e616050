"""ONNX Runtime without a server: what no server around it can exceed."""

import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from scripts.benchmarking.models import Model, session
from scripts.benchmarking.requests import pictures


def rate(file: Path, shape: tuple[int, ...], dtype: str, batch: int, seconds: float) -> float:
    """Images a second of one process with one thread, a batch after the other."""
    made = session(file)
    name, images = made.get_inputs()[0].name, pictures(batch, shape, dtype)
    for _ in range(3):
        made.run(None, {name: images})
    count, start = 0, time.perf_counter()
    while (now := time.perf_counter()) - start < seconds:
        made.run(None, {name: images})
        count += batch
    return count / (now - start)


def measure(model: Model, batch: int, seconds: float, processes: int) -> float:
    """Images a second of several such processes together."""
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        runs = [pool.submit(rate, model.file, model.shape, model.dtype, batch, seconds) for _ in range(processes)]
        return sum(run.result() for run in runs)
