"""The compiler: prepare, lift, pull backward, push forward, lower, clean up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from bnfold.check import graph_fault, weights_fault
from bnfold.context import Context
from bnfold.errors import InputError, VerificationError
from bnfold.graph import Names
from bnfold.passes.backward import PullBackward
from bnfold.passes.clamp import ClampBeforeWeights, ClampBehindWeights
from bnfold.passes.crop import CropUnread
from bnfold.passes.flatten import PermuteDense
from bnfold.passes.forward import PushForward
from bnfold.passes.lift import LiftAffines
from bnfold.passes.lower import LowerAffines
from bnfold.passes.ones import OnesChannel
from bnfold.passes.prepare import OrderInitializers, preparation
from bnfold.passes.readers import DuplicateWeights, InvertForOthers
from bnfold.passes.signs import TurnSigns
from bnfold.passes.winograd import WinogradRows
from bnfold.report import Report, operator_counts
from bnfold.target import target_named

OLDEST_OPSET = 11
ROUNDS = 64
"""More rounds than any affine needs; every round makes the graph cheaper, so it ends by itself."""


@dataclass(frozen=True)
class Folded:
    """A folded model and what was done to it."""

    model: onnx.ModelProto
    report: Report


def fold(
    model: onnx.ModelProto, *, target: str = "ort-cpu", weights: Mapping[str, ir.TensorProtocol] | None = None
) -> Folded:
    """Folds every affine of a model exactly into the weights around it.

    BatchNormalization at inference time, and every other constant Mul, Add, Sub and Div, is taken into a Conv,
    ConvTranspose, Gemm or MatMul before or behind it, in float64. What cannot be folded exactly stays, as one operator
    where one suffices. The result is the same function, byte for byte the same file on every run.

    Args:
        model: any ONNX model of opset 11 or newer; it is not changed.
        target: what to prefer among exact forms, one of `bnfold.TARGETS`. One that saves arithmetic besides
            (`ort-cpu-winograd`) computes the same function, but not the same tensors in between: layers lose their
            taps, and the report says which. A probe is made of a model that was folded for another target.
        weights: values of the initializers that the model names without their data (`bnfold.mapped`).

    Returns:
        The folded model, with the names of inputs, outputs and metadata of the given one, and the report. onnx's
        checker accepts it, with full checks if it accepts the given model so.

    Raises:
        InputError: the model is not valid, too old, or the target is not known.
        VerificationError: the folded model would not be valid, which is a mistake of the compiler.
    """
    preferred = target_named(target)
    graph = _checked(model, weights or {})
    declared = {value.name: (value.shape, value.type) for value in graph.graph.outputs}
    described = {info.name for info in model.graph.value_info}
    ctx = Context(preferred, Names(graph))
    pipeline(ctx)(graph)
    entries = ctx.ledger.entries(frozenset(_values(graph)))
    for value in graph.graph.outputs:
        value.shape, value.type = declared[value.name]
    folded = ir.to_proto(graph)
    _forget_inferred(folded, described)
    _demand_valid(folded, model, ctx.ledger.notes)
    report = Report(
        target=target,
        entries=entries,
        operators_before=operator_counts(model),
        operators_after=operator_counts(folded),
        notes=tuple(ctx.ledger.notes),
    )
    return Folded(folded, report)


def pipeline(ctx: Context) -> ir.passes.Sequential:
    """Every pass in order; the moves in the middle repeat until none makes the graph cheaper."""
    moves = ir.passes.PassManager((PullBackward(ctx), PushForward(ctx), TurnSigns(ctx)), steps=ROUNDS)
    last_resorts = (ClampBehindWeights(ctx), ClampBeforeWeights(ctx), OnesChannel(ctx), DuplicateWeights(ctx))
    return ir.passes.Sequential(
        preparation(ctx),
        LiftAffines(ctx),
        ir.passes.PassManager((moves, InvertForOthers(ctx), *last_resorts), steps=ROUNDS),
        LowerAffines(ctx),
        PermuteDense(ctx),
        CropUnread(ctx),
        WinogradRows(ctx),
        RemoveUnusedNodesPass(),
        OrderInitializers(ctx),
    )


def _checked(model: onnx.ModelProto, weights: Mapping[str, ir.TensorProtocol]) -> ir.Model:
    """A model as a graph to rewrite; `InputError` if it is not valid or too old."""
    opset = max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=0)
    if opset < OLDEST_OPSET:
        raise InputError(
            f"the model uses opset {opset}; {OLDEST_OPSET} or newer is needed (onnx.version_converter raises it)"
        )
    wrong = weights_fault(model, weights) or graph_fault(model, full=False)
    if wrong:
        raise InputError(f"not a valid ONNX model: {wrong}")
    try:
        graph = ir.from_proto(model)
    except Exception as error:
        cause = error.__cause__ or error
        raise InputError(f"not a valid ONNX model: {str(cause).splitlines()[0]}") from error
    for name, tensor in weights.items():
        graph.graph.initializers[name].const_value = tensor
    return graph


def _demand_valid(folded: onnx.ModelProto, given: onnx.ModelProto, notes: list[str]) -> None:
    """The result passes the full check, unless the given model does not: then it passes what that one passes."""
    wrong = graph_fault(folded, full=True)
    inherited = graph_fault(given, full=True) if wrong else ""
    if inherited:
        notes.append(f"the given model fails the full check of onnx.checker: {inherited}")
        wrong = graph_fault(folded, full=False)
    if wrong:
        raise VerificationError(f"the folded model is not valid, which is a mistake of the compiler: {wrong}")


def _values(model: ir.Model) -> list[ir.Value]:
    return [*model.graph.inputs, *(output for node in model.graph for output in node.outputs)]


def _forget_inferred(model: onnx.ModelProto, described: set[str]) -> None:
    """Drops the shapes that were inferred for the passes and that the given model did not state."""
    stated = [info for info in model.graph.value_info if info.name in described]
    del model.graph.value_info[:]
    model.graph.value_info.extend(stated)
