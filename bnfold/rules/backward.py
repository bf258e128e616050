"""What an operator's inputs or weights must be given so that its output comes out as scale * old + shift."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from bnfold.affine import Affine
from bnfold.context import Context
from bnfold.graph import dims
from bnfold.rules import laws, linear, movement
from bnfold.rules.base import BackwardRule, Outcome, Refusal, Step, label


def backward(node: ir.Node, affine: Affine, ctx: Context) -> Outcome:
    """Applies the operator's rule to an affine that its output 0 must be given."""
    rule = RULES.get(node.op_type) if node.domain == "" else None
    if rule is None:
        return Refusal(f"{label(node)} before it takes no affine in")
    return rule(node, affine, ctx)


def _law(node: ir.Node, affine: Affine, ctx: Context) -> Outcome:
    source, target = dims(node.inputs[0]), dims(node.outputs[0])
    if source is None or target is None or node.inputs[0] is None:
        return Refusal(f"the rank at {label(node)} is not known")
    if len(target) < len(source):
        dropped = laws.reduced_axes(node, len(source)) or frozenset()
        affine = affine.move(lambda array: np.expand_dims(array, tuple(dropped)))
    refusal = laws.check(node, affine, len(source))
    return refusal or Step(f"past {label(node)}", onward=((node.inputs[0], affine),))


def _movement(node: ir.Node, affine: Affine, ctx: Context) -> Outcome:
    source = node.inputs[0]
    moving = movement.backward_movement(node)
    if isinstance(moving, Refusal) or source is None:
        return moving if isinstance(moving, Refusal) else Refusal("an input is missing")
    moved = movement.move(affine, moving, dims(source) or ())
    return moved if isinstance(moved, Refusal) else Step(f"past {label(node)}", onward=((source, moved),))


def _concat(node: ir.Node, affine: Affine, ctx: Context) -> Outcome:
    """Each operand is given its slice.

    1. The size of every operand along the axis is known.
    2. No operand is read twice.
    """
    inputs = [value for value in node.inputs if value is not None]
    axis = node.attributes["axis"].as_int() % affine.rank
    shapes = [dims(value) for value in inputs]
    sizes = [shape[axis] if shape is not None else None for shape in shapes]
    if axis == 0 or len(set(inputs)) < len(inputs) or any(size is None for size in sizes):
        return Refusal("a size at Concat is not known, or an operand is read twice")
    onward, start = [], 0
    for value, size in zip(inputs, sizes, strict=True):
        place = (slice(None),) * axis + (slice(start, start + (size or 0)),)
        start += size or 0
        varies = axis in affine.axes
        part = Affine(affine.scale[place], affine.shift[place]).compressed() if varies else affine
        onward.append((value, part))
    return Step(f"past {label(node)}", onward=tuple(onward))


def _sum(node: ir.Node, affine: Affine, ctx: Context) -> Outcome:
    """Takes s (x + y) + t = (s x + t) + s y apart.

    1. Both operands are tensors of the output's own shape: a broadcast operand could not take the scale.
    2. No operand is read twice.
    """
    first, second = node.inputs
    shapes = [dims(value) for value in (first, second, node.outputs[0])]
    same = shapes[0] is not None and shapes[0] == shapes[1] == shapes[2] and None not in shapes[0][1:]
    if first is None or second is None or first is second or not same:
        return Refusal(f"the operands of {label(node)} differ in shape")
    scale_only = Affine(affine.scale, np.zeros_like(affine.shift))
    return Step(f"past {label(node)}", onward=((first, affine), (second, scale_only)))


RULES: dict[str, BackwardRule] = {
    **dict.fromkeys(laws.LAWS, _law),
    **dict.fromkeys(movement.MOVEMENTS, _movement),
    "Add": _sum,
    "Concat": _concat,
    "Conv": linear.conv_backward,
    "ConvTranspose": linear.deconv_backward,
    "Gemm": linear.gemm_backward,
    "MatMul": linear.matmul_backward,
    "Sub": _sum,
}
