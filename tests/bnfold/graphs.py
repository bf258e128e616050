"""Graphs in ONNX text syntax, and the one check that every fold must pass."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnx.parser
from onnx import numpy_helper

import bnfold
from bnfold.evaluate import Float64Evaluator
from bnfold.samples import batch_size, samples

TARGETS = tuple(bnfold.TARGETS)


def model(text: str, opset: int = 18, **arrays: Any) -> onnx.ModelProto:
    """A model from `(inputs) => (outputs) { nodes }`, with initializers given as arrays by name."""
    text = text.replace("<>", "")
    parsed = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": {opset}]> g {text}')
    for name, given in arrays.items():
        wide = np.asarray(given)
        array = wide.astype(np.float32) if wide.dtype == np.float64 else wide
        parsed.graph.initializer.append(numpy_helper.from_array(array, name))
    onnx.checker.check_model(parsed, full_check=True)
    return parsed


def weights(*shape: int, seed: int = 0) -> Any:
    """Random weights of unit scale for an output of (out, in, kernel…) or (in, out)."""
    fan = np.prod(shape[1:]) if len(shape) > 2 else shape[0]
    return np.random.default_rng((seed, *shape)).normal(0, 1 / np.sqrt(fan), shape)


def bias(size: int, seed: int = 1) -> Any:
    """A random bias."""
    return np.random.default_rng((seed, size)).normal(0, 0.5, size)


def statistics(size: int, sign: str = "positive", seed: int = 2) -> dict[str, Any]:
    """Operands of a BatchNormalization under the names g, b, m and v."""
    rng = np.random.default_rng((seed, size))
    signs: dict[str, Any] = {"positive": 1.0, "negative": -1.0, "mixed": np.resize([1.0, -1.0, 1.0], size)}
    return {
        "g": rng.uniform(0.5, 1.5, size) * signs[sign],
        "b": rng.normal(0, 0.5, size),
        "m": rng.normal(0, 0.5, size),
        "v": rng.uniform(0.3, 2, size),
    }


def operators(proto: onnx.ModelProto) -> list[str]:
    """Operator types in order."""
    return [node.op_type for node in proto.graph.node]


def folded(
    reference: onnx.ModelProto,
    target: str = "ort-cpu",
    inputs: Mapping[str, Any] | None = None,
    tolerance: float = 1e-5,
) -> bnfold.Folded:
    """Folds, and checks: a valid model, the same function, idempotent, the input untouched."""
    before = reference.SerializeToString(deterministic=True)
    result = bnfold.fold(reference, target=target)
    assert reference.SerializeToString(deterministic=True) == before
    onnx.checker.check_model(result.model, full_check=True)
    certificate = bnfold.verify(reference, result.model, inputs, count=4, tolerance=tolerance)
    assert certificate.holds, certificate
    again = bnfold.fold(result.model, target=target).model
    assert again.SerializeToString(deterministic=True) == result.model.SerializeToString(deterministic=True)
    batch = samples(reference, inputs, batch_size(reference) or 2)["random"]
    assert_taps(reference, result, batch, tolerance)
    return result


def assert_taps(
    reference: onnx.ModelProto, result: bnfold.Folded, batch: Mapping[str, Any], tolerance: float = 1e-5
) -> None:
    """Every layer's input follows from its tap: scale * tensor + shift, channel by channel, both in float64."""
    entries = [entry for entry in result.report.entries if entry.tap is not None]
    wanted = {entry.name: layer_input(reference, entry.name) for entry in entries}
    truth = Float64Evaluator(reference, list(dict.fromkeys(wanted.values())))(batch)
    tapped = Float64Evaluator(result.model, list(dict.fromkeys(e.tap.tensor for e in entries if e.tap)))(batch)
    for entry in entries:
        assert entry.tap is not None
        tap, original = entry.tap, truth[wanted[entry.name]]
        seen = np.moveaxis(tapped[tap.tensor], tap.axis, -1)[..., : len(tap.scale)]
        scale, shift = (np.array(side, np.float64) for side in (tap.scale, tap.shift))  # None becomes NaN
        found = np.moveaxis(seen * scale + shift, -1, tap.axis)
        assert found.shape == original.shape
        visible = ~np.isnan(found)
        magnitude = max(1.0, float(np.abs(original).max(initial=0)))
        largest = np.nan_to_num(np.abs(scale)).max(initial=1) * max(1.0, float(np.abs(seen).max(initial=0)))
        error = np.abs(found - original)[visible].max(initial=0)
        assert error <= tolerance * magnitude + 2e-7 * largest, (entry, error)


def layer_input(reference: onnx.ModelProto, name: str) -> str:
    """The tensor that a layer of a report reads; unnamed nodes are called after their output."""
    first = name.split("+", maxsplit=1)[0]
    constants = {tensor.name for tensor in reference.graph.initializer}
    for node in reference.graph.node:
        if first in (node.name, f"{node.op_type}_{node.output[0]}"):
            return next(str(operand) for operand in node.input if operand not in constants)
    raise AssertionError(f"{name} is no layer of the reference")


def residuals(proto: onnx.ModelProto) -> int:
    """BatchNormalization nodes, and arithmetic with a constant operand."""
    constants = {tensor.name for tensor in proto.graph.initializer}
    return sum(
        node.op_type == "BatchNormalization"
        or (node.op_type in ("Mul", "Add", "Sub", "Div") and any(name in constants for name in node.input))
        for node in proto.graph.node
    )
