"""What the compiler says it did: one entry per affine of the input graph, and operator counts."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Literal

import onnx


@dataclass(frozen=True)
class Tap:
    """Where the input of a folded layer can still be seen: input = scale * tensor + shift, channel by channel."""

    tensor: str
    """Name of the tensor in the folded graph."""
    axis: int
    """The tensor's channel axis."""
    scale: tuple[float | None, ...]
    """One entry per channel; None where a channel's folded weights are zero or next to it, so it cannot be seen."""
    shift: tuple[float | None, ...]


@dataclass(frozen=True)
class Entry:
    """What became of one affine of the input graph."""

    name: str
    """The BatchNormalization node, or the arithmetic nodes joined by `+`."""
    kind: Literal["BatchNormalization", "arithmetic"]
    status: Literal["folded", "kept"]
    rules: tuple[str, ...]
    """The rules that moved and absorbed it, in order; or why it was kept."""
    into: tuple[str, ...]
    """Nodes of the folded graph whose weights absorbed it."""
    residual: tuple[str, ...]
    """Nodes that are in the folded graph only because of it."""
    conditioning: float
    """Largest |mean| / sqrt(variance + epsilon) of a BatchNormalization; 0 for arithmetic, whose data are unknown."""
    tap: Tap | None
    """Where its input can be observed in the folded graph."""
    tap_reason: str
    """Why there is no tap; empty if there is one."""


@dataclass(frozen=True)
class Report:
    """Everything `fold` did to a model."""

    target: str
    entries: tuple[Entry, ...]
    operators_before: dict[str, int]
    operators_after: dict[str, int]
    notes: tuple[str, ...] = ()
    """What was seen in the input and left as it was."""

    @property
    def residual(self) -> tuple[str, ...]:
        """Every node that is in the folded graph only because of an affine, once."""
        return tuple(dict.fromkeys(node for entry in self.entries for node in entry.residual))

    @property
    def conditioning(self) -> float:
        """Largest |mean| / sqrt(variance + epsilon) of any layer that was folded."""
        return max((entry.conditioning for entry in self.entries if entry.status == "folded"), default=0.0)

    def to_json(self) -> str:
        """The report as JSON text, the same bytes for the same report."""
        return json.dumps(asdict(self), indent=2)


def operator_counts(model: onnx.ModelProto) -> dict[str, int]:
    """How many nodes of each operator the main graph has, by name."""
    names = (f"{node.domain}.{node.op_type}" if node.domain else node.op_type for node in model.graph.node)
    return dict(sorted(Counter(names).items()))
