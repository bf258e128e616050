"""Cuts the input of a network to what its pools and convolutions read."""

from __future__ import annotations

from collections.abc import Iterator
from math import isinf
from operator import gt
from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from bnfold.graph import add_constant, constant_shape, dims, is_op, sole_use
from bnfold.passes.base import FoldPass
from bnfold.rules.base import label

POINTWISE = ("Relu", "LeakyRelu", "Clip", "Sigmoid", "Tanh", "Elu", "Selu", "Softplus", "HardSigmoid", "HardSwish")
ARITHMETIC = ("Mul", "Add", "Sub", "Div")
WINDOWED = ("Conv", "MaxPool", "AveragePool")

Sizes = tuple[int, ...]
"""Along the axes of space."""


class Cut(NamedTuple):
    """A way up from an operator that leaves some of its input unread."""

    reader: ir.Node
    """Reads the tensor that is cut."""
    sizes: Sizes
    """What is left of that tensor."""
    shrunk: tuple[tuple[ir.Value, Sizes], ...]
    """Tensors behind the cut, and what is left of them."""
    saved: int
    """Multiplications and additions per example."""


class CropUnread(FoldPass):
    """Puts a Slice at the entrance of the network, so that no place is computed that nothing reads.

    A pool of 2 by 2 reads 10 by 10 of 11 by 11 places: the last row and column of all convolutions before it are
    computed in vain. What is left is computed as before, bit for bit.

    1. Only the end of an axis is cut, of operators with windows of known sizes that read no padding.
    2. On the way up to the cut every tensor is read by one operator and is no output of the graph.
    3. No convolution, matrix product or pool stands before the cut: in the midst of ONNX Runtime's blocked layout a
       Slice would cost more than it saves.
    4. It saves as many multiplications as the target asks for.
    """

    def _rewrite(self, graph: ir.Graph) -> bool:
        if isinf(self._ctx.target.least_saving):
            return False
        modified = False
        for node in reversed(tuple(graph)):  # The last one first: its way up has the others on it.
            cut = _way_up(node)
            if cut is not None and cut.saved >= self._ctx.target.least_saving:
                self._cut(graph, cut)
                modified = True
        return modified

    def _cut(self, graph: ir.Graph, cut: Cut) -> None:
        source, ctx = _data(cut.reader), self._ctx
        assert source is not None
        axes = np.arange(2, 2 + len(cut.sizes))
        name = ctx.names.fresh(f"{cut.reader.name}/crop")
        vectors = {"starts": np.zeros_like(axes), "ends": np.array(cut.sizes), "axes": axes}
        operands = [
            add_constant(graph, ctx.names, f"{name}/{key}", vector, ir.DataType.INT64)
            for key, vector in vectors.items()
        ]
        node = ir.node("Slice", [source, *operands], name=name)
        result = node.outputs[0]
        result.name, result.type, result.shape = ctx.names.fresh(f"{name}:0"), source.type, _cropped(source, cut.sizes)
        graph.insert_before(cut.reader, node)
        cut.reader.replace_input_with(cut.reader.inputs.index(source), result)
        before = (dims(source) or ())[2:]
        for value, sizes in cut.shrunk:
            value.shape = _cropped(value, sizes)
            ctx.ledger.lost(value, "only what a pool reads of it is computed")
        ctx.ledger.notes.append(
            f"{label(cut.reader)} gets {_times(cut.sizes)} of {_times(before)}: the rest is read by no pool"
        )


def _way_up(node: ir.Node) -> Cut | None:
    """Where to cut for an operator that leaves some of its input unread; None if there is nothing to cut."""
    window, out = _window(node), _space(node.outputs[0])
    if window is None or out is None:
        return None
    needed = _read(window, out)
    saved, shrunk = 0, list[tuple[ir.Value, Sizes]]()
    while True:
        source = _data(node)
        size = _space(source)
        if source is None or size is None or needed == size or any(map(gt, needed, size)):  # `ceil_mode` reads past it
            return None
        producer = source.producer()
        window = _window(producer) if producer is not None else None
        if producer is None or window is None or sole_use(source) is None:
            entrance = not any(is_op(other, *WINDOWED, "ConvTranspose", "Gemm", "MatMul") for other in _before(source))
            return Cut(node, needed, tuple(shrunk), saved) if entrance and shrunk else None
        shrunk.append((source, needed))
        weight = dims(producer.inputs[1]) if is_op(producer, "Conv") else None
        if weight is not None:
            saved += int(np.prod([d or 0 for d in weight]) * (np.prod(size) - np.prod(needed)))
        needed = _read(window, needed)
        node = producer


def _window(node: ir.Node) -> tuple[tuple[int, int], ...] | None:
    """Extent and stride of an operator's window along every axis of space; None if it has none, or reads padding."""
    rank = len(dims(node.outputs[0]) or ())
    if rank < 3 or any(output.uses() or output.is_graph_output() for output in node.outputs[1:]):
        return None
    if is_op(node, *POINTWISE) or (is_op(node, *ARITHMETIC) and _data(node) is not None):
        return ((1, 1),) * (rank - 2)
    if not is_op(node, *WINDOWED):
        return None
    attributes, weight = node.attributes, dims(node.inputs[1]) if is_op(node, "Conv") else None
    kernel = weight[2:] if weight is not None else attributes.get_ints("kernel_shape", ())
    padded = any(attributes.get_ints("pads", ())) or attributes.get_string("auto_pad", "NOTSET") not in (
        "NOTSET",
        "VALID",
    )
    if padded or None in kernel or len(kernel) != rank - 2:
        return None
    ones = (1,) * len(kernel)
    strides, dilations = attributes.get_ints("strides", ones), attributes.get_ints("dilations", ones)
    return tuple(((k or 1) * d - d + 1, s) for k, s, d in zip(kernel, strides, dilations, strict=True))


def _data(node: ir.Node) -> ir.Value | None:
    """What an operator reads besides its weights; None for arithmetic, unless with a constant that is one in space."""
    if not is_op(node, *ARITHMETIC):
        return node.inputs[0]
    rank = len(dims(node.outputs[0]) or ())
    for data, other in (node.inputs, node.inputs[::-1]):
        shape = constant_shape(other)
        if shape is not None and all(size == 1 for size in shape[2 - rank :]):
            return data
    return None


def _read(window: tuple[tuple[int, int], ...], sizes: Sizes) -> Sizes:
    """How much of its input an operator reads to compute this much of its output."""
    return tuple((size - 1) * stride + extent for size, (extent, stride) in zip(sizes, window, strict=True))


def _space(value: ir.Value | None) -> Sizes | None:
    sizes = (dims(value) or ())[2:]
    known = tuple(size for size in sizes if size is not None)
    return known if known and len(known) == len(sizes) else None


def _cropped(value: ir.Value, sizes: Sizes) -> ir.Shape:
    assert value.shape is not None
    return ir.Shape([*value.shape[:2], *sizes])


def _before(value: ir.Value) -> Iterator[ir.Node]:
    """Every operator that a tensor depends on."""
    waiting, seen = [value], set()
    while waiting:
        node = waiting.pop().producer()
        if node is not None and node not in seen:
            seen.add(node)
            yield node
            waiting.extend(operand for operand in node.inputs if operand is not None)


def _times(sizes: tuple[int | None, ...]) -> str:
    return "×".join(str(size) for size in sizes)
