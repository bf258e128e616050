"""An affine behind a ReLU that nothing further on can take: Max or Min takes the place of both."""

from __future__ import annotations

import onnx_ir as ir

from bnfold.affine import Affine
from bnfold.context import Pending, pending
from bnfold.graph import add_constant, is_op, sole_use, take_over
from bnfold.passes.backward import plan_backward, take_backward
from bnfold.passes.base import FoldPass
from bnfold.rules.base import Refusal, label


class ClampBehindWeights(FoldPass):
    """Replaces ReLU and affine by a clamp: s relu(z) + t = max(s z + t, t) for s >= 0, min(s z + t, t) for s <= 0.

    1. No scale is negative, or none is positive: both in one tensor would take two operators.
    2. The affine is the ReLU's only reader, and the ReLU the only reader of its input.
    3. The weights before the ReLU take the affine in (`plan_backward`).
    4. The target allows it: a clamp by a tensor leaves ONNX Runtime's blocked layout.
    """

    def _rewrite(self, graph: ir.Graph) -> bool:
        modified = False
        for node in tuple(graph):
            what = pending(node)
            if what is not None and self._ctx.target.clamp:
                modified |= self._clamp(graph, node, what)
        return modified

    def _clamp(self, graph: ir.Graph, node: ir.Node, what: Pending) -> bool:
        affine, source, output = what.affine, node.inputs[0], node.outputs[0]
        relu = source.producer() if source is not None else None
        one_sign = bool((affine.scale >= 0).all() or (affine.scale <= 0).all())
        if source is None or relu is None or not is_op(relu, "Relu") or sole_use(source) is None or not one_sign:
            return False
        before, dtype = relu.inputs[0], source.dtype
        chosen = plan_backward(before, affine, self._ctx) if before is not None else Refusal("no input")
        if isinstance(chosen, Refusal) or dtype is None:
            return False
        ctx, op_type = self._ctx, "Max" if (affine.scale >= 0).all() else "Min"
        take_backward(chosen, what.origins, ctx)
        bound = add_constant(graph, ctx.names, f"{relu.name}_bound", affine.shift, dtype)
        clamp = ir.node(op_type, [relu.inputs[0], bound], name=relu.name)
        result = clamp.outputs[0]
        result.name, result.shape, result.type = ctx.names.fresh(f"{output.name}_clamp"), source.shape, source.type
        graph.insert_after(relu, clamp)
        name, final = output.name, output.is_graph_output()
        ctx.ledger.moved(what.origins, f"{label(relu)} became {op_type}")
        ctx.ledger.applied(source, affine)
        same = Affine.identity(affine.rank)
        ctx.ledger.replaced(source, result, same)
        ctx.ledger.replaced(output, result, same)
        take_over(output, result, ctx.names)
        graph.remove([node, relu], safe=True)
        if not final:
            result.name = name
        return True
