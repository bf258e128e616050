"""Initializers in float64, a few rows at a time: weights can be as large as memory allows."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from bnfold.affine import Array

BLOCK = 1 << 15
"""Elements that are worked out at once."""

EXACT = "exact"
"""Where a rounded initializer keeps its float64 values: so a chain of folds rounds once."""

Index = slice | npt.NDArray[np.intp]
Rows = Callable[[Index], Array]
"""Gives rows of an array, which are its parts along the first axis."""
Values = Callable[[], Rows]
"""Opens an array for reading. It is open as long as the rows are held: nothing is kept between two readings."""


def rows_of(array: npt.NDArray[Any]) -> Rows:
    """The rows of an array in float64; all of it, if it has no axes."""
    return lambda index: np.asarray(array[index] if array.ndim else array, np.float64)


def exact(value: ir.Value) -> Values:
    """An initializer's values in float64, as they are now."""
    kept, tensor = value.meta.get(EXACT), value.const_value
    assert tensor is not None
    return kept if kept is not None else lambda: rows_of(tensor.numpy())


def scaled(values: Values, factor: Array, rank: int) -> Values:
    """Values of this rank, multiplied by what broadcasts to their shape."""
    wide = factor.reshape((1,) * (rank - factor.ndim) + factor.shape)

    def multiplied() -> Rows:
        rows = values()
        return lambda index: rows(index) * (wide[index] if len(wide) > 1 else wide)

    return multiplied


def permuted(values: Values, order: npt.NDArray[np.intp], axis: int) -> Values:
    """The values of a matrix with its rows (axis 0) or columns (axis 1) in another order."""

    def reordered() -> Rows:
        rows = values()
        return lambda index: rows(index)[:, order] if axis else rows(order[index])

    return reordered


def blocks(shape: tuple[int, ...]) -> Iterator[slice]:
    """The rows of an array in turn, about `BLOCK` elements at once; one slice for an array without axes."""
    height = shape[0] if shape else 1
    step = max(1, BLOCK // max(1, int(np.prod(shape[1:], dtype=np.int64))))
    return (slice(start, min(start + step, height)) for start in range(0, max(height, 1), step))


def by_rows(values: Values, shape: tuple[int, ...], compute: Callable[[Array, slice], Array]) -> Array:
    """Joins what is computed from each block of rows and its place."""
    rows = values()
    return np.concatenate([compute(rows(place), place) for place in blocks(shape)])


def combined(values: Values, shape: tuple[int, ...], weights: Array) -> Array:
    """The sum of a matrix's rows, each with its weight."""
    rows = values()
    total = np.zeros(shape[1])
    for place in blocks(shape):
        total += weights[place] @ rows(place)
    return total


class Rounded(ir.LazyTensor):
    """Values rounded once to a type; worked out when they are read, and not kept."""

    __slots__ = ("_values",)

    def __init__(self, values: Values, shape: tuple[int, ...], dtype: ir.DataType, name: str | None) -> None:
        super().__init__(self._whole, dtype, ir.Shape(shape), name=name)
        self._values = values

    def tobytes(self) -> bytes:
        """The rounded values in row-major order; there is never a second copy of them."""
        content, rows, dtype = io.BytesIO(), self._values(), self.dtype.numpy().newbyteorder("<")
        for place in blocks(tuple(self.shape.numpy())):
            with np.errstate(over="ignore", under="ignore"):
                content.write(rows(place).astype(dtype).tobytes())
        return content.getvalue()

    def _whole(self) -> ir.TensorProtocol:
        dtype = self.dtype.numpy()
        array = np.frombuffer(self.tobytes(), dtype.newbyteorder("<")).reshape(self.shape.numpy())
        return ir.tensor(array.astype(dtype, copy=False), dtype=self.dtype, name=self.name)
