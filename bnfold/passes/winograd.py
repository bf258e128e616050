"""A convolution before a pool with two thirds of its multiplications.

Winograd's minimal filtering (Arithmetic Complexity of Computations, 1980), for neural networks by Lavin and Gray
(arXiv:1509.09308), here along one axis: along both the further additions would take the time that is saved.
"""

from __future__ import annotations

from math import isinf
from typing import Any, NamedTuple

import numpy as np
import onnx_ir as ir

from bnfold.affine import Affine, Array
from bnfold.graph import add_constant, constant_shape, dims, float_constant, is_op, sole_use, take_over
from bnfold.passes.base import FoldPass
from bnfold.rules.base import label

BLOCK = 16
"""Channels of one block of ONNX Runtime's layout, the largest it uses."""
ROWS = {"a": (1, 0, -1), "b": (0, 1, 1), "c": (0, -1, 1), "d": (0, 1, 0, -1)}
"""Of four rows of the input, what each of the four products reads."""


class Pattern(NamedTuple):
    """The convolution, the activation behind it if there is one, and the pool."""

    conv: ir.Node
    relu: ir.Node | None
    pool: ir.Node


class WinogradRows(FoldPass):
    """Computes two rows of a convolution with kernels of height 3 by four products instead of six: F(2, 3).

    With d0 to d3 four rows of the input and g0 to g2 the rows of the kernel,

        a = (d0 - d2) g0,  b = (d1 + d2) (g0 + g1 + g2)/2,  c = (d2 - d1) (g0 - g1 + g2)/2,  d = (d1 - d3) g2

    the two rows are a + b + c and b - c - d. The rows are read by depthwise convolutions, the products are convolutions
    with kernels of height 1, the sums ONNX Runtime adds as it writes them. A pool that reads the two rows together
    takes the larger of each, so they are never put into one tensor.

    In exact arithmetic the results are equal. In float32 the sums of rows and kernels are rounded before they are
    multiplied, and terms in d1 and d2 that a, b and c add are to cancel: an error may be a few times that of the direct
    sum, relative to the largest value nearby.

    1. The convolution has one group, float32 weights that are constant, kernels of height 3, no stride or dilation of
       rows and an even number of rows. It may be padded: `pads`, not `auto_pad`.
    2. Its channels, in and out, fill whole blocks of ONNX Runtime's layout.
    3. Its only reader is a MaxPool, or a ReLU that only a MaxPool reads.
    4. The pool reads rows two by two: no padding of rows, no dilation, no `ceil_mode`, no indices.
    5. It saves as many multiplications as the target asks for.
    """

    def _rewrite(self, graph: ir.Graph) -> bool:
        if isinf(self._ctx.target.least_saving):
            return False
        modified = False
        for node in tuple(graph):
            pattern = _pattern(node)
            if pattern is not None and _saved(node) >= self._ctx.target.least_saving:
                self._split(graph, pattern)
                modified = True
        return modified

    def _split(self, graph: ir.Graph, pattern: Pattern) -> None:
        conv, relu, pool = pattern
        nodes: list[ir.Node] = []

        def emit(op_type: str, part: str, inputs: list[ir.Value | None], **attributes: Any) -> ir.Value:
            name = self._ctx.names.fresh(f"{conv.name}/{part}")
            node = ir.node(op_type, inputs, attributes=attributes, name=name)
            node.outputs[0].name, node.outputs[0].type = self._ctx.names.fresh(f"{name}:0"), conv.outputs[0].type
            nodes.append(node)
            return node.outputs[0]

        def constant(part: str, array: Array) -> ir.Value:
            return add_constant(
                graph, self._ctx.names, f"{conv.name}/{part}", array.astype(np.float32), ir.DataType.FLOAT
            )

        weights = float_constant(conv.inputs[1])
        assert weights is not None
        outputs, inputs = weights.shape[:2]
        top, left, bottom, right = conv.attributes.get_ints("pads", (0, 0, 0, 0))
        wide: dict[str, list[int]] = {
            "pads": [0, left, 0, right],
            "strides": [1, conv.attributes.get_ints("strides", (1, 1))[1]],
            "dilations": [1, conv.attributes.get_ints("dilations", (1, 1))[1]],
        }

        def product(key: str, kernel: Array, *bias: ir.Value | None) -> ir.Value:
            taps = np.tile(np.reshape(ROWS[key], (1, 1, -1, 1)), (inputs, 1, 1, 1)).astype(np.float64)
            rows = emit(
                "Conv",
                f"rows_{key}",
                [conv.inputs[0], constant(f"taps_{key}", taps)],
                group=inputs,
                strides=[2, 1],
                pads=[top, 0, bottom, 0],
            )
            return emit("Conv", key, [rows, constant(f"kernel_{key}", kernel), *bias], **wide)

        first, middle, last = (weights[:, :, row : row + 1] for row in range(3))
        b = product("b", (first + middle + last) / 2, *conv.inputs[2:3])
        c = product("c", (first - middle + last) / 2)
        minus = constant("minus", np.full((outputs, 1, 1, 1), -1.0))
        both = {"even": emit("Add", "sum", [b, c])}
        # A Sub would leave the blocked layout; this becomes one operator with the Add behind it.
        both["odd"] = emit("Add", "difference", [emit("Conv", "minus_c", [c, minus], group=outputs), b])
        both["even"] = emit("Add", "even", [product("a", first), both["even"]])
        both["odd"] = emit("Add", "odd", [product("d", -last), both["odd"]])
        for part, rows in both.items():
            active = rows if relu is None else emit("Relu", f"{part}_relu", [rows])
            both[part] = emit("MaxPool", f"{part}_pool", [active], **_along_the_width(pool))
        result = emit("Max", "pool", list(both.values()))
        graph.insert_before(conv, nodes)
        for gone in (conv, *([relu] if relu is not None else [])):
            self._ctx.ledger.lost(gone.outputs[0], "its even and odd rows are computed apart")
        old = pool.outputs[0]
        result.shape, name, final = old.shape, old.name, old.is_graph_output()
        self._ctx.ledger.replaced(old, result, Affine.identity(4))
        take_over(old, result, self._ctx.names)
        graph.remove([pool, *([relu] if relu is not None else []), conv], safe=True)
        if not final:
            result.name = name
        self._ctx.ledger.notes.append(f"{label(conv)} is computed by Winograd's F(2, 3) along its rows")


def _pattern(conv: ir.Node) -> Pattern | None:
    if not is_op(conv, "Conv") or not _splits(conv):
        return None
    use = sole_use(conv.outputs[0])
    relu = use.node if use is not None and is_op(use.node, "Relu") else None
    if relu is not None:
        use = sole_use(relu.outputs[0])
    return Pattern(conv, relu, use.node) if use is not None and _reads_pairs(use.node) else None


def _splits(conv: ir.Node) -> bool:
    """Whether a Conv meets rules 1 and 2."""
    shape, rows = constant_shape(conv.inputs[1]), (dims(conv.outputs[0]) or ())[2:3]
    attributes = conv.attributes
    if shape is None or len(shape) != 4 or conv.inputs[1] is None or conv.inputs[1].dtype != ir.DataType.FLOAT:
        return False
    plain = (
        attributes.get_int("group", 1) == 1
        and attributes.get_string("auto_pad", "NOTSET") == "NOTSET"
        and attributes.get_ints("strides", (1,))[0] == 1
        and attributes.get_ints("dilations", (1,))[0] == 1
    )
    even = len(rows) == 1 and rows[0] is not None and rows[0] % 2 == 0
    return plain and even and shape[2] == 3 and shape[0] % BLOCK == 0 and shape[1] % BLOCK == 0


def _reads_pairs(pool: ir.Node) -> bool:
    """Whether an operator is a MaxPool that meets rule 4."""
    if not is_op(pool, "MaxPool") or any(output.uses() or output.is_graph_output() for output in pool.outputs[1:]):
        return False
    attributes = pool.attributes
    kernel, strides = attributes.get_ints("kernel_shape", ()), attributes.get_ints("strides", (1,))
    top, _, bottom, _ = attributes.get_ints("pads", (0, 0, 0, 0))
    return (
        (kernel[0], strides[0], top, bottom) == (2, 2, 0, 0)
        and attributes.get_ints("dilations", (1,))[0] == 1
        and attributes.get_string("auto_pad", "NOTSET") in ("NOTSET", "VALID")
        and attributes.get_int("ceil_mode", 0) == 0
    )


def _along_the_width(pool: ir.Node) -> dict[str, list[int]]:
    attributes = pool.attributes
    _, left, _, right = attributes.get_ints("pads", (0, 0, 0, 0))
    return {
        "kernel_shape": [1, attributes.get_ints("kernel_shape", ())[1]],
        "strides": [1, attributes.get_ints("strides", (1, 1))[1]],
        "pads": [0, left, 0, right],
        "dilations": [1, attributes.get_ints("dilations", (1, 1))[1]],
    }


def _saved(conv: ir.Node) -> float:
    """Multiplications and additions per example: every third one."""
    weight, places = dims(conv.inputs[1]) or (), (dims(conv.outputs[0]) or ())[2:]
    return float(np.prod([size or 0 for size in (*weight, *places)])) / 3
