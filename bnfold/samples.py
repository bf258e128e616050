"""Inputs on which a fold is put to the test."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import onnx

from bnfold.errors import InputError

Array = npt.NDArray[np.generic]
SEED = 20151
"""Fixed, so that a certificate can be repeated to the digit."""


def batch_size(model: onnx.ModelProto) -> int | None:
    """The batch size that the graph insists on, or None if it takes any."""
    sizes = {_shape(info)[0] for info in runtime_inputs(model) if _shape(info)}
    fixed = sorted(size for size in sizes if size is not None)
    return fixed[0] if fixed else None


def runtime_inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """The inputs that a caller must give: those without an initializer."""
    given = {tensor.name for tensor in model.graph.initializer}
    return [info for info in model.graph.input if info.name not in given]


def samples(
    model: onnx.ModelProto, real: Mapping[str, Array] | None = None, count: int = 8
) -> dict[str, dict[str, Array]]:
    """Examples of each kind for every input of a model.

    Args:
        model: says which inputs there are, of which type and shape.
        real: a batch of real examples per input; their range then bounds the generated ones.
        count: how many examples of each generated kind.

    Returns:
        kind -> input name -> batch. The kinds are `real` (if given), `random`, `border` (energy only in the outermost
        rows and columns) and `extreme` (all lowest, all highest, checkerboard and its negative, in turn).

    Raises:
        InputError: a size other than the batch is not known and no real input shows it, or `real` does not fit.
    """
    specs = runtime_inputs(model)
    if real is not None and set(real) != {info.name for info in specs}:
        raise InputError(f"inputs must be given for exactly {', '.join(info.name for info in specs)}")
    rng = np.random.default_rng(SEED)
    kinds: dict[str, dict[str, Array]] = {} if real is None else {"real": dict(real)}
    for info in specs:
        example = None if real is None else real[info.name]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type)
        shape = _example_shape(info, example)
        low, high = _range(dtype, example)
        draw = _draw(rng, (count, *shape), dtype, low, high)
        kinds.setdefault("random", {})[info.name] = draw
        kinds.setdefault("border", {})[info.name] = np.where(_border(shape), draw, np.zeros((), dtype))
        kinds.setdefault("extreme", {})[info.name] = _extreme(count, shape, dtype, low, high)
    return kinds


def _shape(info: onnx.ValueInfoProto) -> list[int | None]:
    return [d.dim_value if d.HasField("dim_value") else None for d in info.type.tensor_type.shape.dim]


def _example_shape(info: onnx.ValueInfoProto, example: Array | None) -> tuple[int, ...]:
    if example is not None:
        return tuple(example.shape[1:])
    sizes = _shape(info)
    if not sizes or any(size is None for size in sizes[1:]):
        raise InputError(f"input {info.name} has shape {sizes}: give real inputs, they show the unknown sizes")
    return tuple(size or 0 for size in sizes[1:])


def _range(dtype: np.dtype[np.generic], example: Array | None) -> tuple[float, float]:
    if dtype == np.bool_:
        return 0, 1
    if dtype.kind in "iu":
        return (0, 255) if dtype.itemsize == 1 else (0, 1)
    if example is not None and example.size:
        return float(example.min()), float(example.max())
    return -3.0, 3.0


def _draw(
    rng: np.random.Generator, shape: tuple[int, ...], dtype: np.dtype[np.generic], low: float, high: float
) -> Array:
    if dtype.kind in "iub":
        return rng.integers(int(low), int(high) + 1, shape).astype(dtype)
    return np.clip(rng.normal((low + high) / 2, max(high - low, 1e-3) / 6, shape), low, high).astype(dtype)


def _spatial_axes(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Axes of an example that are space: all but the channel, which comes last if it is the smallest there."""
    if len(shape) < 2:
        return tuple(range(len(shape)))
    return tuple(range(len(shape) - 1)) if shape[-1] < shape[0] else tuple(range(1, len(shape)))


def _border(shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    places = np.zeros(shape, bool)
    for axis in _spatial_axes(shape):
        index = np.arange(shape[axis])
        edge = (index == 0) | (index == shape[axis] - 1)
        places |= edge.reshape([-1 if a == axis else 1 for a in range(len(shape))])
    return places


def _extreme(count: int, shape: tuple[int, ...], dtype: np.dtype[np.generic], low: float, high: float) -> Array:
    grid = np.zeros(shape, np.int64)
    for axis in _spatial_axes(shape):
        grid = grid + np.arange(shape[axis]).reshape([-1 if a == axis else 1 for a in range(len(shape))])
    patterns = (np.full(shape, False), np.full(shape, True), grid % 2 == 0, grid % 2 == 1)
    lowest, highest = np.array(low).astype(dtype), np.array(high).astype(dtype)
    return np.stack([np.where(patterns[i % len(patterns)], highest, lowest) for i in range(count)])
