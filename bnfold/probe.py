"""The folded graph that also sums up what reaches its batch-normalisation layers.

A layer that was folded away has no input any more, but its tap has: input = scale · tap + shift. Each tap is
standardised with the layer's own moving statistics, z = (input - mean)/sqrt(variance + epsilon), and the probe adds
three outputs a layer: `<layer>/count` (int64, scalar: values summed in each channel), `<layer>/sum` and
`<layer>/sum_of_squares` (float64 [channels], of z). They are additive over batches, time and machines. Data as in
training give a mean of 0 and a mean square of variance/(variance + epsilon). z is summed in float64: far from the
training data its mean can be a thousand times its deviation, and float32 squares would lose the variance.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from bnfold.pipeline import Folded
from bnfold.report import Tap

Statistics = tuple[NDArray[np.float64], NDArray[np.float64]]


def probe(reference: onnx.ModelProto, folded: Folded) -> onnx.ModelProto:
    """The folded model with the sums of every layer that has a tap as further outputs.

    A channel that its tap does not show (`Tap.scale` is None) has sums of 0.

    Args:
        reference: the model that was folded; its BatchNormalization nodes hold the moving statistics.
        folded: what `fold` made of it.

    Returns:
        A new model whose first outputs are the folded model's.
    """
    model = onnx.ModelProto()
    model.CopyFrom(folded.model)
    ranks = _ranks(model)
    statistics = _statistics(reference)
    for entry in folded.report.entries:
        if entry.tap is not None and entry.name in statistics:
            _add(model, entry.name, entry.tap, statistics[entry.name], ranks[entry.tap.tensor])
    return model


def _statistics(reference: onnx.ModelProto) -> Mapping[str, Statistics]:
    """Moving mean and sqrt(moving variance + epsilon) of every BatchNormalization node, by name."""
    constants = {tensor.name: tensor for tensor in reference.graph.initializer}
    found = {}
    for node in reference.graph.node:
        if node.op_type == "BatchNormalization" and all(name in constants for name in node.input[3:5]):
            mean, variance = (numpy_helper.to_array(constants[name]).astype(np.float64) for name in node.input[3:5])
            epsilon = next((a.f for a in node.attribute if a.name == "epsilon"), 1e-5)
            found[node.name] = mean, np.sqrt(variance + epsilon)
    return found


def _add(model: onnx.ModelProto, name: str, tap: Tap, statistics: Statistics, rank: int) -> None:
    """Append the nodes of one layer; z = slope · tap + offset."""
    mean, sigma = statistics
    seen = np.array([scale is not None for scale in tap.scale])
    scale = np.array([scale or 0.0 for scale in tap.scale])
    shift = np.array([shift or 0.0 for shift in tap.shift])
    slope = np.where(seen, scale / sigma, 0.0)
    offset = np.where(seen, (shift - mean) / sigma, 0.0)
    across = [1] * rank
    across[tap.axis] = -1
    graph, stem = model.graph, f"{name}/probe"
    axes = [axis for axis in range(rank) if axis != tap.axis]
    constants: dict[str, NDArray[Any]] = {
        "slope": slope.astype(np.float32).reshape(across),
        "offset": offset.astype(np.float32).reshape(across),
        "axes": np.array(axes, np.int64),
        "channels": np.array(len(slope), np.int64),
    }
    graph.initializer.extend(numpy_helper.from_array(values, f"{stem}/{key}") for key, values in constants.items())

    def reduce(source: str, target: str) -> onnx.NodeProto:
        if _opset(model) >= 13:
            return helper.make_node("ReduceSum", [source, f"{stem}/axes"], [target], name=target, keepdims=0)
        return helper.make_node("ReduceSum", [source], [target], name=target, axes=axes, keepdims=0)

    graph.node.extend(
        [
            helper.make_node("Mul", [tap.tensor, f"{stem}/slope"], [f"{stem}/scaled"], name=f"{stem}/scaled"),
            helper.make_node("Add", [f"{stem}/scaled", f"{stem}/offset"], [f"{stem}/z32"], name=f"{stem}/z32"),
            helper.make_node("Cast", [f"{stem}/z32"], [f"{stem}/z"], name=f"{stem}/z", to=TensorProto.DOUBLE),
            helper.make_node("Mul", [f"{stem}/z", f"{stem}/z"], [f"{stem}/squares"], name=f"{stem}/squares"),
            reduce(f"{stem}/z", f"{name}/sum"),
            reduce(f"{stem}/squares", f"{name}/sum_of_squares"),
            helper.make_node("Size", [tap.tensor], [f"{stem}/size"], name=f"{stem}/size"),
            helper.make_node("Div", [f"{stem}/size", f"{stem}/channels"], [f"{name}/count"], name=f"{name}/count"),
        ]
    )
    vector = [len(slope)]
    graph.output.extend(
        [
            helper.make_tensor_value_info(f"{name}/count", TensorProto.INT64, []),
            helper.make_tensor_value_info(f"{name}/sum", TensorProto.DOUBLE, vector),
            helper.make_tensor_value_info(f"{name}/sum_of_squares", TensorProto.DOUBLE, vector),
        ]
    )


def _ranks(model: onnx.ModelProto) -> dict[str, int]:
    graph = onnx.shape_inference.infer_shapes(model).graph
    return {
        value.name: len(value.type.tensor_type.shape.dim) for value in (*graph.input, *graph.value_info, *graph.output)
    }


def _opset(model: onnx.ModelProto) -> int:
    return max(int(opset.version) for opset in model.opset_import if opset.domain in ("", "ai.onnx"))
