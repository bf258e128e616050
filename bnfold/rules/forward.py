"""What becomes of an operator's outputs when one of its inputs lacks an affine.

True input = scale * stored + shift. A rule says which affine the outputs then lack, or that the weights absorb it.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from bnfold.affine import Affine
from bnfold.context import Context
from bnfold.graph import dims
from bnfold.rules import laws, linear, movement
from bnfold.rules.base import ForwardRule, Outcome, Refusal, Step, label


def forward(node: ir.Node, index: int, affine: Affine, ctx: Context) -> Outcome:
    """Applies the operator's rule to an affine that input `index` lacks."""
    rule = RULES.get(node.op_type) if node.domain == "" else None
    if rule is None:
        return Refusal(f"{label(node)} lets no affine through")
    if sum(value is node.inputs[index] for value in node.inputs) > 1:
        return Refusal(f"{label(node)} reads the tensor twice")
    return rule(node, index, affine, ctx)


def _law(node: ir.Node, index: int, affine: Affine, ctx: Context) -> Outcome:
    source, target = dims(node.inputs[0]), dims(node.outputs[0])
    if index != 0 or source is None or target is None:
        return Refusal(f"the rank at {label(node)} is not known")
    refusal = laws.check(node, affine, len(source))
    if refusal is not None:
        return refusal
    if len(target) < len(source):
        dropped = laws.reduced_axes(node, len(source)) or frozenset()
        affine = affine.move(lambda array: array.squeeze(tuple(dropped)))
    return Step(f"past {label(node)}", onward=((node.outputs[0], affine),))


def _movement(node: ir.Node, index: int, affine: Affine, ctx: Context) -> Outcome:
    if index != 0:
        return Refusal(f"{label(node)} reads the tensor as a parameter")
    moving = movement.forward_movement(node)
    if isinstance(moving, Refusal):
        return moving
    moved = movement.move(affine, moving, dims(node.outputs[0]) or ())
    return moved if isinstance(moved, Refusal) else Step(f"past {label(node)}", onward=((node.outputs[0], moved),))


def _shape(node: ir.Node, index: int, affine: Affine, ctx: Context) -> Outcome:
    return Step(f"past {label(node)}")


def _concat(node: ir.Node, index: int, affine: Affine, ctx: Context) -> Outcome:
    """The other operands lack nothing: identity slices stand for them.

    1. The size of every operand along the axis is known.
    """
    shapes = [dims(value) for value in node.inputs]
    if any(shape is None for shape in shapes):
        return Refusal("a shape at Concat is not known")
    axis = node.attributes["axis"].as_int() % affine.rank
    sizes = [shape[axis] for shape in shapes if shape is not None]
    if axis == 0 or any(size is None for size in sizes):
        return Refusal("a size at Concat is not known")
    wide = list(affine.scale.shape)
    wide[axis] = sum(size or 0 for size in sizes)
    scale, shift = np.ones(wide), np.zeros(wide)
    start = sum(size or 0 for size in sizes[:index])
    place = (slice(None),) * axis + (slice(start, start + (sizes[index] or 0)),)
    scale[place], shift[place] = affine.scale, affine.shift
    return Step(f"past {label(node)}", onward=((node.outputs[0], Affine(scale, shift).compressed()),))


def _sum(node: ir.Node, index: int, affine: Affine, ctx: Context) -> Outcome:
    """A shift passes an addition or subtraction of two tensors: (x + t) + y = (x + y) + t.

    1. There is no scale.
    2. The ranks are known, and the output has the rank of this operand.
    """
    if affine.scales:
        return Refusal(f"a scale passes {label(node)} only if every operand lacks it")
    if len(dims(node.outputs[0]) or ()) != affine.rank:
        return Refusal(f"{label(node)} broadcasts the tensor")
    sign = -1.0 if node.op_type == "Sub" and index == 1 else 1.0
    return Step(f"past {label(node)}", onward=((node.outputs[0], Affine(affine.scale, sign * affine.shift)),))


def _product(node: ir.Node, index: int, affine: Affine, ctx: Context) -> Outcome:
    """(s x) y = s (x y): a scale passes a product of two tensors, and a quotient as its numerator.

    1. There is no shift.
    2. The ranks are known, and the output has the rank of this operand.
    """
    if affine.shifts or (node.op_type == "Div" and index == 1):
        return Refusal(f"only a scale passes {label(node)}")
    if len(dims(node.outputs[0]) or ()) != affine.rank:
        return Refusal(f"{label(node)} broadcasts the tensor")
    return Step(f"past {label(node)}", onward=((node.outputs[0], affine),))


RULES: dict[str, ForwardRule] = {
    **dict.fromkeys(laws.LAWS, _law),
    **dict.fromkeys(movement.MOVEMENTS, _movement),
    "Add": _sum,
    "Concat": _concat,
    "Conv": linear.conv_forward,
    "ConvTranspose": linear.deconv_forward,
    "Div": _product,
    "Gemm": linear.gemm_forward,
    "MatMul": linear.matmul_forward,
    "Mul": _product,
    "Shape": _shape,
    "Size": _shape,
    "Sub": _sum,
}
