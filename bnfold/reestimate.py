"""New moving statistics from unlabelled data: layer by layer, in the order of the graph.

Adaptive batch normalisation (Li et al., arXiv:1603.04779), its statistics mixed with the source's by a pseudo-count
(Schneider et al., arXiv:2006.16971): with N for the source and n examples, the new ones are
N/(N+n) · source + n/(N+n) · measured, for mean and variance alike. A layer is measured when all layers before it have
their new statistics, since its input depends on them; one pass with old statistics everywhere would measure inputs that
the renewed network never sees.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper

from bnfold.errors import InputError
from bnfold.samples import batch_size, runtime_inputs

CHUNK = 128
"""Examples that run together; bounds the memory of the activations."""

Array = npt.NDArray[np.generic]
Vector = npt.NDArray[np.float64]
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Layer:
    """What one layer's statistics were and are.

    Attributes:
        name: of the `BatchNormalization` node.
        source_mean, source_variance: float64 [channels], before.
        measured_mean, measured_variance: float64 [channels], of its input over all examples and positions.
        mean, variance: float64 [channels], mixed; what the new model holds, but for rounding to its type.
    """

    name: str
    source_mean: Vector
    source_variance: Vector
    measured_mean: Vector
    measured_variance: Vector
    mean: Vector
    variance: Vector


@dataclass(frozen=True)
class Reestimated:
    """A model with new statistics, and what they were and are, in the order of the graph."""

    model: onnx.ModelProto
    layers: tuple[Layer, ...]


def reestimate(
    model: onnx.ModelProto,
    inputs: Mapping[str, Array],
    *,
    pseudo_count: float,
    progress: Progress | None = None,
) -> Reestimated:
    """Re-estimates the statistics of every BatchNormalization node on unlabelled examples.

    Activations are computed in the model's own precision, sums in float64.

    Args:
        model: unfolded, its nodes in topological order, as ONNX asks; it is not changed.
        inputs: a batch of n examples per graph input. Where the graph insists on a batch size, a rest that does not
            fill a batch is left out.
        pseudo_count: N, how many examples the source statistics count for; 0 forgets them.
        progress: called before each layer with its name, its number from 0 and how many there are.

    Returns:
        The model with new statistics.

    Raises:
        InputError: no BatchNormalization with constant statistics; statistics that two nodes share; no examples, or
            inputs that do not fit; activations that are not finite; a negative pseudo-count.
    """
    if not pseudo_count >= 0:
        raise InputError(f"pseudo-count: {pseudo_count} is not a number of examples")
    renewed = onnx.ModelProto()
    renewed.CopyFrom(model)
    count = _count(model, inputs)
    nodes = _normalisations(renewed)
    layers = []
    for number, node in enumerate(nodes):
        if progress:
            progress(node.name, number, len(nodes))
        layers.append(_renew(renewed, node, inputs, count, pseudo_count))
    return Reestimated(renewed, tuple(layers))


def _renew(
    model: onnx.ModelProto, node: onnx.NodeProto, inputs: Mapping[str, Array], count: int, pseudo_count: float
) -> Layer:
    """Measures a node's input and replaces its statistics in the model."""
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    holders = [tensors[name] for name in node.input[3:5]]
    old_mean, old_variance = (numpy_helper.to_array(tensor).astype(np.float64) for tensor in holders)
    mean, variance = _moments(_activations(model, node.input[0], inputs, count), old_mean)
    if not (np.isfinite(mean).all() and np.isfinite(variance).all()):
        raise InputError(f"{node.name}: its input is not finite on these examples")
    share = pseudo_count / (pseudo_count + count)
    new_mean = share * old_mean + (1 - share) * mean
    new_variance = share * old_variance + (1 - share) * variance
    for holder, values in zip(holders, (new_mean, new_variance), strict=True):
        dtype = helper.tensor_dtype_to_np_dtype(holder.data_type)
        holder.CopyFrom(numpy_helper.from_array(values.astype(dtype), holder.name))
    return Layer(node.name, old_mean, old_variance, mean, variance, new_mean, new_variance)


def _moments(batches: Iterator[Array], origin: Vector) -> tuple[Vector, Vector]:
    """Mean and (biased) variance per channel, the second axis, over all other axes of all batches.

    Sums are taken of the distance from an origin near the mean: the variance then does not drown in the mean's square.
    """
    total, squares, count = np.zeros_like(origin), np.zeros_like(origin), 0
    for batch in batches:
        across = (1, -1, *(1,) * (batch.ndim - 2))
        axes = tuple(axis for axis in range(batch.ndim) if axis != 1)
        distance = batch.astype(np.float64) - origin.reshape(across)
        total += distance.sum(axis=axes)
        squares += np.square(distance).sum(axis=axes)
        count += distance.size // len(origin)
    mean = total / count
    return origin + mean, np.maximum(squares / count - mean**2, 0.0)


def _activations(model: onnx.ModelProto, tensor: str, inputs: Mapping[str, Array], count: int) -> Iterator[Array]:
    """An inner tensor's values, batch by batch."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    part = _up_to(model, tensor)
    session = ort.InferenceSession(part.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [info.name for info in session.get_inputs()]
    size = batch_size(model) or CHUNK
    for start in range(0, count, size):
        try:
            (values,) = session.run([tensor], {name: inputs[name][start : start + size] for name in names})
        except Exception as error:
            raise InputError(f"the model does not run on these inputs: {str(error).splitlines()[0]}") from error
        yield values


def _up_to(model: onnx.ModelProto, tensor: str) -> onnx.ModelProto:
    """The part of a model that computes one tensor, which becomes its only output."""
    needed, nodes = {tensor}, list[onnx.NodeProto]()
    for node in reversed(model.graph.node):
        if needed.intersection(node.output):
            needed.update(_reads(node))
            nodes.append(node)
    part = onnx.ModelProto()
    part.CopyFrom(model)
    graph = part.graph
    for field, kept in (
        (graph.node, nodes[::-1]),
        (graph.initializer, [value for value in model.graph.initializer if value.name in needed]),
        (graph.input, [info for info in model.graph.input if info.name in needed]),
        (graph.output, [helper.make_empty_tensor_value_info(tensor)]),
    ):
        del field[:]
        field.extend(kept)
    return part


def _reads(node: onnx.NodeProto) -> set[str]:
    """What a node reads, in its subgraphs as well."""
    inner = (attribute.g for attribute in node.attribute if attribute.type == onnx.AttributeProto.GRAPH)
    return set(node.input).union(*(_reads(child) for graph in inner for child in graph.node))


def _normalisations(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The nodes to renew, in the graph's order."""
    constants = {tensor.name for tensor in model.graph.initializer}
    nodes = [
        node
        for node in model.graph.node
        if node.op_type == "BatchNormalization" and all(name in constants for name in node.input[3:5])
    ]
    if not nodes:
        raise InputError("the model has no BatchNormalization with constant statistics; was it folded already?")
    owners: dict[str, str] = {}
    for node in nodes:
        for name in node.input[3:5]:
            if name in owners:
                raise InputError(
                    f"{owners[name]} and {node.name} share their statistics; one cannot be measured before the other"
                )
            owners[name] = node.name
    return nodes


def _count(model: onnx.ModelProto, inputs: Mapping[str, Array]) -> int:
    """How many examples there are to measure on."""
    names = [info.name for info in runtime_inputs(model)]
    if set(inputs) != set(names):
        raise InputError(f"inputs must be given for exactly {', '.join(names)}")
    counts = {len(array) for array in inputs.values()}
    if len(counts) != 1:
        raise InputError(f"the inputs hold different numbers of examples: {', '.join(map(str, sorted(counts)))}")
    (count,) = counts
    fixed = batch_size(model) or 1
    if count < fixed:
        raise InputError(f"{count} examples, at least {fixed} needed")
    return int(count - count % fixed)
