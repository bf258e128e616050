"""A shift past zero padding: one more channel, constantly one, carries it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from bnfold.affine import Affine
from bnfold.context import Pending, pending
from bnfold.graph import dims, float_constant, is_op, sole_use, uses
from bnfold.passes.base import FoldPass
from bnfold.rules.base import label
from bnfold.rules.laws import check, padded_axes, pads_zero
from bnfold.rules.linear import write

KEEP_ONE = ("Relu", "LeakyRelu", "MaxPool", "GlobalMaxPool", "AveragePool", "GlobalAveragePool", "Resize")
"""Operators that work channel by channel and make a one of ones."""


class OnesChannel(FoldPass):
    """Lets the convolution before emit a channel of ones, whose weights in the convolution behind carry the shift.

    A padded convolution (or a transposed one) of scale * x + shift is that of scale * x, plus the shift's own response,
    which depends on how much of the kernel lies inside the data. A channel of ones is padded with the same zeros, so
    the kernel sum over i of W[o, i] shift[i] on it gives exactly that response.

    1. The affine varies along the channel axis alone and has one reader: Conv or ConvTranspose with constant weights
       and one group, perhaps behind a Pad that writes zeros along the spatial axes.
    2. Before it, operators that keep a channel of ones (`KEEP_ONE`) lead back to a Conv or ConvTranspose with constant
       weights and one group. Nobody else reads what is on the way.
    3. The target allows it: an odd number of channels leaves ONNX Runtime's blocks of 16.
    """

    def _rewrite(self, graph: ir.Graph) -> bool:
        modified = False
        for node in tuple(graph):
            what = pending(node)
            if what is not None and what.affine.shifts and self._ctx.target.ones_channel:
                modified |= self._carry(graph, node, what)
        return modified

    def _carry(self, graph: ir.Graph, node: ir.Node, what: Pending) -> bool:
        ahead, behind = _ahead(node), _behind(node)
        if ahead is None or behind is None:
            return False
        (source, *before), (*pads, reader) = ahead, behind
        weight, target = float_constant(source.inputs[1]), float_constant(reader.inputs[1])
        bias = float_constant(source.inputs[2]) if len(source.inputs) > 2 and source.inputs[2] is not None else None
        if weight is None or target is None or (bias is None and len(source.inputs) > 2):
            return False
        out_axis = 0 if source.op_type == "Conv" else 1
        in_axis = 1 if reader.op_type == "Conv" else 0
        vectors = what.affine.vectors(1, target.shape[in_axis])
        if vectors is None or weight.shape[out_axis] != target.shape[in_axis]:
            return False
        wide = [-1 if axis == in_axis else 1 for axis in range(target.ndim)]
        scale, shift = (vector.reshape(wide) for vector in vectors)
        response = (target * shift).sum(axis=in_axis, keepdims=True)
        nothing = np.zeros([1 if axis == out_axis else size for axis, size in enumerate(weight.shape)])
        channels = weight.shape[out_axis]
        write(source, self._ctx, 1, np.concatenate([weight, nothing], axis=out_axis))
        write(source, self._ctx, 2, np.append(np.zeros(channels) if bias is None else bias, 1.0))
        write(reader, self._ctx, 1, np.concatenate([target * scale, response], axis=in_axis))
        ledger, carrier = self._ctx.ledger, node.inputs[0]
        assert carrier is not None
        for operator in (source, *before, *pads):
            _widen(operator.outputs[0])
            ledger.widened(operator.outputs[0])
        for pad in pads:
            ledger.lost(pad.outputs[0], "it is seen only before the padding")
        ledger.replaced(node.outputs[0], carrier, what.affine)
        ledger.moved(what.origins, f"shift on a channel of ones from {label(source)}")
        ledger.absorbed(what.origins, reader, f"forward into {label(reader)}")
        uses(node.outputs[0])[0].node.replace_input_with(0, carrier)
        graph.remove(node, safe=True)
        return True


def _behind(node: ir.Node) -> list[ir.Node] | None:
    """The Pads and the weights that read the affine, in order."""
    found: list[ir.Node] = []
    value = node.outputs[0]
    while (use := sole_use(value)) is not None and use.index == 0:
        found.append(use.node)
        shape = dims(value)
        if is_op(use.node, "Conv", "ConvTranspose"):
            return found if use.node.attributes.get_int("group", 1) == 1 else None
        if not is_op(use.node, "Pad") or shape is None or not pads_zero(use.node):
            return None
        if (padded_axes(use.node, len(shape)) or frozenset({0})) & {0, 1}:
            return None
        value = use.node.outputs[0]
    return None


def _ahead(node: ir.Node) -> list[ir.Node] | None:
    """The weights and the operators from them to the affine, in order."""
    found: list[ir.Node] = []
    value = node.inputs[0]
    while value is not None and sole_use(value) is not None:
        producer, shape = value.producer(), dims(value)
        if producer is None or shape is None:
            return None
        found.insert(0, producer)
        if is_op(producer, "Conv", "ConvTranspose"):
            return found if producer.attributes.get_int("group", 1) == 1 else None
        if not is_op(producer, *KEEP_ONE):
            return None
        # What lets every shift through makes ones of ones; the activations among them do so by relu(1) = 1.
        lift = Affine(np.ones((1,) * len(shape)), 1.0)
        if not is_op(producer, "Relu", "LeakyRelu") and check(producer, lift, len(shape)) is not None:
            return None
        value = producer.inputs[0]
    return None


def _widen(value: ir.Value) -> None:
    shape = value.shape
    if shape is not None and isinstance(shape[1], int):
        value.shape = ir.Shape([*shape.dims[:1], shape[1] + 1, *shape.dims[2:]])
