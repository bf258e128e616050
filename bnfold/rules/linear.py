"""Operators whose weights absorb an affine: Conv, ConvTranspose, Gemm and MatMul.

The arithmetic is done in float64 and rounded once. Weights are never changed in place: each edit registers new
initializers, so that weights shared with another operator stay as they are for it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from bnfold.affine import Affine, Array
from bnfold.context import Context
from bnfold.graph import EXACT, add_constant, dims, float_constant, set_constant
from bnfold.rules.base import Outcome, Refusal, Step, label

NOT_CONSTANT = "its weights are not constant"
OTHER_AXIS = "the map varies along an axis other than the channel"


def _operand(node: ir.Node, index: int) -> ir.Value | None:
    return node.inputs[index] if len(node.inputs) > index else None


def _bias(node: ir.Node) -> Array | Refusal | None:
    value = _operand(node, 2)
    if value is None:
        return None
    array = float_constant(value)
    return Refusal("its bias is not constant") if array is None else array


def write(node: ir.Node, ctx: Context, index: int, array: npt.NDArray[Any]) -> None:
    """Gives an operator new weights (index 1) or a new bias (index 2), rounded once to the weights' type."""
    weight = node.inputs[1]
    assert weight is not None
    assert weight.dtype is not None
    assert isinstance(node.graph, ir.Graph)
    old = _operand(node, index)
    if old is not None and EXACT in old.meta and len(old.uses()) == 1:  # written by an earlier fold, for this node
        set_constant(old, array, weight.dtype)
        return
    base = f"{old.name}_folded" if old is not None else f"{node.name}_bias"
    if len(node.inputs) <= index:
        node.resize_inputs(index + 1)
    node.replace_input_with(index, add_constant(node.graph, ctx.names, base, array, weight.dtype))


def has_padding(node: ir.Node) -> bool:
    """Whether a Conv may read padded zeros: `auto_pad` is tested as well as `pads`."""
    auto = node.attributes.get_string("auto_pad", "NOTSET")
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        weight = dims(node.inputs[1])
        unit_kernel = weight is not None and all(size == 1 for size in weight[2:])
        return not (unit_kernel and all(s == 1 for s in node.attributes.get_ints("strides", ())))
    return auto != "VALID" and any(node.attributes.get_ints("pads", ()))


def conv_forward(node: ir.Node, index: int, affine: Affine, ctx: Context) -> Outcome:
    """W[:, i] *= s[i] and b[o] += sum over i, k of W[o, i, k] t[i]; i is local to its group.

    1. The affine is on the data input.
    2. Weights and bias are constant.
    3. The map varies along the channel axis alone.
    4. A shift needs a convolution that reads no padded zero.
    """
    if index != 0:
        return Refusal("it reads the tensor as weights")
    weight, bias = float_constant(node.inputs[1]), _bias(node)
    if weight is None or isinstance(bias, Refusal):
        return Refusal(NOT_CONSTANT)
    group = node.attributes.get_int("group", 1)
    vectors = affine.vectors(1, weight.shape[1] * group)
    if vectors is None:
        return Refusal(OTHER_AXIS)
    if affine.shifts and has_padding(node):
        return Refusal("a shift does not pass the zero padding of a convolution")
    scale, shift = (np.repeat(v.reshape(group, -1), weight.shape[0] // group, axis=0) for v in vectors)
    spatial = (1,) * (weight.ndim - 2)
    new_weight = weight * scale.reshape(*scale.shape, *spatial)
    added = (weight.sum(axis=tuple(range(2, weight.ndim))) * shift).sum(axis=1)

    def edit() -> None:
        write(node, ctx, 1, new_weight)
        if affine.shifts:
            write(node, ctx, 2, added if bias is None else bias + added)

    return Step(f"forward into {label(node)}", edit=edit, absorbs=True)


def conv_backward(node: ir.Node, affine: Affine, ctx: Context) -> Outcome:
    """W[o] *= s[o] and b = s b + t, whatever the padding, stride, dilation or groups.

    1. Weights and bias are constant.
    2. The map varies along the channel axis alone.
    """
    weight, bias = float_constant(node.inputs[1]), _bias(node)
    if weight is None or isinstance(bias, Refusal):
        return Refusal(NOT_CONSTANT)
    vectors = affine.vectors(1, weight.shape[0])
    if vectors is None:
        return Refusal(OTHER_AXIS)
    scale, shift = vectors
    new_bias = shift if bias is None else scale * bias + shift

    def edit() -> None:
        write(node, ctx, 1, weight * scale.reshape(-1, *(1,) * (weight.ndim - 1)))
        if bias is not None or affine.shifts:
            write(node, ctx, 2, new_bias)

    return Step(f"backward into {label(node)}", edit=edit, absorbs=True)


def deconv_forward(node: ir.Node, index: int, affine: Affine, ctx: Context) -> Outcome:
    """W[i] *= s[i].

    1. The affine is on the data input.
    2. Weights are constant.
    3. The map varies along the channel axis alone.
    4. There is no shift: its effect would depend on the place in the output.
    """
    if index != 0:
        return Refusal("it reads the tensor as weights")
    weight = float_constant(node.inputs[1])
    if weight is None:
        return Refusal(NOT_CONSTANT)
    vectors = affine.vectors(1, weight.shape[0])
    if vectors is None:
        return Refusal(OTHER_AXIS)
    if affine.shifts:
        return Refusal("a shift through a transposed convolution depends on the place in the output")
    new_weight = weight * vectors[0].reshape(-1, *(1,) * (weight.ndim - 1))
    return Step(f"forward into {label(node)}", edit=lambda: write(node, ctx, 1, new_weight), absorbs=True)


def deconv_backward(node: ir.Node, affine: Affine, ctx: Context) -> Outcome:
    """W[i, o] *= s[o] with the output channels of each group on weight axis 1, and b = s b + t.

    1. Weights and bias are constant.
    2. The map varies along the channel axis alone.
    """
    weight, bias = float_constant(node.inputs[1]), _bias(node)
    if weight is None or isinstance(bias, Refusal):
        return Refusal(NOT_CONSTANT)
    group = node.attributes.get_int("group", 1)
    vectors = affine.vectors(1, weight.shape[1] * group)
    if vectors is None:
        return Refusal(OTHER_AXIS)
    scale, shift = vectors
    rows = np.repeat(scale.reshape(group, -1), weight.shape[0] // group, axis=0)
    new_bias = shift if bias is None else scale * bias + shift

    def edit() -> None:
        write(node, ctx, 1, weight * rows.reshape(*rows.shape, *(1,) * (weight.ndim - 2)))
        if bias is not None or affine.shifts:
            write(node, ctx, 2, new_bias)

    return Step(f"backward into {label(node)}", edit=edit, absorbs=True)


def _gemm(node: ir.Node) -> tuple[Array, Array] | Refusal:
    """Weights as [K, N] with alpha, and bias as [N] with beta, or why not."""
    if node.attributes.get_int("transA", 0):
        return Refusal("Gemm transposes its data")
    weight, bias = float_constant(node.inputs[1]), _bias(node)
    if weight is None or isinstance(bias, Refusal):
        return Refusal(NOT_CONSTANT)
    weight = node.attributes.get_float("alpha", 1.0) * (weight.T if node.attributes.get_int("transB", 0) else weight)
    width = weight.shape[1]
    if bias is None:
        return weight, np.zeros(width)
    if any(size != 1 for size in bias.shape[:-1]):
        return Refusal("the bias of Gemm varies along the batch")
    return weight, node.attributes.get_float("beta", 1.0) * np.broadcast_to(bias.reshape(-1), (width,))


def _write_gemm(node: ir.Node, ctx: Context, weight: Array, bias: Array) -> None:
    write(node, ctx, 1, weight.T if node.attributes.get_int("transB", 0) else weight)
    if bias.any() or _operand(node, 2) is not None:
        write(node, ctx, 2, bias)
    for attribute in ("alpha", "beta"):
        node.attributes.pop(attribute, None)


def gemm_forward(node: ir.Node, index: int, affine: Affine, ctx: Context) -> Outcome:
    """W[k] *= s[k] and b += sum over k of W[k] t[k]; alpha and beta are multiplied in first.

    1. The affine is on the data input, which Gemm does not transpose.
    2. Weights and bias are constant, and the bias is the same for every row.
    3. The map varies along the columns alone.
    """
    if index != 0:
        return Refusal("it reads the tensor as weights")
    operands = _gemm(node)
    if isinstance(operands, Refusal):
        return operands
    weight, bias = operands
    vectors = affine.vectors(1, weight.shape[0])
    if vectors is None:
        return Refusal(OTHER_AXIS)
    scale, shift = vectors
    return Step(
        f"forward into {label(node)}",
        edit=lambda: _write_gemm(node, ctx, scale[:, None] * weight, bias + shift @ weight),
        absorbs=True,
    )


def gemm_backward(node: ir.Node, affine: Affine, ctx: Context) -> Outcome:
    """W[:, n] *= s[n] and b = s b + t; alpha and beta are multiplied in first.

    1. Weights and bias are constant, and the bias is the same for every row.
    2. The map varies along the columns alone.
    """
    operands = _gemm(node)
    if isinstance(operands, Refusal):
        return operands
    weight, bias = operands
    vectors = affine.vectors(1, weight.shape[1])
    if vectors is None:
        return Refusal(OTHER_AXIS)
    scale, shift = vectors
    return Step(
        f"backward into {label(node)}",
        edit=lambda: _write_gemm(node, ctx, weight * scale, scale * bias + shift),
        absorbs=True,
    )


def _matmul(node: ir.Node) -> tuple[Array, int] | Refusal:
    weight, shape = float_constant(node.inputs[1]), dims(node.inputs[0])
    if weight is None:
        return Refusal(NOT_CONSTANT)
    if weight.ndim != 2 or shape is None or len(shape) < 2:
        return Refusal("the weights of MatMul are no matrix")
    return weight, len(shape)


def matmul_forward(node: ir.Node, index: int, affine: Affine, ctx: Context) -> Outcome:
    """W[k] *= s[k]; the sum over k of W[k] t[k] goes on as a shift of the output.

    1. The affine is on the data input; the weights are a constant matrix.
    2. The map varies along the last axis alone.
    """
    if index != 0:
        return Refusal("it reads the tensor as weights")
    operands = _matmul(node)
    if isinstance(operands, Refusal):
        return operands
    weight, rank = operands
    vectors = affine.vectors(rank - 1, weight.shape[0])
    if vectors is None:
        return Refusal(OTHER_AXIS)
    scale, shift = vectors
    onward = Affine(np.ones((1,) * rank), (shift @ weight).reshape((1,) * (rank - 1) + (-1,))).compressed()
    return Step(
        f"forward into {label(node)}",
        onward=((node.outputs[0], onward),) if onward.shifts else (),
        edit=lambda: write(node, ctx, 1, scale[:, None] * weight),
        absorbs=True,
    )


def matmul_backward(node: ir.Node, affine: Affine, ctx: Context) -> Outcome:
    """W[:, n] *= s[n]; a shift stays behind as the bias that MatMul does not have.

    1. The weights are a constant matrix.
    2. The map varies along the last axis alone.
    3. There is a scale to absorb.
    """
    operands = _matmul(node)
    if isinstance(operands, Refusal):
        return operands
    weight, rank = operands
    vectors = affine.vectors(rank - 1, weight.shape[1])
    if vectors is None:
        return Refusal(OTHER_AXIS)
    if not affine.scales:
        return Refusal("MatMul has no bias to take a shift")
    return Step(
        f"backward into {label(node)}",
        edit=lambda: write(node, ctx, 1, weight * vectors[0]),
        absorbs=True,
        remainder=Affine(np.ones_like(affine.scale), affine.shift) if affine.shifts else None,
    )
