"""Weights whose output has several readers, of which an affine is only one."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from bnfold.affine import Affine
from bnfold.context import Pending, pending
from bnfold.graph import is_op, take_over, uses
from bnfold.passes.base import FoldPass
from bnfold.passes.forward import plan, take_forward
from bnfold.rules.backward import backward
from bnfold.rules.base import Refusal, label
from bnfold.target import LARGEST_OFFSET

LINEAR = ("Conv", "ConvTranspose", "Gemm", "MatMul")


class InvertForOthers(FoldPass):
    """Takes an affine backward although its input has other readers, which are given the inverse.

    1. The tensor is made by Conv, ConvTranspose, Gemm or MatMul, whose weights take the affine in whole, and is no
       output of the graph.
    2. No scale is zero, and undoing the affine is well conditioned (`LARGEST_OFFSET`).
    3. All other readers absorb the inverse: nothing stays because of it.
    """

    def _rewrite(self, graph: ir.Graph) -> bool:
        modified = False
        for node in tuple(graph):
            what = pending(node)
            if what is not None:
                modified |= self._invert(graph, node, what)
        return modified

    def _invert(self, graph: ir.Graph, node: ir.Node, what: Pending) -> bool:
        source, output, affine = node.inputs[0], node.outputs[0], what.affine
        producer = _producer(source)
        if source is None or producer is None or not affine.invertible:
            return False
        if np.abs(affine.shift / affine.scale).max() > LARGEST_OFFSET:
            return False
        step = backward(producer, affine, self._ctx)
        if isinstance(step, Refusal) or step.remainder is not None or step.edit is None:
            return False
        others = [use for use in uses(source) if use.node is not node]
        best = plan(source, others, False, affine.inverse(), self._ctx)
        if best.cost[0] > 0:
            return False
        ledger = self._ctx.ledger
        step.edit()
        ledger.absorbed(what.origins, producer, step.rule)
        ledger.applied(source, affine)
        ledger.replaced(output, source, Affine.identity(affine.rank))
        take_forward(best, source, (), self._ctx)
        ledger.moved(what.origins, f"the inverse into the other readers of {label(producer)}")
        take_over(output, source, self._ctx.names)
        graph.remove(node, safe=True)
        return True


class DuplicateWeights(FoldPass):
    """Computes Conv, ConvTranspose or Gemm once more for an affine that is one of several readers.

    1. The weights take the affine in whole.
    2. The affine is more than one operator, or a BatchNormalization: a lone Mul or Add is cheaper than a copy.
    3. The target allows it: the copy costs as much as the original.
    """

    def _rewrite(self, graph: ir.Graph) -> bool:
        modified = False
        for node in tuple(graph):
            source = node.inputs[0] if node.inputs else None
            what, producer = pending(node), _producer(source)
            if what is None or producer is None or source is None or not self._ctx.target.duplicate:
                continue
            step = backward(producer, what.affine, self._ctx)
            if what.lone or isinstance(step, Refusal) or step.remainder is not None:
                continue
            name = self._ctx.names.fresh(f"{producer.name}_copy")
            copy = ir.node(producer.op_type, producer.inputs, attributes=producer.attributes, name=name)
            result = copy.outputs[0]
            result.name, result.shape, result.type = self._ctx.names.fresh(f"{name}_output"), source.shape, source.type
            graph.insert_after(producer, copy)
            node.replace_input_with(0, result)
            self._ctx.ledger.moved(what.origins, f"{label(producer)} is computed once more")
            modified = True
        return modified


def _producer(source: ir.Value | None) -> ir.Node | None:
    """The weights before a tensor that has several readers and is no output of the graph."""
    if source is None or source.is_graph_output() or len(uses(source)) < 2:
        return None
    producer = source.producer()
    return producer if is_op(producer, *LINEAR) else None
