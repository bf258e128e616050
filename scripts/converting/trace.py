"""A Keras network as an ONNX graph in which every BatchNormalization layer is still there, under its own name.

Keras computes batch normalisation with a multiplication and an addition, and converters fold what they can of it, so
the layers vanish from an export. Here each layer's parameters enter the traced function as *inputs* instead of
constants: nothing can be folded into an input, and its name says which layer it belongs to. Afterwards the inputs
become initializers with the layer's very values. Converter: tf2onnx, to its newest opset.
"""

import logging
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
import onnx
import tensorflow as tf
from numpy.typing import NDArray
from onnx import helper, numpy_helper

OPSET = 18  # tf2onnx 1.17 goes no further, and no operator of a CNN has changed since.
PARAMETERS = ("gamma", "beta", "moving_mean", "moving_variance")
_MARK = "batchnorm__"  # A parameter enters as batchnorm__<index of the layer>__<parameter>.

Tensor = Any


def _mark(number: int, parameter: str) -> str:
    return f"{_MARK}{number}__{parameter}"


class ExportError(Exception):
    """A network cannot be exported; the message names the layer."""


class BatchNormLayer(NamedTuple):
    """A Keras layer's parameters, float32 [channels] each; gamma is ones and beta zeros where the layer has none."""

    layer: Any
    parameters: dict[str, NDArray[np.float32]]


def batchnorm_layers(model: keras.Model) -> list[BatchNormLayer]:
    """Every BatchNormalization layer of a network, nested networks included, in the order of the network."""
    found: dict[str, BatchNormLayer] = {}
    for layer in model._flatten_layers(include_self=False, recursive=True):
        if isinstance(layer, keras.layers.BatchNormalization) and layer.built:
            if layer.name in found and found[layer.name].layer is not layer:
                raise ExportError(f"layer {layer.name!r}: two BatchNormalization layers have this name; rename one")
            found[layer.name] = BatchNormLayer(layer, _parameters(layer))
    return list(found.values())


def _parameters(layer: Any) -> dict[str, NDArray[np.float32]]:
    mean = np.asarray(layer.moving_mean, np.float32)
    return {
        "gamma": np.asarray(layer.gamma, np.float32) if layer.scale else np.ones_like(mean),
        "beta": np.asarray(layer.beta, np.float32) if layer.center else np.zeros_like(mean),
        "moving_mean": mean,
        "moving_variance": np.asarray(layer.moving_variance, np.float32),
    }


def trace(model: keras.Model, input_names: dict[str, str], output_names: list[str], pixels: bool) -> onnx.ModelProto:
    """Convert a network in inference mode.

    Args:
        model: Functional or Sequential.
        input_names: ONNX name of every input, by its Keras name.
        output_names: ONNX name of every output, in order.
        pixels: the inputs are taken as uint8 and cast to float32.

    Returns:
        A graph at opset 18 whose nodes `BatchNormalization` carry their Keras layers' names.

    Raises:
        ExportError: the network is subclassed, or has a layer that tf2onnx does not convert.
    """
    graph_of_layers = functional(model)
    norms = batchnorm_layers(graph_of_layers)
    index = {norm.layer.name: number for number, norm in enumerate(norms)}
    inputs: dict[str, Tensor] = {}

    clones: dict[str, Any] = {}  # One per layer: what is read twice stays shared.

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(layer, keras.layers.BatchNormalization):
            if kwargs.get("training"):
                raise ExportError(f"layer {layer.name!r}: called with training=True, it would use batch statistics")
            number = index[layer.name]
            if layer.name not in clones:
                clones[layer.name] = _Marked(layer, lambda: [inputs[_mark(number, name)] for name in PARAMETERS])
            return clones[layer.name](args[0])
        if isinstance(layer, keras.layers.Flatten):
            # Flatten asks for its input's shape at run time; the shape is known here.
            return keras.ops.reshape(args[0], (-1, int(np.prod(args[0].shape[1:]))))
        if isinstance(layer, keras.Model):
            if layer.name not in clones:
                clones[layer.name] = _clone(functional(layer), call)
            return clones[layer.name](*args, **kwargs)
        return layer(*args, **kwargs)

    pictures = [
        tf.TensorSpec(tensor.shape, tf.uint8 if pixels else tf.as_dtype(tensor.dtype), input_names[tensor.name])
        for tensor in graph_of_layers.inputs
    ]
    parameters = [
        tf.TensorSpec(values.shape, tf.float32, _mark(number, name))
        for number, norm in enumerate(norms)
        for name, values in norm.parameters.items()
    ]

    for number, norm in enumerate(norms):
        for name, values in norm.parameters.items():
            inputs[_mark(number, name)] = tf.constant(values)
    try:
        clone = _clone(graph_of_layers, call)
    except (NotImplementedError, TypeError, ValueError) as error:
        raise ExportError(f"model {model.name!r}: {str(error).splitlines()[0]}") from error

    @tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]
    def function(*tensors: Tensor) -> dict[str, Tensor]:
        images, rest = tensors[: len(pictures)], tensors[len(pictures) :]
        inputs.update({spec.name: tensor for spec, tensor in zip(parameters, rest, strict=True)})
        outputs = clone([tf.cast(image, tf.float32) if pixels else image for image in images], training=False)
        return dict(zip(output_names, outputs if isinstance(outputs, list | tuple) else [outputs], strict=True))

    proto = _convert(function, [*pictures, *parameters], graph_of_layers)
    proto.graph.output.sort(key=lambda output: output_names.index(output.name))
    _restore(proto, norms)
    return proto


def functional(model: keras.Model) -> keras.Model:
    """The network as a graph of layers.

    Raises:
        ExportError: it is subclassed or was never built, so its graph is not known.
    """
    if not isinstance(model, keras.models.Sequential | keras.src.models.functional.Functional):
        raise ExportError(f"model {model.name!r}: only Functional and Sequential networks can be exported")
    if not model.built:
        raise ExportError(f"model {model.name!r}: it was never built; begin it with keras.Input")
    return keras.Model(model.inputs, model.outputs, name=model.name)


def _clone(model: keras.Model, call: Callable[..., Any]) -> keras.Model:
    return keras.models.clone_model(model, clone_function=lambda layer: layer, call_function=call)


class _Marked(keras.layers.Layer):  # type: ignore[misc]
    """Batch normalisation with parameters that come from outside."""

    def __init__(self, norm: Any, parameters: Callable[[], list[Tensor]]) -> None:
        super().__init__(name=f"{norm.name}_marked")
        # A function, since Keras would copy a dictionary, and the tensors change from call to call.
        self._norm, self._parameters = norm, parameters

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The shape stays."""
        return input_shape

    def call(self, tensor: Tensor) -> Tensor:
        """Normalise with the kernel that tf2onnx knows, or, for vectors, with a pair that `_restore` knows."""
        gamma, beta, mean, variance = self._parameters()
        rank, axis = len(tensor.shape), self._norm.axis % len(tensor.shape)
        if rank == 2:
            return tensor * gamma + beta
        channels_last = tf.transpose(tensor, _to_last(rank, axis)) if axis != rank - 1 else tensor
        flat = channels_last
        if rank != 4:
            flat = tf.reshape(flat, [-1, 1, _inner(flat), int(gamma.shape[0])])
        flat = tf.raw_ops.FusedBatchNormV3(
            x=flat, scale=gamma, offset=beta, mean=mean, variance=variance,
            epsilon=self._norm.epsilon, is_training=False,
        )[0]  # fmt: skip
        if rank != 4:
            flat = tf.reshape(flat, [-1, *channels_last.shape[1:]])
        return tf.transpose(flat, np.argsort(_to_last(rank, axis))) if axis != rank - 1 else flat


def _to_last(rank: int, axis: int) -> list[int]:
    return [*(i for i in range(rank) if i != axis), axis]


def _inner(tensor: Tensor) -> int:
    inner = tensor.shape[1:-1]
    if None in inner:
        raise ExportError(f"batch normalisation of a tensor {tensor.shape}: only the batch may be of unknown size")
    return int(np.prod(inner))


def _convert(function: Any, specs: list[Any], model: keras.Model) -> onnx.ModelProto:
    import tf2onnx

    logging.getLogger("tf2onnx").setLevel(logging.ERROR)
    proto: onnx.ModelProto
    try:
        proto, _ = tf2onnx.convert.from_function(
            tf.function(function, input_signature=specs), input_signature=specs, opset=OPSET
        )
    except ExportError:
        raise
    except Exception as error:  # tf2onnx raises whatever its handlers raise.
        raise ExportError(f"model {model.name!r}: tf2onnx: {str(error).splitlines()[0]}") from error
    for node in proto.graph.node:
        if node.domain or not onnx.defs.has(node.op_type):
            layer = layer_of(node.name, model) or node.name
            raise ExportError(f"layer {layer!r}: its operation {node.op_type} has no ONNX equivalent in tf2onnx")
    return proto


def layer_of(path: str, model: keras.Model) -> str | None:
    """Name of the innermost Keras layer in a TensorFlow node's path, whose parts may end in _1, _2, …."""
    names = {layer.name for layer in model._flatten_layers(include_self=False, recursive=True)}
    for part in reversed(path.split(":", maxsplit=1)[0].split("/")):
        for candidate in (part, re.sub(r"_\d+$", "", part), re.sub(r"_marked(_\d+)?$", "", part)):
            if candidate in names:
                return candidate
    return None


def _restore(proto: onnx.ModelProto, norms: list[BatchNormLayer]) -> None:
    """Make the marked operations BatchNormalization nodes with the layers' names, and their inputs initializers."""
    graph = proto.graph
    marked = [value for value in graph.input if value.name.startswith(_MARK)]
    for value in marked:
        graph.input.remove(value)
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    for number, norm in enumerate(norms):
        names = [f"{norm.layer.name}/{name}" for name in PARAMETERS]
        for multiply in [node for node in readers.get(_mark(number, "gamma"), []) if node.op_type == "Mul"]:
            (add,) = readers[multiply.output[0]]
            source = next(name for name in multiply.input if not name.startswith(_MARK))
            add.CopyFrom(helper.make_node("BatchNormalization", [source, *names], add.output[:], name=add.name))
            add.attribute.append(helper.make_attribute("epsilon", float(norm.layer.epsilon)))
            graph.node.remove(multiply)
        for node in graph.node:
            if node.op_type == "BatchNormalization" and node.input[1] in (names[0], _mark(number, "gamma")):
                node.input[1:] = names
                node.name = norm.layer.name
                _set_epsilon(node, norm.layer.epsilon)
        graph.initializer.extend(
            numpy_helper.from_array(values, f"{norm.layer.name}/{name}") for name, values in norm.parameters.items()
        )


def _set_epsilon(node: onnx.NodeProto, epsilon: float) -> None:
    for attribute in [a for a in node.attribute if a.name in ("epsilon", "momentum", "spatial")]:
        node.attribute.remove(attribute)
    node.attribute.append(helper.make_attribute("epsilon", float(epsilon)))
