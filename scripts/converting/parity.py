"""Is the exported graph the network that was trained? Asked of `model.predict`, not of the exporter."""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from scripts.converting.trace import ExportError

LIMIT = 1e-5
BATCH_SIZES = (1, 8)

Arrays = dict[str, NDArray[Any]]


def session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """An ONNX Runtime session on the CPU with one thread: the same sums in the same order every time."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        model.SerializeToString(deterministic=True), options, providers=["CPUExecutionProvider"]
    )


def run(graph: onnxruntime.InferenceSession, inputs: Arrays, batch_size: int = 500) -> Arrays:
    """Run a graph batch by batch; the outputs by name."""
    names = [output.name for output in graph.get_outputs()]
    count = len(next(iter(inputs.values())))
    parts = [
        graph.run(names, {name: values[start : start + batch_size] for name, values in inputs.items()})
        for start in range(0, count, batch_size)
    ]
    return {name: np.concatenate(column) for name, column in zip(names, zip(*parts, strict=True), strict=True)}


def predict(model: keras.Model, inputs: Arrays, outputs: list[str]) -> Arrays:
    """What Keras answers; the inputs are in the order of the network."""
    tensors = [values.astype(np.float32) for values in inputs.values()]
    answer = model.predict(tensors if len(tensors) > 1 else tensors[0], batch_size=500, verbose=0)
    return dict(zip(outputs, answer if isinstance(answer, list) else [answer], strict=True))


def largest_difference(ours: Arrays, theirs: Arrays) -> float:
    """Largest absolute difference over all outputs."""
    return max(float(np.max(np.abs(ours[name].astype(np.float64) - theirs[name]))) for name in theirs)


def check(model: keras.Model, graph: onnxruntime.InferenceSession, cases: Mapping[str, Arrays]) -> float:
    """Compare a graph with `model.predict` on every case, at two batch sizes.

    Args:
        model: the trained network.
        graph: the exported graph.
        cases: inputs by what they are, e.g. `real` and `random`.

    Returns:
        The largest difference of any output.

    Raises:
        ExportError: a difference is above 1e-5.
    """
    outputs = [output.name for output in graph.get_outputs()]
    worst = 0.0
    for kind, inputs in cases.items():
        expected = predict(model, inputs, outputs)
        for batch_size in BATCH_SIZES:
            difference = largest_difference(run(graph, inputs, batch_size), expected)
            if not difference <= LIMIT:  # "not <=" so that NaN fails, too.
                raise ExportError(
                    f"parity: on {kind} inputs in batches of {batch_size} the exported graph differs from "
                    f"model.predict by {difference:.2g}, more than {LIMIT:g}"
                )
            worst = max(worst, difference)
    return worst


def random_inputs(model: keras.Model, names: Mapping[str, str], pixels: bool, count: int = 64) -> Arrays:
    """Noise of the right shape: pixels 0 to 255, or standard normal numbers."""
    random = np.random.default_rng(0)
    arrays: Arrays = {}
    for tensor in model.inputs:
        shape = (count, *tensor.shape[1:])
        noise = random.integers(0, 256, shape) if pixels else random.standard_normal(shape)
        arrays[names[tensor.name]] = noise.astype(np.uint8 if pixels else np.float32)
    return arrays
