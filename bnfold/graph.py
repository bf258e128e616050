"""Small questions and edits on an onnx-ir graph that every pass needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from bnfold.affine import Array
from bnfold.weights import EXACT, Rounded, Values, exact, rows_of

FLOATS = frozenset({ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.FLOAT, ir.DataType.DOUBLE})


def is_op(node: ir.Node | None, *op_types: str) -> bool:
    """Whether `node` is one of these operators of the standard ONNX domain."""
    return node is not None and node.domain == "" and node.op_type in op_types


def constant(value: ir.Value | None) -> npt.NDArray[Any] | None:
    """The array of an initializer that no caller can replace, else None."""
    if value is None or not value.is_initializer() or value.is_graph_input() or value.const_value is None:
        return None
    return value.const_value.numpy()


def float_constant(value: ir.Value | None) -> Array | None:
    """The array of a constant floating-point initializer in float64, else None."""
    if value is None or constant_shape(value) is None:
        return None
    return exact(value)()(slice(None))


def constant_shape(value: ir.Value | None) -> tuple[int, ...] | None:
    """The shape of a constant floating-point initializer, else None; its values are not touched."""
    if value is None or not value.is_initializer() or value.is_graph_input() or value.const_value is None:
        return None
    return tuple(value.const_value.shape.numpy()) if value.const_value.dtype in FLOATS else None


def ints(value: ir.Value | None) -> tuple[int, ...] | None:
    """A constant integer tensor as a flat tuple, else None."""
    array = constant(value)
    return None if array is None or array.dtype.kind not in "iu" else tuple(int(i) for i in array.reshape(-1))


def dims(value: ir.Value | None) -> tuple[int | None, ...] | None:
    """The shape with None for every size that is not known, or None if not even the rank is."""
    if value is None or value.shape is None:
        return None
    return tuple(d if isinstance(d, int) else None for d in value.shape)


def is_float(value: ir.Value | None) -> bool:
    """Whether the tensor is known to hold floating-point numbers."""
    return value is not None and value.dtype in FLOATS


@dataclass(frozen=True)
class Use:
    """One input of one node that reads a value."""

    node: ir.Node
    index: int


def uses(value: ir.Value) -> tuple[Use, ...]:
    """Every reader of a value."""
    return tuple(Use(node, index) for node, index in value.uses())


def sole_use(value: ir.Value) -> Use | None:
    """The only reader of a value that is no graph output, else None."""
    readers = uses(value)
    return readers[0] if len(readers) == 1 and not value.is_graph_output() else None


def elements(value: ir.Value) -> float:
    """Elements of one example of the batch; infinite where a size is not known."""
    shape = dims(value)
    return float("inf") if shape is None or None in shape[1:] else float(np.prod([d or 1 for d in shape[1:]] or [1]))


class Names:
    """Gives values and nodes names that nothing in the model has yet, the same ones on every run."""

    def __init__(self, model: ir.Model) -> None:
        self._taken: set[str] = set()
        for graph in model.graphs():
            self._taken.update(graph.initializers)
            self._taken.update(value.name for value in graph.inputs if value.name)
            for node in graph:
                self._taken.update(value.name for value in node.outputs if value.name)
                self._taken.add(node.name or "")

    def fresh(self, base: str) -> str:
        """Returns `base`, or `base_2`, `base_3` and so on."""
        name, count = base, 1
        while name in self._taken:
            count += 1
            name = f"{base}_{count}"
        self._taken.add(name)
        return name


def add_constant(graph: ir.Graph, names: Names, base: str, array: npt.NDArray[Any], dtype: ir.DataType) -> ir.Value:
    """Registers a new initializer, rounded once to `dtype`."""
    with np.errstate(over="ignore", under="ignore"):
        rounded = np.ascontiguousarray(array).astype(dtype.numpy())
    value = ir.Value(name=names.fresh(base), type=ir.TensorType(dtype), shape=ir.Shape(array.shape))
    value.const_value = ir.tensor(rounded, dtype=dtype, name=value.name)
    if array.dtype == np.float64:
        value.meta[EXACT] = lambda: rows_of(array)
    graph.register_initializer(value)
    return value


def add_lazy_constant(
    graph: ir.Graph, name: str, values: Values, shape: tuple[int, ...], dtype: ir.DataType
) -> ir.Value:
    """Registers a new initializer that is worked out when it is read and not kept: weights can be large."""
    value = ir.Value(name=name, type=ir.TensorType(dtype))
    set_lazy_constant(value, values, shape, dtype)
    graph.register_initializer(value)
    return value


def set_lazy_constant(value: ir.Value, values: Values, shape: tuple[int, ...], dtype: ir.DataType) -> None:
    """Gives an initializer that `add_lazy_constant` made other values."""
    value.shape = ir.Shape(shape)
    value.const_value = Rounded(values, shape, dtype, value.name)
    value.meta[EXACT] = values


def take_over(old: ir.Value, new: ir.Value, names: Names) -> None:
    """Lets every reader of `old` read `new`; a graph output keeps its name and declared type."""
    if old.is_graph_output():
        name = old.name
        old.name = names.fresh(f"{name}_before")
        new.name = name
        new.shape, new.type = old.shape, old.type
    old.replace_all_uses_with(new, replace_graph_outputs=True)
