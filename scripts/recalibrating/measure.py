"""What networks answer, and what their layers see, image by image."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from drift import Layout

BATCH = 100
Array = NDArray[np.float64]


def session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """An ONNX Runtime session on the CPU."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def outputs(graph: onnxruntime.InferenceSession, images: NDArray[Any], names: Sequence[str]) -> list[NDArray[Any]]:
    """Outputs of a graph of one input, [n, …] each, batch by batch."""
    (source,) = graph.get_inputs()
    size = source.shape[0] if isinstance(source.shape[0], int) else BATCH
    last = len(images) - size + 1 if isinstance(source.shape[0], int) else len(images)
    parts = [graph.run(names, {source.name: images[at : at + size]}) for at in range(0, last, size)]
    return [np.concatenate(column) for column in zip(*parts, strict=True)]


def answers(model: onnx.ModelProto, images: NDArray[Any]) -> Array:
    """The first output, float64 [n, classes], as probabilities: values that do not sum to 1 are taken for logits."""
    (values,) = outputs(session(model), images, [model.graph.output[0].name])
    scores = values.reshape(len(values), -1).astype(np.float64)
    if np.allclose(scores.sum(1), 1, atol=1e-3) and scores.min(initial=0.0) >= 0:
        return scores
    powers = np.exp(scores - scores.max(1, keepdims=True))
    return np.asarray(powers / powers.sum(1, keepdims=True))


def early_features(reference: onnx.ModelProto, images: NDArray[Any]) -> dict[str, Array]:
    """Mean of each image's channels, [n, channels], at the inputs of the first half of the normalisation layers."""
    nodes = [node for node in reference.graph.node if node.op_type == "BatchNormalization"]
    nodes = nodes[: (len(nodes) + 1) // 2]
    open_model = onnx.ModelProto()
    open_model.CopyFrom(reference)
    del open_model.graph.output[:]
    tensors = list(dict.fromkeys(node.input[0] for node in nodes))
    open_model.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in tensors)
    graph = session(open_model)
    parts: dict[str, list[Array]] = {name: [] for name in tensors}
    for at in range(0, len(images), BATCH):
        for name, values in zip(tensors, outputs(graph, images[at : at + BATCH], tensors), strict=True):
            parts[name].append(values.mean(axis=tuple(range(2, values.ndim)), dtype=np.float64))
    means = {name: np.concatenate(column) for name, column in parts.items()}
    return {node.name: means[node.input[0]] for node in nodes}


def picture_moments(probe: onnx.ModelProto, layout: Layout, images: NDArray[Any]) -> Array:
    """The moments of every picture by itself, float64 [n, length] (see `drift.Moments`).

    The probe sums over a batch; here its sums leave the batch's axis alone, which is many times quicker than batches
    of one picture.
    """
    graph = session(by_picture(probe))
    rows = []
    for at in range(0, len(images), BATCH):
        batch = images[at : at + BATCH]
        found = dict(zip(layout.outputs, graph.run(layout.outputs, {probe.graph.input[0].name: batch}), strict=True))
        columns = [np.ones((len(batch), 1))]
        for name in layout.outputs:
            value = np.asarray(found[name], np.float64)
            columns.append(np.full((len(batch), 1), value / len(batch)) if value.ndim == 0 else value)
        rows.append(np.concatenate(columns, axis=1))
    return np.concatenate(rows)


def by_picture(probe: onnx.ModelProto) -> onnx.ModelProto:
    """A probe whose sums are those of each picture, [n, channels]; its counts stay those of the batch."""
    model = onnx.ModelProto()
    model.CopyFrom(probe)
    for tensor in model.graph.initializer:
        if tensor.name.endswith("/probe/axes"):
            axes = numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array(axes[axes != 0], tensor.name))
    for node in model.graph.node:
        if node.op_type == "ReduceSum" and any(name.endswith("/probe/axes") for name in node.input):
            node.attribute.append(helper.make_attribute("noop_with_empty_axes", 1))
    for value in model.graph.output:
        if value.name.endswith(("/sum", "/sum_of_squares")):
            channels = value.type.tensor_type.shape.dim[0].dim_value
            value.CopyFrom(helper.make_tensor_value_info(value.name, onnx.TensorProto.DOUBLE, ["batch", channels]))
    return model


def agreement(before: Array, after: Array) -> float:
    """Share of the rows with the same largest entry."""
    return float(np.mean(before.argmax(1) == after.argmax(1)))
