"""Takes affines backward into the weights before them."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from bnfold.affine import Affine
from bnfold.context import Context, Pending, affine_node, insert_after, pending
from bnfold.graph import sole_use, take_over, uses
from bnfold.ledger import Record
from bnfold.passes.base import FoldPass
from bnfold.rules.backward import backward
from bnfold.rules.base import Refusal, Step, label


@dataclass(frozen=True)
class BackwardPlan:
    """How a tensor can be made to come out as affine(old): one step at its producer, and what that asks for."""

    value: ir.Value
    affine: Affine
    step: Step | None
    """None if the producer is an `Affine`, which simply takes this one in, or if nothing needs to be done."""
    onward: tuple[BackwardPlan, ...] = ()


def plan_backward(value: ir.Value, affine: Affine, ctx: Context) -> BackwardPlan | Refusal:
    """Plans to give `value`, which has one reader, an affine."""
    producer = value.producer()
    if affine.is_identity or (pending(producer) is not None and sole_use(value) is not None):
        return BackwardPlan(value, affine, None)
    if producer is None:
        return Refusal("nothing before it could take it in")
    if sole_use(value) is None:
        return Refusal(f"the output of {label(producer)} has another reader or is an output of the graph")
    outcome = backward(producer, affine, ctx)
    if isinstance(outcome, Refusal):
        return outcome
    onward = []
    for source, wanted in outcome.onward:
        further = plan_backward(source, wanted, ctx)
        if isinstance(further, Refusal):
            return further
        onward.append(further)
    return BackwardPlan(value, affine, outcome, tuple(onward))


def take_backward(chosen: BackwardPlan, origins: tuple[Record, ...], ctx: Context) -> None:
    """Carries a plan out: `chosen.value` then holds affine(old)."""
    if chosen.affine.is_identity:
        return
    producer = chosen.value.producer()
    assert producer is not None
    ledger = ctx.ledger
    known = pending(producer)
    if known is not None:
        ledger.moved(origins, f"composed with {', '.join(record.name for record in known.origins)}")
        known.extend(chosen.affine, origins)
        ledger.applied(chosen.value, chosen.affine)
        return
    step = chosen.step
    assert step is not None
    if step.edit is not None:
        step.edit()
    if step.absorbs:
        ledger.absorbed(origins, producer, step.rule)
    else:
        ledger.moved(origins, step.rule)
    for onward in chosen.onward:
        take_backward(onward, origins, ctx)
    if step.remainder is None:
        ledger.applied(chosen.value, chosen.affine)
        return
    ledger.applied(chosen.value, Affine(chosen.affine.scale, 0.0))
    readers = uses(chosen.value)
    name = ctx.names.fresh(f"{producer.name}_bias")
    node = affine_node(chosen.value, Pending(step.remainder, origins), name, ctx.names.fresh(f"{name}_output"))
    insert_after(chosen.value, node)
    for use in readers:
        use.node.replace_input_with(use.index, node.outputs[0])


class PullBackward(FoldPass):
    """Takes each `Affine` into the weights before it, past operators with which it commutes.

    1. Every tensor on the way has one reader and is no output of the graph, so no one else sees it change.
    2. Every branch takes its part in (`bnfold.rules.backward`), or nothing is done at all.
    """

    def _rewrite(self, graph: ir.Graph) -> bool:
        modified = False
        for node in tuple(graph):
            what = pending(node)
            if what is not None and node.graph is not None:
                modified |= self._pull(node, what)
        return modified

    def _pull(self, node: ir.Node, what: Pending) -> bool:
        source, output = node.inputs[0], node.outputs[0]
        assert source is not None
        chosen = plan_backward(source, what.affine, self._ctx)
        if isinstance(chosen, Refusal) or what.affine.is_identity:
            return False
        assert isinstance(node.graph, ir.Graph)
        take_backward(chosen, what.origins, self._ctx)
        reached = node.inputs[0]
        assert reached is not None
        self._ctx.ledger.replaced(output, reached, Affine.identity(what.affine.rank))
        take_over(output, reached, self._ctx.names)
        node.graph.remove(node, safe=True)
        return True
