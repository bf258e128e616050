"""ONNX Runtime as the figures use it: CPU, one thread."""

import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

LEVELS = {
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}


def session(
    model: onnx.ModelProto, level: str = "all", save: str | None = None, profile: str | None = None
) -> ort.InferenceSession:
    """A session at one of ONNX Runtime's levels; "all" is its default.

    Args:
        model: to run.
        level: key of `LEVELS`.
        save: where to write the graph that ONNX Runtime made of the model.
        profile: how the file begins in which ONNX Runtime notes the time of every operator.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.graph_optimization_level = LEVELS[level]
    options.log_severity_level = 3
    if profile:
        options.enable_profiling, options.profile_file_prefix = True, profile
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


def operator_times(model: onnx.ModelProto, batch: NDArray[Any], runs: int = 30) -> dict[str, float]:
    """Milliseconds of one run by kind of operator, as ONNX Runtime's own profile has them; medians over the runs.

    The depthwise 1x1 convolutions that ONNX Runtime makes of affines are a kind of their own, `Conv 1x1 depthwise`.
    """
    with tempfile.TemporaryDirectory() as folder:
        current = session(model, profile=str(Path(folder) / "profile"))
        for _ in range(runs):
            current.run(None, {model.graph.input[0].name: batch})
        events = json.loads(Path(current.end_profiling()).read_text())
    durations: dict[tuple[str, str], list[float]] = defaultdict(list)
    for event in events:
        if event["cat"] == "Node" and event["name"].endswith("_kernel_time"):
            durations[_kind(event["args"]), event["name"]].append(event["dur"] / 1e3)
    times: dict[str, float] = defaultdict(float)
    for (kind, _), values in durations.items():
        times[kind] += float(np.median(values))
    return dict(times)


def _kind(arguments: dict[str, Any]) -> str:
    kind = str(arguments["op_name"])
    shapes = [shape for operand in arguments.get("input_type_shape", []) for shape in operand.values()]
    affine = kind == "Conv" and len(shapes) > 1 and shapes[1][0] > 1 and set(shapes[1][1:]) == {1}
    return "Conv 1x1 depthwise" if affine else kind
