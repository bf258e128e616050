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
from bnfold.graph import add_lazy_constant, constant_shape, dims, float_constant, set_lazy_constant
from bnfold.rules.base import Outcome, Refusal, Step, label
from bnfold.weights import EXACT, Values, by_rows, combined, exact, rows_of, scaled

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
    rewrite(node, ctx, index, lambda: rows_of(array), array.shape)


def rewrite(node: ir.Node, ctx: Context, index: int, values: Values, shape: tuple[int, ...]) -> None:
    """The same with values that are worked out when they are read."""
    weight = node.inputs[1]
    assert weight is not None
    assert weight.dtype is not None
    assert isinstance(node.graph, ir.Graph)
    old = _operand(node, index)
    if old is not None and EXACT in old.meta and len(old.uses()) == 1:  # written by an earlier fold, for this node
        set_lazy_constant(old, values, shape, weight.dtype)
        return
    base = f"{old.name}_folded" if old is not None else f"{node.name}_bias"
    if len(node.inputs) <= index:
        node.resize_inputs(index + 1)
    new = add_lazy_constant(node.graph, ctx.names.fresh(base), values, shape, weight.dtype)
    node.replace_input_with(index, new)


def _weights(node: ir.Node) -> Values:
    weight = node.inputs[1]
    assert weight is not None
    return exact(weight)


def scale_weights(node: ir.Node, ctx: Context, factor: Array) -> None:
    """Multiplies the weights by something that broadcasts to their shape."""
    shape = constant_shape(node.inputs[1])
    assert shape is not None
    rewrite(node, ctx, 1, scaled(_weights(node), factor, len(shape)), shape)


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
    shape, bias = constant_shape(node.inputs[1]), _bias(node)
    if shape is None or isinstance(bias, Refusal):
        return Refusal(NOT_CONSTANT)
    group = node.attributes.get_int("group", 1)
    vectors = affine.vectors(1, shape[1] * group)
    if vectors is None:
        return Refusal(OTHER_AXIS)
    if affine.shifts and has_padding(node):
        return Refusal("a shift does not pass the zero padding of a convolution")
    repeats = shape[0] // group if group > 1 else 1  # One row serves all where there is one group.
    scale, shift = (np.repeat(v.reshape(group, -1), repeats, axis=0) for v in vectors)

    def response(weights: Array, place: slice) -> Array:
        of_each = shift[place] if group > 1 else shift
        return np.asarray((weights.sum(axis=tuple(range(2, len(shape)))) * of_each).sum(axis=1))

    def edit() -> None:
        if affine.shifts:
            added = by_rows(_weights(node), shape, response)
            write(node, ctx, 2, added if bias is None else bias + added)
        scale_weights(node, ctx, scale.reshape(*scale.shape, *(1,) * (len(shape) - 2)))

    return Step(f"forward into {label(node)}", edit=edit, absorbs=True)


def conv_backward(node: ir.Node, affine: Affine, ctx: Context) -> Outcome:
    """W[o] *= s[o] and b = s b + t, whatever the padding, stride, dilation or groups.

    1. Weights and bias are constant.
    2. The map varies along the channel axis alone.
    """
    shape, bias = constant_shape(node.inputs[1]), _bias(node)
    if shape is None or isinstance(bias, Refusal):
        return Refusal(NOT_CONSTANT)
    vectors = affine.vectors(1, shape[0])
    if vectors is None:
        return Refusal(OTHER_AXIS)
    scale, shift = vectors
    new_bias = shift if bias is None else scale * bias + shift

    def edit() -> None:
        scale_weights(node, ctx, scale.reshape(-1, *(1,) * (len(shape) - 1)))
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
    shape = constant_shape(node.inputs[1])
    if shape is None:
        return Refusal(NOT_CONSTANT)
    vectors = affine.vectors(1, shape[0])
    if vectors is None:
        return Refusal(OTHER_AXIS)
    if affine.shifts:
        return Refusal("a shift through a transposed convolution depends on the place in the output")
    rows = vectors[0].reshape(-1, *(1,) * (len(shape) - 1))
    return Step(f"forward into {label(node)}", edit=lambda: scale_weights(node, ctx, rows), absorbs=True)


def deconv_backward(node: ir.Node, affine: Affine, ctx: Context) -> Outcome:
    """W[i, o] *= s[o] with the output channels of each group on weight axis 1, and b = s b + t.

    1. Weights and bias are constant.
    2. The map varies along the channel axis alone.
    """
    shape, bias = constant_shape(node.inputs[1]), _bias(node)
    if shape is None or isinstance(bias, Refusal):
        return Refusal(NOT_CONSTANT)
    group = node.attributes.get_int("group", 1)
    vectors = affine.vectors(1, shape[1] * group)
    if vectors is None:
        return Refusal(OTHER_AXIS)
    scale, shift = vectors
    rows = np.repeat(scale.reshape(group, -1), shape[0] // group, axis=0)
    new_bias = shift if bias is None else scale * bias + shift

    def edit() -> None:
        scale_weights(node, ctx, rows.reshape(*rows.shape, *(1,) * (len(shape) - 2)))
        if bias is not None or affine.shifts:
            write(node, ctx, 2, new_bias)

    return Step(f"backward into {label(node)}", edit=edit, absorbs=True)


def _product(node: ir.Node, row: Array) -> Array:
    """A row of K entries, times the weights as [K, N]."""
    shape = constant_shape(node.inputs[1])
    assert shape is not None
    if node.attributes.get_int("transB", 0):
        return by_rows(_weights(node), shape, lambda weights, _: np.asarray(weights @ row))
    return combined(_weights(node), shape, row)


def _gemm(node: ir.Node) -> tuple[int, int, Array] | Refusal:
    """Rows K, columns N, and the bias as [N] with beta; or why not."""
    if node.attributes.get_int("transA", 0):
        return Refusal("Gemm transposes its data")
    shape, bias = constant_shape(node.inputs[1]), _bias(node)
    if shape is None or isinstance(bias, Refusal):
        return Refusal(NOT_CONSTANT)
    rows, columns = reversed(shape) if node.attributes.get_int("transB", 0) else shape
    if bias is None:
        return rows, columns, np.zeros(columns)
    if any(size != 1 for size in bias.shape[:-1]):
        return Refusal("the bias of Gemm varies along the batch")
    return rows, columns, node.attributes.get_float("beta", 1.0) * np.broadcast_to(bias.reshape(-1), (columns,))


def _write_gemm(node: ir.Node, ctx: Context, factor: Array, bias: Array) -> None:
    """Multiplies the weights, as [K, N], by a factor and by alpha."""
    alpha = node.attributes.get_float("alpha", 1.0)
    scale_weights(node, ctx, alpha * (factor.T if node.attributes.get_int("transB", 0) else factor))
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
    rows, _, bias = operands
    vectors = affine.vectors(1, rows)
    if vectors is None:
        return Refusal(OTHER_AXIS)
    scale, shift = vectors

    def edit() -> None:
        added = bias
        if affine.shifts:
            added = bias + node.attributes.get_float("alpha", 1.0) * _product(node, shift)
        _write_gemm(node, ctx, scale[:, None], added)

    return Step(f"forward into {label(node)}", edit=edit, absorbs=True)


def gemm_backward(node: ir.Node, affine: Affine, ctx: Context) -> Outcome:
    """W[:, n] *= s[n] and b = s b + t; alpha and beta are multiplied in first.

    1. Weights and bias are constant, and the bias is the same for every row.
    2. The map varies along the columns alone.
    """
    operands = _gemm(node)
    if isinstance(operands, Refusal):
        return operands
    _, columns, bias = operands
    vectors = affine.vectors(1, columns)
    if vectors is None:
        return Refusal(OTHER_AXIS)
    scale, shift = vectors
    return Step(
        f"backward into {label(node)}",
        edit=lambda: _write_gemm(node, ctx, scale[None, :], scale * bias + shift),
        absorbs=True,
    )


def _matmul(node: ir.Node) -> tuple[int, int, int] | Refusal:
    """Rows and columns of the weights, and the rank of the data; or why not."""
    weight, shape = constant_shape(node.inputs[1]), dims(node.inputs[0])
    if weight is None:
        return Refusal(NOT_CONSTANT)
    if len(weight) != 2 or shape is None or len(shape) < 2:
        return Refusal("the weights of MatMul are no matrix")
    return *weight, len(shape)


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
    rows, _, rank = operands
    vectors = affine.vectors(rank - 1, rows)
    if vectors is None:
        return Refusal(OTHER_AXIS)
    scale, shift = vectors
    onward = Affine(np.ones((1,) * rank), _product(node, shift).reshape((1,) * (rank - 1) + (-1,))).compressed()
    return Step(
        f"forward into {label(node)}",
        onward=((node.outputs[0], onward),) if onward.shifts else (),
        edit=lambda: scale_weights(node, ctx, scale[:, None]),
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
    _, columns, rank = operands
    vectors = affine.vectors(rank - 1, columns)
    if vectors is None:
        return Refusal(OTHER_AXIS)
    if not affine.scales:
        return Refusal("MatMul has no bias to take a shift")
    return Step(
        f"backward into {label(node)}",
        edit=lambda: scale_weights(node, ctx, vectors[0]),
        absorbs=True,
        remainder=Affine(np.ones_like(affine.scale), affine.shift) if affine.shifts else None,
    )
