"""Graphs in ONNX text syntax, and the one check that every fold must pass."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnx.parser
from onnx import numpy_helper

import bnfold

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
    return result


def residuals(proto: onnx.ModelProto) -> int:
    """BatchNormalization nodes, and arithmetic with a constant operand."""
    constants = {tensor.name for tensor in proto.graph.initializer}
    return sum(
        node.op_type == "BatchNormalization"
        or (node.op_type in ("Mul", "Add", "Sub", "Div") and any(name in constants for name in node.input))
        for node in proto.graph.node
    )
