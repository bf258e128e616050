"""Max or Min by a constant tensor takes the place of an affine and the ReLU beside it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from bnfold.affine import Affine
from bnfold.context import Pending, affine_node, pending
from bnfold.graph import add_constant, is_op, sole_use, take_over, uses
from bnfold.passes.backward import plan_backward, take_backward
from bnfold.passes.base import FoldPass
from bnfold.passes.forward import ill_conditioned, plan
from bnfold.rules.base import Refusal, label
from bnfold.target import LARGEST_OFFSET


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


class ClampBeforeWeights(FoldPass):
    """Replaces affine and ReLU by a clamp whose own affine the weights behind absorb.

    relu(s x + t) = s max(x, -t / s) + t for s > 0, and s min(x, -t / s) + t for s < 0. So a pre-activation, whose input
    others read too, costs nothing before a convolution without padding.

    1. No scale is negative, or none is positive. A channel of scale zero is the constant relu(t).
    2. The ReLU is the affine's only reader.
    3. Everything behind the ReLU absorbs the clamp's affine (`plan`).
    4. Subtracting the bound again is well conditioned (`LARGEST_OFFSET`).
    5. The target allows it: a clamp by a tensor leaves ONNX Runtime's blocked layout.
    """

    def _rewrite(self, graph: ir.Graph) -> bool:
        modified = False
        for node in reversed(tuple(graph)):
            what = pending(node)
            if what is not None and self._ctx.target.clamp and not ill_conditioned(what.origins):
                modified |= self._clamp(graph, node, what)
        return modified

    def _clamp(self, graph: ir.Graph, node: ir.Node, what: Pending) -> bool:
        affine, source, use = what.affine, node.inputs[0], sole_use(node.outputs[0])
        rising = bool((affine.scale >= 0).all())
        if source is None or source.dtype is None or use is None or not is_op(use.node, "Relu") or what.lone:
            return False
        if not (rising or (affine.scale <= 0).all()) or not affine.scale.any():
            return False
        still = affine.scale == 0
        bound = np.where(still, 0.0, -affine.shift / np.where(still, 1.0, affine.scale))
        if np.abs(bound).max() > LARGEST_OFFSET:
            return False
        after = Affine(affine.scale, np.where(still, np.maximum(affine.shift, 0.0), affine.shift))
        relu, active = use.node, use.node.outputs[0]
        if plan(active, uses(active), active.is_graph_output(), after, self._ctx).cost[0] > 0:
            return False
        ctx, op_type = self._ctx, "Max" if rising else "Min"
        clamp = ir.node(
            op_type, [source, add_constant(graph, ctx.names, f"{relu.name}_bound", bound, source.dtype)], name=relu.name
        )
        result = clamp.outputs[0]
        result.name, result.shape, result.type = ctx.names.fresh(f"{active.name}_clamp"), source.shape, source.type
        rest = affine_node(
            result, Pending(after, what.origins), node.name or "", ctx.names.fresh(f"{active.name}_affine")
        )
        graph.insert_after(relu, [clamp, rest])
        ctx.ledger.moved(what.origins, f"{label(relu)} became {op_type}")
        ctx.ledger.replaced(node.outputs[0], source, affine)
        ctx.ledger.replaced(active, rest.outputs[0], Affine.identity(affine.rank))
        take_over(active, rest.outputs[0], ctx.names)
        graph.remove([relu, node], safe=True)
        return True
