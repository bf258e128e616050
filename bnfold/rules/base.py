"""The two answers a rule can give."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import onnx_ir as ir

from bnfold.affine import Affine
from bnfold.context import Context


@dataclass(frozen=True)
class Refusal:
    """The affine may not pass here, and why."""

    reason: str


@dataclass(frozen=True)
class Step:
    """The affine may pass here."""

    rule: str
    """One short phrase for the report."""
    onward: tuple[tuple[ir.Value, Affine], ...] = ()
    """Forward: outputs that then lack an affine. Backward: inputs that must then be given one."""
    edit: Callable[[], None] | None = field(default=None, repr=False)
    """Changes the operator's weights; None if it needs no change."""
    absorbs: bool = False
    """Whether the operator's weights take the affine in."""
    remainder: Affine | None = None
    """Backward: what the operator cannot take and must stay behind it."""


Outcome = Step | Refusal
ForwardRule = Callable[[ir.Node, int, Affine, Context], Outcome]
"""(operator, index of the input that lacks the affine, the affine, context)"""
BackwardRule = Callable[[ir.Node, Affine, Context], Outcome]
"""(operator, the affine that its output must be given, context)"""


def label(node: ir.Node) -> str:
    """How a report speaks of an operator."""
    return f"{node.op_type} {node.name}" if node.name else node.op_type
