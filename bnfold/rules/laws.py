"""Operators that let an affine through unchanged, as a table: what passes, and why.

Each law holds in both directions. `mixes` names the axes along which the operator combines elements; the map must be
constant along them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx_ir as ir

from bnfold.affine import Affine
from bnfold.graph import constant, dims, ints
from bnfold.rules.base import Refusal

Axes = frozenset[int]


@dataclass(frozen=True)
class Law:
    """Which affines commute with an operator: op(scale * x + shift) = scale * op(x) + shift."""

    scale: Literal["any", "nonnegative"]
    shift: Callable[[ir.Node], bool]
    mixes: Callable[[ir.Node, int], Axes | None]
    """(operator, rank of the input) -> axes, or None if they cannot be told."""
    why: str


def _always(node: ir.Node) -> bool:
    return True


def _never(node: ir.Node) -> bool:
    return False


def _nothing(node: ir.Node, rank: int) -> Axes:
    return frozenset()


def _space(node: ir.Node, rank: int) -> Axes:
    return frozenset(range(2, rank))


def reduced_axes(node: ir.Node, rank: int) -> Axes | None:
    """Axes of a Reduce operator; None if they are not constant."""
    axes = node.attributes.get_ints("axes")
    if axes is None and len(node.inputs) > 1 and node.inputs[1] is not None:
        axes = ints(node.inputs[1])
        if axes is None:
            return None
    if not axes:
        return frozenset() if node.attributes.get_int("noop_with_empty_axes", 0) else frozenset(range(rank))
    return frozenset(axis % rank for axis in axes)


def _resized(node: ir.Node, rank: int) -> Axes | None:
    source, target = dims(node.inputs[0]), dims(node.outputs[0])
    scales = constant(node.inputs[2]) if len(node.inputs) > 2 else None
    if scales is not None and scales.size == rank:
        return frozenset(axis for axis in range(rank) if scales[axis] != 1)
    if source is None or target is None:
        return None
    return frozenset(a for a in range(rank) if a > 0 and (source[a] is None or source[a] != target[a]))


def padded_axes(node: ir.Node, rank: int) -> Axes | None:
    """Axes along which a Pad adds something; None if they are not constant."""
    pads = ints(node.inputs[1]) if len(node.inputs) > 1 else None
    if pads is None:
        return None
    axes = ints(node.inputs[3]) if len(node.inputs) > 3 and node.inputs[3] is not None else tuple(range(rank))
    if axes is None or len(pads) != 2 * len(axes):
        return None
    pairs = zip(axes, pads[: len(axes)], pads[len(axes) :], strict=True)
    return frozenset(axis % rank for axis, begin, end in pairs if begin or end)


def _copies_when_padding(node: ir.Node) -> bool:
    return node.attributes.get_string("mode", "constant") in ("reflect", "edge", "wrap")


def _averages_real_elements(node: ir.Node) -> bool:
    """Whether every window's weights sum to one: no padded zero is counted."""
    pads = any(node.attributes.get_ints("pads", ()))
    same = node.attributes.get_string("auto_pad", "NOTSET").startswith("SAME")
    ceil = bool(node.attributes.get_int("ceil_mode", 0))
    return not (node.attributes.get_int("count_include_pad", 0) and (pads or same or ceil))


def _interpolates_real_elements(node: ir.Node) -> bool:
    return node.attributes.get_string("coordinate_transformation_mode", "half_pixel") != "tf_crop_and_resize"


LAWS: dict[str, Law] = {
    "Relu": Law("nonnegative", _never, _nothing, "relu(s x) = s relu(x) for s >= 0"),
    "LeakyRelu": Law("nonnegative", _never, _nothing, "leaky(s x) = s leaky(x) for s >= 0"),
    "PRelu": Law("nonnegative", _never, _nothing, "prelu(s x) = s prelu(x) for s >= 0"),
    "MaxPool": Law("nonnegative", _always, _space, "the maximum of a window commutes with s >= 0 and with any shift"),
    "GlobalMaxPool": Law("nonnegative", _always, _space, "a maximum commutes with s >= 0 and with any shift"),
    "ReduceMax": Law("nonnegative", _always, reduced_axes, "a maximum commutes with s >= 0 and with any shift"),
    "ReduceMin": Law("nonnegative", _always, reduced_axes, "a minimum commutes with s >= 0 and with any shift"),
    "AveragePool": Law("any", _averages_real_elements, _space, "the weights of a mean sum to one"),
    "GlobalAveragePool": Law("any", _always, _space, "the weights of a mean sum to one"),
    "ReduceMean": Law("any", _always, reduced_axes, "the weights of a mean sum to one"),
    "ReduceSum": Law("any", _never, reduced_axes, "a sum commutes with any scale"),
    "Resize": Law("any", _interpolates_real_elements, _resized, "the weights of an interpolation sum to one"),
    "Pad": Law("any", _copies_when_padding, padded_axes, "a padded zero stays zero under any scale"),
}


def check(node: ir.Node, affine: Affine, rank: int) -> Refusal | None:
    """Why `affine` may not pass `node` in either direction, or None if it may."""
    law = LAWS[node.op_type]
    if any(output.uses() or output.is_graph_output() for output in node.outputs[1:]):
        return Refusal(f"a further output of {node.op_type} is used")
    axes = law.mixes(node, rank)
    broken = (
        (axes is None, f"the axes of {node.op_type} are not constant"),
        (
            not (axes or frozenset()).isdisjoint(affine.axes),
            f"the map varies along an axis that {node.op_type} combines",
        ),
        (node.op_type == "Pad" and not pads_zero(node), "Pad writes a value other than zero"),
        (affine.shifts and not law.shift(node), f"a shift does not pass {node.op_type}"),
        (
            law.scale == "nonnegative" and bool((affine.scale < 0).any()),
            f"a negative scale does not pass {node.op_type}",
        ),
    )
    return next((Refusal(reason) for violated, reason in broken if violated), None)


def pads_zero(node: ir.Node) -> bool:
    """Whether a Pad writes zeros or copies, so that every scale passes it."""
    if _copies_when_padding(node):
        return True
    if len(node.inputs) < 3 or node.inputs[2] is None:
        return True
    value = constant(node.inputs[2])
    return value is not None and not np.asarray(value, np.float64).any()
