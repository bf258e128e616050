"""How far a graph in ONNX Runtime is from the network that Keras computes in float64, and what of it the fold adds."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import keras
import numpy as np
import onnx
from numpy.typing import NDArray

from bnfold.evaluate import Float64Evaluator
from scripts.evaluation.runtime import session

Array = NDArray[np.float32]


def truth(build: Callable[[], keras.Model], model: keras.Model, batch: Array) -> NDArray[np.float64]:
    """A network's output, computed by Keras in float64; neither the converter nor ONNX has a part in it.

    Args:
        build: made the network.
        model: its weights are taken.
        batch: inputs.
    """
    with _double():
        double = build()
        double.set_weights(model.get_weights())
        return np.asarray(double(batch.astype(np.float64), training=False), np.float64)


def error(model: onnx.ModelProto, batch: Array, expected: NDArray[np.float64]) -> float:
    """Largest difference of the first output in ONNX Runtime, relative to the largest expected value."""
    actual = session(model).run([model.graph.output[0].name], {model.graph.input[0].name: batch})[0]
    return distance(actual, expected)


def evaluate(model: onnx.ModelProto, batch: Array) -> NDArray[np.float64]:
    """The first output of a graph with its own weights, every operation in float64: no runtime rounds anything."""
    results = Float64Evaluator(model)({model.graph.input[0].name: batch})
    return np.asarray(results[model.graph.output[0].name], np.float64)


def distance(values: NDArray[np.float64], expected: NDArray[np.float64]) -> float:
    """Largest difference, relative to the largest expected value."""
    return float(np.abs(values - expected).max() / np.abs(expected).max())


@contextmanager
def _double() -> Iterator[None]:
    """Keras builds and computes in float64."""
    kept = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    try:
        yield
    finally:
        keras.config.set_floatx(kept[0])
        keras.config.set_dtype_policy(kept[1])
