"""The books of one compilation: what became of every affine, and where its input can still be seen."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import onnx_ir as ir

from bnfold.affine import Affine, Array
from bnfold.graph import dims
from bnfold.report import Entry, Tap

MAX_TAP_CHANNELS = 65536
DROWNED = 1e4
"""Of |shift / scale|: beyond it float32 keeps less than three digits of what was scaled, so it cannot be seen."""


@dataclass(eq=False)
class Watch:
    """A tensor of the input graph as seen from the graph being rewritten: original = scale * value + shift.

    The scale is NaN where the original cannot be recovered.
    """

    value: ir.Value | None
    scale: Array
    shift: Array
    reason: str = ""
    extra: int = 0
    """Channels that the tensor was given besides its own; they come last."""


@dataclass(eq=False)
class Record:
    """One affine of the input graph and its fate so far."""

    name: str
    kind: Literal["BatchNormalization", "arithmetic"]
    conditioning: float
    watch: Watch
    cancellation: float = 0.0
    """Size of the constant part of the output, relative to its spread, that a forward fold makes cancel."""
    rules: list[str] = field(default_factory=list)
    into: list[ir.Node] = field(default_factory=list)
    residual: list[ir.Node] = field(default_factory=list)
    kept: str = ""
    bias: bool = False


class Ledger:
    """Keeps a record per affine; passes tell it of every step."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.notes: list[str] = []

    def open(
        self, name: str, kind: Literal["BatchNormalization", "arithmetic"], source: ir.Value, conditioning: float = 0.0
    ) -> Record:
        """Starts the record of an affine that reads `source`."""
        rank = len(dims(source) or ())
        record = Record(name, kind, conditioning, Watch(source, np.ones((1,) * rank), np.zeros((1,) * rank)))
        self.records.append(record)
        return record

    def moved(self, origins: Iterable[Record], rule: str) -> None:
        """Notes that a rule took these affines one step further."""
        for record in origins:
            record.rules.append(rule)

    def absorbed(self, origins: Iterable[Record], node: ir.Node, rule: str) -> None:
        """Notes that the weights of `node` took these affines in."""
        for record in origins:
            record.rules.append(rule)
            if node not in record.into:
                record.into.append(node)

    def rescaled(self, value: ir.Value, old_of_new: Affine) -> None:
        """Notes that `value` now holds v with old = old_of_new(v)."""
        for record in self.records:
            if record.watch.value is value:
                self._through(record.watch, old_of_new)

    def applied(self, value: ir.Value, affine: Affine) -> None:
        """Notes that `value` now holds affine(old), so old = (new - shift) / scale, channel by channel."""
        for record in self.records:
            if record.watch.value is value:
                watch = record.watch
                with np.errstate(divide="ignore", invalid="ignore"):
                    drowned = np.abs(affine.shift) >= DROWNED * np.abs(affine.scale)
                    inverse = np.where(drowned & (affine.shift != 0) | (affine.scale == 0), np.nan, 1 / affine.scale)
                    watch.shift = watch.shift - watch.scale * inverse * affine.shift
                    watch.scale = watch.scale * inverse

    def replaced(self, old: ir.Value, new: ir.Value, old_of_new: Affine) -> None:
        """Notes that `old` is gone, but old = old_of_new(new)."""
        for record in self.records:
            if record.watch.value is old:
                record.watch.value = new
                self._through(record.watch, old_of_new)

    def widened(self, value: ir.Value) -> None:
        """Notes that `value` was given one more channel, behind its own."""
        for record in self.records:
            if record.watch.value is value:
                record.watch.extra += 1

    def lost(self, value: ir.Value, reason: str) -> None:
        """Notes that `value` is gone and nothing in the graph determines it."""
        for record in self.records:
            if record.watch.value is value:
                record.watch.value, record.watch.reason = None, reason

    @staticmethod
    def _through(watch: Watch, old_of_new: Affine) -> None:
        watch.shift = watch.scale * old_of_new.shift + watch.shift
        watch.scale = watch.scale * old_of_new.scale

    def entries(self, alive: frozenset[ir.Value]) -> tuple[Entry, ...]:
        """The finished report; `alive` are the values that the folded graph still has."""
        return tuple(_entry(record, alive) for record in self.records if not record.bias)


def _entry(record: Record, alive: frozenset[ir.Value]) -> Entry:
    tap, reason = _tap(record.watch, alive)
    return Entry(
        name=record.name,
        kind=record.kind,
        status="kept" if record.residual and not record.into else "folded",
        rules=tuple(dict.fromkeys([*record.rules, *([record.kept] if record.residual and record.kept else [])])),
        into=tuple(node.name or "" for node in record.into),
        residual=tuple(node.name or "" for node in record.residual),
        conditioning=record.conditioning,
        tap=tap,
        tap_reason=reason,
    )


def _tap(watch: Watch, alive: frozenset[ir.Value]) -> tuple[Tap | None, str]:
    if watch.value is None:
        return None, watch.reason
    if watch.value not in alive:
        return None, "its input is no tensor of the folded graph"
    shape = dims(watch.value) or ()
    if len(shape) < 2:
        return None, "its input has no channel axis"
    scale, shift = np.broadcast_arrays(watch.scale, watch.shift)
    varying = [axis for axis, size in enumerate(scale.shape) if size > 1]
    axis = varying[0] if varying else 1
    size = shape[axis]
    if len(varying) > 1 or size is None or size > MAX_TAP_CHANNELS:
        return None, "its input follows from no tensor channel by channel"
    size -= watch.extra
    columns = (np.broadcast_to(array.reshape(-1), (size,)) for array in (scale, shift))
    s, t = (tuple(None if np.isnan(x) else float(x) for x in column) for column in columns)
    if all(x is None for x in s):
        return None, "every channel was folded to a constant"
    return Tap(watch.value.name or "", axis, s, t), ""
