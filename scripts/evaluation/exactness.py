"""How far a graph in ONNX Runtime is from the same graph computed in float64."""

import numpy as np
import onnx
from numpy.typing import NDArray

from bnfold.evaluate import Float64Evaluator
from scripts.evaluation.runtime import session

Array = NDArray[np.float32]


def pictures(shape: tuple[int, ...], low: float, high: float, seed: int = 1) -> Array:
    """Six inputs [6, *shape]: noise, faint noise, energy at the border alone, a checkerboard, all lowest, all highest.

    Args:
        shape: height, width, channels.
        low: smallest value.
        high: largest value.
        seed: of the noise.
    """
    rng = np.random.default_rng(seed)
    noise = rng.uniform(low, high, (3, *shape))
    noise[1] = (low + high) / 2 + 0.1 * (noise[1] - (low + high) / 2)
    noise[2, 1:-1, 1:-1] = max(low, 0)
    board = np.where(np.indices(shape).sum(axis=0) % 2, low, high)
    return np.stack([*noise, board, np.full(shape, low), np.full(shape, high)]).astype(np.float32)


def truth(model: onnx.ModelProto, batch: Array) -> NDArray[np.float64]:
    """The first output of a graph in float64, by onnx's reference evaluator."""
    evaluator = Float64Evaluator(model)
    name = model.graph.input[0].name
    results = [evaluator({name: batch[i : i + 1]})[model.graph.output[0].name] for i in range(len(batch))]
    return np.concatenate(results).astype(np.float64)


def error(model: onnx.ModelProto, batch: Array, expected: NDArray[np.float64]) -> float:
    """Largest difference of the first output in ONNX Runtime, relative to the largest expected value."""
    actual = session(model).run([model.graph.output[0].name], {model.graph.input[0].name: batch})[0]
    return float(np.abs(actual - expected).max() / np.abs(expected).max())
