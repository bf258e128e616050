"""Negative scales before a maximum: the sign moves into the convolution and the activation behind the pool."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from bnfold.affine import Affine
from bnfold.context import Pending, affine_node, pending
from bnfold.graph import add_constant, is_op, sole_use, take_over, uses
from bnfold.passes.backward import BackwardPlan, plan_backward, take_backward
from bnfold.passes.base import FoldPass
from bnfold.passes.forward import ill_conditioned, plan, residual
from bnfold.rules.base import Refusal, label
from bnfold.rules.laws import check

MONOTONE = ("Relu", "LeakyRelu", "Clip", "Sigmoid", "Tanh", "Elu", "Selu", "Softplus", "HardSigmoid")
POOLS = ("MaxPool", "GlobalMaxPool")


class TurnSigns(FoldPass):
    """Frees affines with negative scales from the maximum or ReLU that stops them.

    With v = sign(s) per channel and a nondecreasing activation a, the maximum over a window of v a(z) is
    v a(v max(v z)): what is negated before a maximum comes out as a minimum. So the weights before take v in, the pool
    comes first, and one multiplication by v on the pooled tensor and the activation follow. The affine then stands
    behind the pool.

    If every scale is negative or zero and the activation is a ReLU, no multiplication is needed:
    -relu(z) = min(-z, 0), a Clip.

    1. The activation is nondecreasing and stands directly before the affine; nobody else reads it or its input.
    2. The weights before the activation take the sign in (`plan_backward`).
    3. The pool is the affine's only reader, would let |s| through, and gives no indices.
    4. Behind the pool the affine is absorbed or composed: otherwise it stays as it is.
    5. A scale of zero counts as positive; either sign is right for a constant channel.
    """

    def _rewrite(self, graph: ir.Graph) -> bool:
        modified = False
        for node in reversed(tuple(graph)):
            what = pending(node)
            if what is not None and node.graph is not None and (what.affine.scale < 0).any():
                modified |= self._turn(node, what)
        return modified

    def _turn(self, node: ir.Node, what: Pending) -> bool:
        source = node.inputs[0]
        activation = source.producer() if source is not None else None
        if source is None or activation is None or sole_use(source) is None or not is_op(activation, *MONOTONE):
            return False
        if ill_conditioned(what.origins):
            return False
        before = activation.inputs[0]
        if before is None or (is_op(activation, "LeakyRelu") and activation.attributes.get_float("alpha", 0.01) < 0):
            return False
        return self._clip(node, what, activation, before) or self._behind_pool(node, what, activation, before)

    def _clip(self, node: ir.Node, what: Pending, activation: ir.Node, before: ir.Value) -> bool:
        affine = what.affine
        if not is_op(activation, "Relu") or (affine.scale > 0).any():
            return False
        source, output = activation.outputs[0], node.outputs[0]
        turned = Affine(-affine.scale, affine.shift)
        readers, final = uses(output), output.is_graph_output()
        if plan(source, readers, final, turned, self._ctx).cost[0] >= residual(source, affine)[0]:
            return False
        minus = Affine(np.full((1,) * affine.rank, -1.0), 0.0)
        signed = plan_backward(before, minus, self._ctx)
        graph, dtype = node.graph, source.dtype
        if isinstance(signed, Refusal) or dtype is None or not isinstance(graph, ir.Graph):
            return False
        take_backward(signed, what.origins, self._ctx)
        zero = add_constant(graph, self._ctx.names, f"{activation.name}_max", np.zeros(()), dtype)
        clip = ir.node("Clip", [activation.inputs[0], None, zero], name=activation.name)
        result, name = clip.outputs[0], source.name
        result.name, result.shape, result.type = self._ctx.names.fresh(f"{name}_clip"), source.shape, source.type
        graph.insert_after(activation, clip)
        self._ctx.ledger.replaced(source, result, minus)
        take_over(source, result, self._ctx.names)
        graph.remove(activation, safe=True)
        result.name = name
        what.affine, what.originals = turned, ()
        self._ctx.ledger.moved(what.origins, f"all scales negative: {label(activation)} became Clip(max=0)")
        return True

    def _behind_pool(self, node: ir.Node, what: Pending, activation: ir.Node, before: ir.Value) -> bool:
        affine, output = what.affine, node.outputs[0]
        use = sole_use(output)
        if use is None or not is_op(use.node, *POOLS):
            return False
        pool = use.node
        pooled = pool.outputs[0]
        sign = Affine(np.where(affine.scale < 0, -1.0, 1.0), 0.0)
        if check(pool, Affine(np.abs(affine.scale), affine.shift), affine.rank) is not None:
            return False
        onward = plan(pooled, uses(pooled), pooled.is_graph_output(), affine, self._ctx)
        if onward.cost[0] >= residual(activation.outputs[0], affine)[0]:
            return False
        signed = plan_backward(before, sign, self._ctx)
        if isinstance(signed, Refusal):
            return False
        self._rebuild(node, pool, sign, signed)
        return True

    def _rebuild(self, node: ir.Node, pool: ir.Node, sign: Affine, signed: BackwardPlan) -> None:
        ctx, graph, old = self._ctx, node.graph, pool.outputs[0]
        what, activation = pending(node), uses(signed.value)[0].node
        assert what is not None
        assert isinstance(graph, ir.Graph)
        take_backward(signed, what.origins, ctx)
        new_pool = ir.node(
            pool.op_type, [activation.inputs[0], *pool.inputs[1:]], attributes=pool.attributes, name=pool.name
        )
        maximum = new_pool.outputs[0]
        maximum.name, maximum.shape, maximum.type = ctx.names.fresh(f"{old.name}_signed"), old.shape, old.type
        name = ctx.names.fresh(f"{what.origins[0].name}_sign")
        turn = affine_node(maximum, Pending(sign, what.origins), name, ctx.names.fresh(f"{name}_output"))
        new_activation = ir.node(
            activation.op_type,
            [turn.outputs[0], *activation.inputs[1:]],
            attributes=activation.attributes,
            name=activation.name,
        )
        active = new_activation.outputs[0]
        active.name = ctx.names.fresh(f"{activation.outputs[0].name}_pooled")
        active.shape, active.type = old.shape, old.type
        rest = affine_node(
            active, Pending(what.affine, what.origins), node.name or "", ctx.names.fresh(f"{old.name}_affine")
        )
        graph.insert_after(pool, [new_pool, turn, new_activation, rest])
        ctx.ledger.replaced(old, rest.outputs[0], Affine.identity(what.affine.rank))
        ctx.ledger.lost(
            activation.outputs[0], "only its pooled values are computed: the activation moved behind the pool"
        )
        ctx.ledger.lost(node.outputs[0], "only its pooled values are computed")
        take_over(old, rest.outputs[0], ctx.names)
        graph.remove([pool, node, activation], safe=True)
        ctx.ledger.moved(what.origins, f"scales of both signs: {label(activation)} moved behind {label(pool)}")
