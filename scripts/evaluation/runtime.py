"""ONNX Runtime as the figures use it: CPU, one thread."""

import time
from collections.abc import Mapping
from typing import Any

import onnx
import onnxruntime as ort
from numpy.typing import NDArray

LEVELS = {
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}


def session(model: onnx.ModelProto, level: str = "all", save: str | None = None) -> ort.InferenceSession:
    """A session at one of ONNX Runtime's levels; "all" is its default.

    Args:
        model: to run.
        level: key of `LEVELS`.
        save: where to write the graph that ONNX Runtime made of the model.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.graph_optimization_level = LEVELS[level]
    options.log_severity_level = 3
    if save:
        options.optimized_model_filepath = save
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def interleaved_times(
    models: Mapping[str, onnx.ModelProto], batch: NDArray[Any], seconds: float, least: int = 5
) -> dict[str, list[float]]:
    """CPU seconds of every run of each model; each round runs each of them once.

    The session's one thread is the caller's. Its CPU time is what a run takes on an idle machine, and leaves out the
    turns that other programs take on a busy one.

    Args:
        models: with one input each, of the same meaning.
        batch: what all of them are given.
        seconds: how long to measure, all models together.
        least: rounds, however long they take.
    """
    runs = {name: (session(model), {model.graph.input[0].name: batch}) for name, model in models.items()}
    times: dict[str, list[float]] = {name: [] for name in models}
    for current, feed in runs.values():
        for _ in range(3):
            current.run(None, feed)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or any(len(values) < least for values in times.values()):
        for name, (current, feed) in runs.items():
            begin = time.thread_time()
            current.run(None, feed)
            times[name].append(time.thread_time() - begin)
    return times
