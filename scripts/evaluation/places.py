"""Sixty small Keras networks, one per kind of place where batch normalisation stands, and what stays of them at least.

Every network has random biases and unit-scale weights. `exported` gives its ONNX graph as tf2onnx writes it, each layer
as Mul and Add; `with_batchnorm_nodes` puts BatchNormalization nodes in place of the pairs, `without_batchnorm` nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx
from onnx import helper, numpy_helper

Gamma = Literal["positive", "mixed", "negative"]


@dataclass(frozen=True)
class Topology:
    """A network and what it costs at least."""

    name: str
    build: Callable[[Any, Any], Any]
    """(keras.layers, batch-normalisation factory) -> keras.Model"""
    minimum: int = 0
    gamma: Gamma = "positive"
    statistics: Literal["usual", "degenerate"] = "usual"
    extra_nodes: int = 0
    """Nodes that stay besides: a convolution computed twice, or the Transposes that bring the rows to axis 1."""


def _net(layers: Any, shape: tuple[int, ...], body: Callable[[Any], Any]) -> Any:
    import keras

    inputs = layers.Input(shape, name="x")
    return keras.Model(inputs, body(inputs))


def _sequence(*make: Callable[[Any, Any], Any], shape: tuple[int, ...] = (8, 8, 3)) -> Callable[[Any, Any], Any]:
    def build(layers: Any, bn: Any) -> Any:
        def body(x: Any) -> Any:
            for layer in make:
                x = layer(layers, bn)(x)
            return x

        return _net(layers, shape, body)

    return build


def _layer(name: str, *arguments: Any, **options: Any) -> Callable[[Any, Any], Any]:
    return lambda layers, bn: getattr(layers, name)(*arguments, **options)


def _bn(**options: Any) -> Callable[[Any, Any], Any]:
    return lambda layers, bn: bn(**options)


def _conv(filters: int = 4, kernel: int = 3, **options: Any) -> Callable[[Any, Any], Any]:
    return _layer("Conv2D", filters, kernel, **options)


BN = _bn()
RELU = _layer("ReLU")
CONV = _conv()
LAST = _conv(5)
SAME = _conv(5, padding="same")
DENSE = _layer("Dense", 6)
FLATTEN = _layer("Flatten")
POOL = _layer("MaxPooling2D")


def _resnet_v1(layers: Any, bn: Any) -> Any:
    def body(x: Any) -> Any:
        y = layers.ReLU()(bn()(layers.Conv2D(4, 3, padding="same")(x)))
        y = bn()(layers.Conv2D(4, 3, padding="same")(y))
        return layers.ReLU()(layers.Add()([bn()(layers.Conv2D(4, 1)(x)), y]))

    return _net(layers, (8, 8, 3), body)


def _resnet_v2(layers: Any, bn: Any) -> Any:
    def body(x: Any) -> Any:
        x = layers.Conv2D(4, 3, padding="same")(x)
        y = layers.Conv2D(4, 3, padding="same")(layers.ReLU()(bn()(x)))
        y = layers.Conv2D(4, 3, padding="same")(layers.ReLU()(bn()(y)))
        return layers.ReLU()(layers.Add()([x, y]))

    return _net(layers, (8, 8, 3), body)


def _twice(layers: Any, bn: Any) -> Any:
    shared = layers.Conv2D(4, 3)

    def body(x: Any) -> Any:
        left, right = bn()(shared(x)), bn()(shared(layers.ReLU()(x)))
        return layers.Concatenate()([layers.ReLU()(left), layers.ReLU()(right)])

    return _net(layers, (8, 8, 3), body)


def _concat(layers: Any, bn: Any, after: Callable[[Any], Any]) -> Any:
    def body(x: Any) -> Any:
        branches = [layers.Conv2D(n, 3, activation=a)(x) for n, a in ((3, "relu"), (4, "relu"))]
        return after(layers.Concatenate()(branches))

    return _net(layers, (8, 8, 3), body)


def _concat_forward(layers: Any, bn: Any) -> Any:
    return _concat(layers, bn, lambda x: layers.Conv2D(5, 3)(bn()(x)))


def _concat_backward(layers: Any, bn: Any) -> Any:
    def body(x: Any) -> Any:
        branches = [layers.Conv2D(n, 3)(x) for n in (3, 4)]
        return layers.Conv2D(5, 3, padding="same")(layers.ReLU()(bn()(layers.Concatenate()(branches))))

    return _net(layers, (8, 8, 3), body)


def _densenet(layers: Any, bn: Any) -> Any:
    def body(x: Any) -> Any:
        x = layers.Conv2D(4, 3, activation="relu")(x)
        y = layers.Conv2D(3, 3, padding="same")(layers.ReLU()(bn()(x)))
        return layers.Conv2D(5, 3)(layers.Concatenate()([x, y]))

    return _net(layers, (8, 8, 3), body)


def _two_readers(layers: Any, bn: Any) -> Any:
    def body(x: Any) -> Any:
        x = bn()(layers.Conv2D(4, 3, activation="relu")(x))
        return layers.Concatenate()([layers.Conv2D(5, 3)(x), layers.Conv2D(6, 3)(x)])

    return _net(layers, (8, 8, 3), body)


def _add_of_convs(layers: Any, bn: Any) -> Any:
    def body(x: Any) -> Any:
        return layers.ReLU()(bn()(layers.Add()([layers.Conv2D(4, 3)(x), layers.Conv2D(4, 3)(x)])))

    return _net(layers, (8, 8, 3), body)


def _output_and_reader(layers: Any, bn: Any) -> Any:
    import keras

    x = layers.Input((8, 8, 3), name="x")
    y = bn()(layers.Conv2D(4, 3, activation="relu")(x))
    return keras.Model(x, [y, layers.Conv2D(5, 3)(y)])


def _shared_conv_output(layers: Any, bn: Any) -> Any:
    def body(x: Any) -> Any:
        x = layers.Conv2D(4, 3)(x)
        return layers.Concatenate()([layers.ReLU()(bn()(x)), layers.Conv2D(5, 3, padding="same")(x)])

    return _net(layers, (8, 8, 3), body)


def _separable(layers: Any, bn: Any) -> Any:
    return _net(layers, (8, 8, 3), lambda x: layers.ReLU()(bn()(layers.SeparableConv2D(4, 3)(x))))


def _reference(layers: Any, bn: Any) -> Any:
    def body(x: Any) -> Any:
        for filters in (4, 6):
            x = bn()(layers.Conv2D(filters, 3, activation="relu")(x))
            x = bn()(layers.MaxPooling2D()(x))
        x = bn()(layers.Dense(16, activation="relu")(layers.Flatten()(x)))
        return layers.Dense(5, activation="softmax")(x)

    return _net(layers, (14, 14, 1), body)


TOPOLOGIES: tuple[Topology, ...] = (
    # Directly behind weights: backward, whatever comes next.
    Topology("conv bias bn relu", _sequence(CONV, BN, RELU)),
    Topology("conv bn relu6 negative", _sequence(CONV, BN, _layer("ReLU", 6.0)), gamma="negative"),
    Topology("conv bn leaky", _sequence(CONV, BN, _layer("LeakyReLU", 0.1))),
    Topology("conv bn sigmoid", _sequence(CONV, BN, _layer("Activation", "sigmoid"))),
    Topology("conv without bias bn", _sequence(_conv(use_bias=False), BN, RELU)),
    Topology("conv bn without scale", _sequence(CONV, _bn(scale=False), RELU)),
    Topology("conv bn without center", _sequence(CONV, _bn(center=False), RELU)),
    Topology("depthwise bn", _sequence(_layer("DepthwiseConv2D", 3), BN, RELU)),
    Topology("separable bn", _separable),
    Topology(
        "channels first bn", _sequence(_layer("Permute", (3, 1, 2)), _layer("Permute", (2, 3, 1)), CONV, BN, RELU)
    ),
    Topology("conv transpose bn", _sequence(_layer("Conv2DTranspose", 4, 3, strides=2), BN, RELU)),
    Topology("conv1d bn", _sequence(_layer("Conv1D", 4, 3), BN, RELU, shape=(12, 3))),
    Topology("conv3d bn", _sequence(_layer("Conv3D", 4, 3), BN, RELU, shape=(6, 6, 6, 2))),
    Topology("dense bn relu dense", _sequence(DENSE, BN, RELU, _layer("Dense", 3), shape=(7,))),
    Topology("resnet v1", _resnet_v1),
    Topology("conv bn maxpool relu negative", _sequence(CONV, BN, POOL, RELU), gamma="mixed"),
    Topology("one conv twice", _twice),
    Topology("conv same bn relu", _sequence(SAME, BN, RELU)),
    # Backward, then forward.
    Topology(
        "strided conv bn relu bn dilated conv",
        _sequence(_conv(strides=2), BN, RELU, BN, _conv(5, 2, dilation_rate=2), shape=(12, 12, 3)),
    ),
    Topology(
        "two epsilons",
        _sequence(CONV, _bn(epsilon=0.1), RELU, _bn(epsilon=1.0), LAST),
    ),
    Topology("degenerate statistics", _sequence(CONV, RELU, BN, LAST), statistics="degenerate"),
    # Behind an activation: forward.
    Topology("conv relu bn conv", _sequence(CONV, RELU, BN, LAST)),
    Topology("conv relu bn conv negative", _sequence(CONV, RELU, BN, LAST), gamma="mixed"),
    Topology("conv leaky bn conv", _sequence(CONV, _layer("LeakyReLU", 0.1), BN, LAST)),
    Topology("conv sigmoid bn conv", _sequence(CONV, _layer("Activation", "sigmoid"), BN, LAST)),
    Topology("conv spatial dropout bn conv", _sequence(CONV, RELU, _layer("SpatialDropout2D", 0.2), BN, LAST)),
    Topology("concat bn conv", _concat_forward),
    Topology("dense relu bn dense", _sequence(DENSE, RELU, BN, _layer("Dense", 3), shape=(7,))),
    Topology(
        "dense relu dropout bn dense",
        _sequence(DENSE, RELU, _layer("Dropout", 0.3), BN, _layer("Dense", 3), shape=(7,)),
    ),
    Topology("bn permute dense", _sequence(RELU, BN, _layer("Permute", (2, 1)), FLATTEN, DENSE, shape=(5, 3))),
    Topology("bn over rows flatten dense", _sequence(CONV, RELU, _bn(axis=1), FLATTEN, DENSE)),
    Topology("conv relu bn same conv", _sequence(CONV, RELU, BN, SAME)),
    Topology("conv relu bn zero padding conv", _sequence(CONV, RELU, BN, _layer("ZeroPadding2D", 1), LAST)),
    Topology("bn depthwise valid", _sequence(CONV, RELU, BN, _layer("DepthwiseConv2D", 3))),
    Topology("bn conv transpose", _sequence(CONV, RELU, BN, _layer("Conv2DTranspose", 5, 3, strides=2))),
    Topology("bn on the input", _sequence(BN, LAST)),
    Topology("rescaling bn conv", _sequence(_layer("Rescaling", 1 / 127.5, offset=-1.0), BN, LAST)),
    Topology("bn on the input same conv", _sequence(BN, SAME), minimum=1),
    # Through pools, resampling and reshaping.
    Topology("bn maxpool conv", _sequence(CONV, RELU, BN, POOL, LAST, shape=(10, 10, 3))),
    Topology("bn maxpool conv mixed", _sequence(CONV, RELU, BN, POOL, LAST, shape=(10, 10, 3)), 1, "mixed"),
    Topology("bn maxpool conv all negative", _sequence(CONV, RELU, BN, POOL, LAST, shape=(10, 10, 3)), 0, "negative"),
    Topology(
        "bn global maxpool dense mixed", _sequence(CONV, RELU, BN, _layer("GlobalMaxPooling2D"), DENSE), 1, "mixed"
    ),
    Topology(
        "bn same average pool conv",
        _sequence(CONV, RELU, BN, _layer("AveragePooling2D", 3, padding="same"), _conv(5, 2)),
        gamma="mixed",
    ),
    Topology(
        "bn global average pool dense", _sequence(CONV, RELU, BN, _layer("GlobalAveragePooling2D"), DENSE), 0, "mixed"
    ),
    Topology("bn upsampling conv", _sequence(CONV, RELU, BN, _layer("UpSampling2D"), LAST), gamma="mixed"),
    Topology(
        "bn bilinear upsampling conv", _sequence(CONV, RELU, BN, _layer("UpSampling2D", interpolation="bilinear"), LAST)
    ),
    Topology("bn cropping conv", _sequence(CONV, RELU, BN, _layer("Cropping2D", 1), LAST), gamma="mixed"),
    Topology("bn flatten dense", _sequence(CONV, RELU, BN, FLATTEN, DENSE), gamma="mixed"),
    Topology("bn bn conv", _sequence(CONV, RELU, BN, BN, LAST), gamma="mixed"),
    # Several readers, several producers, outputs.
    Topology("resnet v2", _resnet_v2, extra_nodes=1),
    Topology("concat bn relu conv", _concat_backward),
    Topology("densenet", _densenet, 1),
    Topology("two readers", _two_readers),
    Topology("add of convs bn relu", _add_of_convs),
    Topology("bn as output", _sequence(CONV, RELU, BN)),
    Topology("bn as output and read", _output_and_reader),
    Topology("conv output read twice", _shared_conv_output, extra_nodes=1),
    Topology("bn over rows conv", _sequence(CONV, RELU, _bn(axis=1), LAST), 1, extra_nodes=2),
    Topology("reference", _reference),
    Topology("reference mixed", _reference, 2, "mixed"),
)


class Wider:
    """Makes layers like a module of layers, with more channels, on larger pictures."""

    def __init__(self, layers: Any, channels: int, pixels: int) -> None:
        self._layers, self._channels, self._pixels = layers, channels, pixels

    def __getattr__(self, name: str) -> Any:
        """A layer's class, or what calls it with more channels."""
        made = getattr(self._layers, name)
        if name == "Input":
            return lambda shape, **options: made((*(self._pixels * size for size in shape[:-1]), shape[-1]), **options)
        if name in WITH_CHANNELS:
            return lambda channels, *rest, **options: made(self._channels * channels, *rest, **options)
        return made


WITH_CHANNELS = ("Conv1D", "Conv2D", "Conv3D", "Conv2DTranspose", "SeparableConv2D", "Dense")


def exported(topology: Topology, seed: int = 0, channels: int = 1, pixels: int = 1) -> onnx.ModelProto:
    """The network's ONNX graph as tf2onnx writes it.

    Args:
        topology: says how to build it.
        seed: of the weights.
        channels: factor of the channels of every layer.
        pixels: factor of the pictures' height and width.
    """
    import keras
    import tensorflow as tf
    import tf2onnx

    keras.utils.clear_session()
    rng = np.random.default_rng(seed)
    model = topology.build(Wider(keras.layers, channels, pixels), keras.layers.BatchNormalization)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([_statistic(topology, weight.name, weight.shape, rng) for weight in layer.weights])
        elif layer.weights:
            layer.set_weights([_weight(weight.shape, rng) for weight in layer.weights])
    names = [f"y{index}" for index in range(len(model.outputs))]

    @tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]
    def call(x: Any) -> dict[str, Any]:
        results = model(x, training=False)
        return dict(zip(names, results if isinstance(results, list) else [results], strict=True))

    signature = [tf.TensorSpec((None, *model.inputs[0].shape[1:]), tf.float32, name="x")]
    proto: onnx.ModelProto
    proto, _ = tf2onnx.convert.from_function(tf.function(call, input_signature=signature), signature, opset=18)
    return proto


def _weight(shape: tuple[int, ...], rng: np.random.Generator) -> Any:
    if len(shape) == 1:
        return rng.normal(0, 0.5, shape)
    return rng.normal(0, 1 / np.sqrt(np.prod(shape[:-1])), shape)


def _statistic(topology: Topology, name: str, shape: tuple[int, ...], rng: np.random.Generator) -> Any:
    if name == "gamma":
        gamma = rng.uniform(0.5, 1.5, shape)
        if topology.statistics == "degenerate":
            return np.resize([0.0, 1e-8, -1e-8, 1.0], shape)
        signs: dict[str, Any] = {"positive": 1.0, "negative": -1.0, "mixed": np.resize([1.0, -1.0, 1.0], shape)}
        return gamma * signs[topology.gamma]
    if name == "moving_variance":
        return (
            np.resize([0.0, 1.0, 0.0, 2.0], shape)
            if topology.statistics == "degenerate"
            else rng.uniform(0.3, 2, shape)
        )
    return rng.normal(0, 0.5, shape)


def with_batchnorm_nodes(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph with a BatchNormalization in place of each layer's Mul and Add, where they act along axis 1."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    ranks = {i.name: len(i.type.tensor_type.shape.dim) for i in (*inferred.value_info, *inferred.input)}
    for first, last, x, scale, shift in _layers(result):
        sizes = (1,) * (ranks[x] - scale.ndim) + scale.shape
        if any(size > 1 for axis, size in enumerate(sizes) if axis != 1):
            continue
        operands = {"scale": scale, "shift": shift, "mean": 0 * scale, "variance": 0 * scale + 1}
        for key, array in operands.items():
            flat = np.broadcast_to(array.reshape(-1), max(scale.size, shift.size)).astype(np.float32)
            result.graph.initializer.append(numpy_helper.from_array(np.array(flat), f"{last.name}/{key}"))
        names = [x, *(f"{last.name}/{key}" for key in operands)]
        node = helper.make_node("BatchNormalization", names, [last.output[0]], last.name, epsilon=0.0)
        result.graph.node[list(result.graph.node).index(last)].CopyFrom(node)
        if first is not last:
            result.graph.node.remove(first)
    onnx.checker.check_model(result, full_check=True)
    return result


def without_batchnorm(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph with every layer's Mul and Add taken out: what the network costs without them."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    for first, last, x, _, _ in _layers(result):
        result.graph.node[list(result.graph.node).index(last)].CopyFrom(
            helper.make_node("Identity", [x], [last.output[0]], last.name)
        )
        if first is not last:
            result.graph.node.remove(first)
    return result


def _layers(model: onnx.ModelProto) -> Iterator[tuple[onnx.NodeProto, onnx.NodeProto, str, Any, Any]]:
    """(first node, last node, input, scale, shift) of each Keras batch normalisation, which tf2onnx may have joined."""
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    producers = {node.output[0]: node for node in model.graph.node}
    for node in [n for n in model.graph.node if "batch_norm" in n.name and n.op_type in ("Add", "Mul")]:
        constant = next(name for name in node.input if name in arrays)
        data = next(name for name in node.input if name != constant)
        before = producers.get(data)
        if node.op_type == "Add" and before is not None and before.op_type == "Mul" and "batch_norm" in before.name:
            factor = next(name for name in before.input if name in arrays)
            x = next(name for name in before.input if name != factor)
            yield before, node, x, *np.broadcast_arrays(arrays[factor], arrays[constant])
