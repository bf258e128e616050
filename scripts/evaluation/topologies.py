"""Small networks, one per kind of place where batch normalisation stands, with the fewest operators that must stay."""

from collections.abc import Callable
from typing import Any, NamedTuple

import keras

from scripts.evaluation.networks import NETWORKS

layers = keras.layers
Tensor = Any
Body = Callable[[Tensor], Tensor]

PICTURE = (12, 12, 3)


class Topology(NamedTuple):
    """How to build a network, and what it costs at least."""

    build: Callable[[], keras.Model]
    minimum: int = 0
    """Operators that must stay because of its batch normalisation, in any exact form."""
    negative: float = 0.0
    """Share of the gammas that are negative."""


def _net(body: Body, shape: tuple[int, ...] = PICTURE) -> Callable[[], keras.Model]:
    def build() -> keras.Model:
        inputs = keras.Input(shape, name="x")
        return keras.Model(inputs, body(inputs))

    return build


def _bn(x: Tensor) -> Tensor:
    return layers.BatchNormalization()(x)


def _conv(x: Tensor, filters: int = 8, **options: Any) -> Tensor:
    return layers.Conv2D(filters, 3, **options)(x)


def _relu(x: Tensor) -> Tensor:
    return layers.ReLU()(x)


def _features(x: Tensor) -> Tensor:
    """A convolution and its ReLU, then batch normalisation: nothing before it can take it."""
    return _bn(_relu(_conv(x)))


def _residual_v1(x: Tensor) -> Tensor:
    y = _relu(_bn(_conv(x, padding="same")))
    return _relu(layers.Add()([_bn(layers.Conv2D(8, 1)(x)), _bn(_conv(y, padding="same"))]))


def _residual_v2(x: Tensor) -> Tensor:
    x = _conv(x, padding="same")
    y = _conv(_relu(_bn(x)), padding="same")
    y = _conv(_relu(_bn(y)), padding="same")
    return _relu(layers.Add()([x, y]))


def _joined(x: Tensor) -> Tensor:
    both = layers.Concatenate()([_conv(x, 4), _conv(x, 6)])
    return _conv(_relu(_bn(both)), padding="same")


_POOLED = _net(lambda x: _conv(layers.MaxPooling2D()(_features(x))))

TOPOLOGIES = {
    "Conv, BN, ReLU": Topology(_net(lambda x: _relu(_bn(_conv(x))))),
    "Conv1D, BN, ReLU": Topology(_net(lambda x: _relu(_bn(layers.Conv1D(8, 3)(x))), (12, 3))),
    "ConvTranspose, BN, ReLU": Topology(_net(lambda x: _relu(_bn(layers.Conv2DTranspose(8, 3, strides=2)(x))))),
    "Dense, BN, ReLU, Dense": Topology(_net(lambda x: layers.Dense(4)(_relu(_bn(layers.Dense(8)(x)))), (12,))),
    "residual block, BN behind the convolutions": Topology(_net(_residual_v1)),
    "Add of two convolutions, BN, ReLU": Topology(_net(lambda x: _relu(_bn(layers.Add()([_conv(x), _conv(x)]))))),
    "Concat of two convolutions, BN, ReLU, Conv": Topology(_net(_joined)),
    "BN, Conv": Topology(_net(lambda x: _conv(_bn(x)))),
    "ReLU, BN, Conv": Topology(_net(lambda x: _conv(_features(x)))),
    "ReLU, BN, BN, Conv": Topology(_net(lambda x: _conv(_bn(_features(x))))),
    "ReLU, BN, padded Conv": Topology(_net(lambda x: _conv(_features(x), padding="same"))),
    "ReLU, BN, depthwise Conv": Topology(_net(lambda x: layers.DepthwiseConv2D(3)(_features(x)))),
    "ReLU, BN, MaxPool, Conv": Topology(_POOLED),
    "ReLU, BN, MaxPool, Conv, gammas of both signs": Topology(_POOLED, 1, 0.4),
    "ReLU, BN, upsampling, Conv": Topology(_net(lambda x: _conv(layers.UpSampling2D()(_features(x))))),
    "ReLU, BN, global average, Dense": Topology(
        _net(lambda x: layers.Dense(4)(layers.GlobalAveragePooling2D()(_features(x))))
    ),
    "ReLU, BN, Flatten, Dense": Topology(_net(lambda x: layers.Dense(4)(layers.Flatten()(_features(x))))),
    "Dense, ReLU, BN, Dense": Topology(_net(lambda x: layers.Dense(4)(_bn(_relu(layers.Dense(8)(x)))), (12,))),
    "residual block, BN before the convolutions": Topology(_net(_residual_v2), 1),
    "reference network": Topology(NETWORKS["reference"].build),
    "reference network, a quarter of the gammas negative": Topology(NETWORKS["reference"].build, 2, 0.25),
}


class _Nothing(keras.layers.Layer):  # type: ignore[misc]
    """Stands where batch normalisation stood, and is called as it was called."""

    def call(self, inputs: Tensor, training: bool | None = None, mask: Tensor | None = None) -> Tensor:
        """The input."""
        return inputs


def without_batchnorm(model: keras.Model) -> keras.Model:
    """The same network built without batch normalisation."""

    def swap(layer: keras.Layer) -> keras.Layer:
        if isinstance(layer, keras.layers.BatchNormalization):
            return _Nothing(name=layer.name)
        return layer.__class__.from_config(layer.get_config())

    return keras.models.clone_model(model, clone_function=swap)
