"""Operators that only move elements: the affine moves with them.

An operator that copies every output element from one input element commutes with a map that is known element by
element: apply the operator itself to the map. A rule here answers with that movement, as a function on float64 arrays
of the tensor's rank with size 1 along axes on which the map is constant.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from bnfold.affine import Affine, Array
from bnfold.graph import dims, ints, is_op
from bnfold.rules.base import Refusal

Movement = Callable[[Array], Array]
MAX_ELEMENTS = 1 << 24
"""Larger maps are not written out element by element."""


def forward_movement(node: ir.Node) -> Movement | Refusal:
    """How a map on input 0 becomes a map on output 0."""
    source, target = dims(node.inputs[0]), dims(node.outputs[0])
    if source is None or target is None or not source or not target:
        return Refusal(f"the rank at {node.op_type} is not known")
    match node.op_type:
        case "Transpose":
            found: Movement | Refusal = _transpose(_permutation(node, len(source)))
        case "Reshape" | "Flatten":
            found = reshape(source, target)
        case "Squeeze" | "Unsqueeze":
            found = _insert_or_drop(source, target, _axes(node, max(len(source), len(target))))
        case "Slice":
            found = _slice(node, len(source))
        case "Gather":
            found = _gather(node)
        case "Tile":
            found = _tile(node)
        case _:  # Expand
            found = _expand(len(target))
    return found


def backward_movement(node: ir.Node) -> Movement | Refusal:
    """How a map on output 0 becomes the map on input 0 that has the same effect."""
    source, target = dims(node.inputs[0]), dims(node.outputs[0])
    if source is None or target is None or not source or not target:
        return Refusal(f"the rank at {node.op_type} is not known")
    match node.op_type:
        case "Transpose":
            return _transpose(tuple(int(i) for i in np.argsort(_permutation(node, len(source)))))
        case "Reshape" | "Flatten":
            return reshape(target, source)
        case "Squeeze" | "Unsqueeze":
            return _insert_or_drop(target, source, _axes(node, max(len(source), len(target))))
    return Refusal(f"{node.op_type} copies or drops elements, so it cannot be passed backward")


def move(affine: Affine, movement: Movement, target: Sequence[int | None]) -> Affine | Refusal:
    """The moved affine, if it is the same for every example of a batch of unknown size."""
    moved = affine.move(movement)
    if moved.rank != len(target):
        return Refusal("the map does not fit the tensor")
    if target[0] is None and moved.scale.shape[0] > 1:
        return Refusal("the map would depend on the place in the batch")
    return moved


def reshape(source: Sequence[int | None], target: Sequence[int | None]) -> Movement | Refusal:
    """Row-major reshape of a map; only the first axis may have an unknown size.

    A batch of two examples stands for every batch: if the reshaped map does not vary along the first axis for two, the
    pattern of one example fills whole rows, and more examples only repeat it.
    """
    if None in source[1:] or None in target[1:]:
        return Refusal("a shape is not known")
    batch = source[0] if source[0] is not None else 2
    total = batch * int(np.prod([d for d in source[1:] if d is not None], dtype=np.int64))
    rest = int(np.prod([d for d in target[1:] if d is not None], dtype=np.int64))
    if source[0] is None and target[0] is not None:
        return Refusal("the batch axis is moved")
    if rest == 0 or total % rest or total > MAX_ELEMENTS or (target[0] is not None and target[0] * rest != total):
        return Refusal("the shapes do not match")
    wide = (batch, *source[1:])
    new = (total // rest, *target[1:])

    def movement(array: Array) -> Array:
        if array.size == 1:
            return array.reshape((1,) * len(new))
        return np.broadcast_to(array, [d or 1 for d in wide]).reshape([d or 1 for d in new])

    return movement


def _permutation(node: ir.Node, rank: int) -> tuple[int, ...]:
    return tuple(node.attributes.get_ints("perm", tuple(reversed(range(rank)))))


def _transpose(permutation: tuple[int, ...]) -> Movement:
    return lambda array: array.transpose(permutation)


def _axes(node: ir.Node, rank: int) -> tuple[int, ...] | None:
    """Axes of Squeeze or Unsqueeze in the longer of the two shapes; None if Squeeze drops every axis of size 1."""
    axes = node.attributes.get_ints("axes")
    if axes is None and len(node.inputs) > 1 and node.inputs[1] is not None:
        axes = ints(node.inputs[1])
        if axes is None:
            return ()
    return None if axes is None else tuple(sorted(axis % rank for axis in axes))


def _insert_or_drop(
    source: Sequence[int | None], target: Sequence[int | None], axes: tuple[int, ...] | None
) -> Movement | Refusal:
    longer = source if len(source) > len(target) else target
    if axes is None:
        axes = tuple(axis for axis, size in enumerate(longer) if size == 1)
    if abs(len(source) - len(target)) != len(axes) or len(axes) == len(longer) or 0 in axes:
        return Refusal("the axes are not constant, or the batch axis is among them")
    if len(source) > len(target):
        return lambda array: array.squeeze(axes) if all(array.shape[a] == 1 for a in axes) else array
    return lambda array: np.expand_dims(array, axes)


def _slice(node: ir.Node, rank: int) -> Movement | Refusal:
    operands = [ints(value) if value is not None else None for value in node.inputs[1:]]
    given = [value is not None for value in node.inputs[1:]]
    if any(there and operand is None for there, operand in zip(given, operands, strict=True)):
        return Refusal("the slice is not constant")
    starts, ends = operands[0] or (), operands[1] or ()
    axes = (operands[2] if len(operands) > 2 else None) or tuple(range(len(starts)))
    steps = (operands[3] if len(operands) > 3 else None) or (1,) * len(starts)
    if not len(starts) == len(ends) == len(axes) == len(steps):
        return Refusal("the slice is not constant")

    def movement(array: Array) -> Array:
        index = [slice(None)] * rank
        for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
            size = array.shape[axis % rank]
            if size > 1:
                stop = None if step < 0 and end < -size else end
                index[axis % rank] = slice(start, stop, step)
        return array[tuple(index)]

    return movement


def _gather(node: ir.Node) -> Movement | Refusal:
    indices, value = ints(node.inputs[1]), node.inputs[1]
    shape = dims(value)
    if indices is None or shape is None or None in shape:
        return Refusal("the gathered indices are not constant")
    axis = node.attributes.get_int("axis", 0)

    def movement(array: Array) -> Array:
        place = axis % array.ndim
        if array.shape[place] == 1:
            return array.reshape(array.shape[:place] + (1,) * len(shape) + array.shape[place + 1 :])
        chosen = np.take(array, indices, axis=place)
        return chosen.reshape(array.shape[:place] + tuple(d or 0 for d in shape) + array.shape[place + 1 :])

    return movement


def _expand(rank: int) -> Movement:
    return lambda array: array.reshape((1,) * (rank - array.ndim) + array.shape)


def _tile(node: ir.Node) -> Movement | Refusal:
    repeats = ints(node.inputs[1])
    if repeats is None:
        return Refusal("the repeats of Tile are not constant")
    return lambda array: np.tile(array, [r if size > 1 else 1 for r, size in zip(repeats, array.shape, strict=True)])


MOVEMENTS = ("Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Gather", "Tile", "Expand")


def is_movement(node: ir.Node | None) -> bool:
    """Whether the operator only moves, copies or drops elements."""
    return is_op(node, *MOVEMENTS)
