"""Pushes affines forward until weights absorb them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from bnfold.affine import Affine
from bnfold.context import Context, Pending, affine_node, insert_after, pending
from bnfold.graph import Use, elements, is_op, take_over, uses
from bnfold.ledger import Record
from bnfold.passes.base import FoldPass
from bnfold.rules.base import Refusal, Step, label
from bnfold.rules.forward import forward

MAX_CANCELLATION = 300.0
"""Beyond it a forward fold costs more than 1e-4 of the output in float32 (docs/folding.md)."""

Cost = tuple[int, float]
"""Operators that stay, and the elements they work on per example: fewer operators first, then smaller tensors."""


@dataclass(frozen=True)
class Plan:
    """The cheapest exact way to deal with an affine that a tensor lacks: place it here, or move on."""

    affine: Affine
    cost: Cost
    moves: tuple[tuple[Use, str], ...] | None
    """The readers that it moves on through, and by which rule; None if it is placed here."""
    reason: str
    """Why it does not go further than it does; empty if it does not have to stay."""


def residual(carrier: ir.Value, affine: Affine) -> Cost:
    """What an affine costs that stays behind `carrier`; a shift behind MatMul is its bias and free."""
    if affine.is_identity or (not affine.scales and is_op(carrier.producer(), "MatMul")):
        return 0, 0.0
    one = not (affine.scales and affine.shifts) or affine.axes in ((), (1,))
    operators = 1 if one else 2
    return operators, operators * elements(carrier)


def plan(carrier: ir.Value, readers: Sequence[Use], final: bool, affine: Affine, ctx: Context) -> Plan:
    """Plans for an affine that `carrier` lacks and `readers` expect; `final` if a caller of the graph does too."""
    here = residual(carrier, affine)
    if here[0] == 0:
        return Plan(affine, here, None, "")
    if final:
        return Plan(affine, here, None, "its output is an output of the graph")
    moves: list[tuple[Use, str]] = []
    cost, reason = (0, 0.0), ""
    for use in readers:
        known = pending(use.node)
        if known is not None:
            merged = residual(carrier, known.affine.compose(affine))
            before = residual(carrier, known.affine)
            moves.append((use, f"composed with {_names(known)}"))
            cost = (cost[0] + max(merged[0] - before[0], 0), cost[1] + max(merged[1] - before[1], 0.0))
            continue
        outcome = forward(use.node, use.index, affine, ctx)
        if isinstance(outcome, Refusal):
            return Plan(affine, here, None, f"{outcome.reason} ({label(use.node)})")
        onward = tuple(
            plan(value, uses(value), value.is_graph_output(), lacking, ctx) for value, lacking in outcome.onward
        )
        moves.append((use, outcome.rule))
        cost = (cost[0] + sum(p.cost[0] for p in onward), cost[1] + sum(p.cost[1] for p in onward))
        reason = reason or next((p.reason for p in onward if p.reason), "")
    if cost < here:
        return Plan(affine, cost, tuple(moves), reason)
    return Plan(affine, here, None, reason or "moving it would not make it cheaper")


def _names(known: Pending) -> str:
    return ", ".join(record.name for record in known.origins)


def take_forward(best: Plan, carrier: ir.Value, origins: tuple[Record, ...], ctx: Context) -> None:
    """Carries a plan out: the readers of `carrier` then do with it as it is.

    Ways that part may meet again at one operator, so every step is worked out afresh when its turn comes: the weights
    and the readers may have changed since the plan was made. Each step is exact by itself.
    """
    if best.moves is None:
        _place(best, carrier, origins, ctx)
        return
    ledger = ctx.ledger
    for use, rule in best.moves:
        node = use.node
        known = pending(node)
        if known is not None:
            node.replace_input_with(use.index, carrier)
            ledger.moved(origins, rule)
            known.absorb(best.affine, origins)
            continue
        step = forward(node, use.index, best.affine, ctx)
        assert isinstance(step, Step), step
        node.replace_input_with(use.index, carrier)
        if step.edit is not None:
            step.edit()
        if step.absorbs:
            ledger.absorbed(origins, node, step.rule)
        else:
            ledger.moved(origins, step.rule)
        for value, lacking in step.onward:
            ledger.rescaled(value, lacking)
            further = plan(value, uses(value), value.is_graph_output(), lacking, ctx)
            take_forward(further, value, origins, ctx)


def _place(best: Plan, carrier: ir.Value, origins: tuple[Record, ...], ctx: Context) -> None:
    if best.affine.is_identity:
        return
    names = ctx.names
    name = names.fresh(f"{origins[0].name}_rest")
    readers, final = uses(carrier), carrier.is_graph_output()
    node = affine_node(carrier, Pending(best.affine, origins), name, names.fresh(f"{carrier.name}_affine"))
    insert_after(carrier, node)
    for record in origins:
        record.kept = best.reason
    if final:
        name = carrier.name or ""
        graph = carrier.graph
        carrier.name = names.fresh(f"{name}_before")
        node.outputs[0].name = name
        assert isinstance(graph, ir.Graph)
        graph.outputs[list(graph.outputs).index(carrier)] = node.outputs[0]
    for use in readers:
        use.node.replace_input_with(use.index, node.outputs[0])


def ill_conditioned(origins: tuple[Record, ...]) -> str:
    """Why these affines may not be absorbed forward in float32; empty if they may."""
    worst = max(origins, key=lambda record: record.cancellation, default=None)
    if worst is None or worst.cancellation <= MAX_CANCELLATION:
        return ""
    return f"ill-conditioned: |mean| is about {worst.cancellation:.0f} sigma, the limit is {MAX_CANCELLATION:.0f}"


class PushForward(FoldPass):
    """Pushes each `Affine` through its readers, operator by operator, into weights that absorb it.

    1. Every reader of the tensor lets the affine through or absorbs it (`bnfold.rules.forward`), or it stays: the true
       tensor is then computed once, by one operator.
    2. The tensor is no output of the graph, whose callers expect the true values.
    3. An affine that meets another one is composed with it in float64.
    4. The move makes the graph cheaper: fewer operators stay, or as many on smaller tensors.
    5. No layer's mean is more than `MAX_CANCELLATION` times its sigma (root mean squares over the channels, each
       weighted with its scale): weights would otherwise be made to cancel the mean, which float32 does not hold.
    """

    def _rewrite(self, graph: ir.Graph) -> bool:
        modified = False
        for node in reversed(tuple(graph)):
            what = pending(node)
            if what is not None and node.graph is not None:
                modified |= self._push(node, what)
        return modified

    def _push(self, node: ir.Node, what: Pending) -> bool:
        carrier, output = node.inputs[0], node.outputs[0]
        assert carrier is not None
        if what.affine.is_identity:
            if output.is_graph_output() and (carrier.producer() is None or carrier.is_graph_output()):
                return False
            self._ctx.ledger.moved(what.origins, "it changes nothing")
            self._remove(node, what)
            return True
        best = plan(carrier, uses(output), output.is_graph_output(), what.affine, self._ctx)
        reason = ill_conditioned(what.origins)
        if best.moves is None or reason:
            for record in what.origins:
                record.kept = reason or best.reason
            return False
        take_forward(best, carrier, what.origins, self._ctx)
        self._remove(node, what)
        return True

    def _remove(self, node: ir.Node, what: Pending) -> None:
        carrier, output = node.inputs[0], node.outputs[0]
        assert carrier is not None
        assert isinstance(node.graph, ir.Graph)
        self._ctx.ledger.replaced(output, carrier, what.affine)
        take_over(output, carrier, self._ctx.names)
        node.graph.remove(node, safe=True)
