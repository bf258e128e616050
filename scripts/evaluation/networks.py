"""The networks on which the compiler is evaluated."""

from collections.abc import Callable
from typing import NamedTuple

import keras

from scripts.training.batchnorm import BatchNormArguments
from scripts.training.networks import reference_network

CLASSES = 10


class Network(NamedTuple):
    """How to build a network, and what it takes in."""

    make: Callable[[int], keras.Model]
    """From the height and width of its pictures."""
    size: int
    """Pictures' height and width; the smallest that shows every kind of border, to keep the float64 side quick."""
    low: float = -3.0
    """Smallest input."""
    high: float = 3.0
    """Largest input."""

    def build(self, size: int | None = None) -> keras.Model:
        """A new network with pictures of this height and width."""
        return self.make(size or self.size)


def _application(name: str) -> Callable[[int], keras.Model]:
    return lambda size: getattr(keras.applications, name)(
        weights=None, input_shape=(size, size, 3), classes=CLASSES, classifier_activation=None
    )


def _with_statistics(make: Callable[[int], keras.Model]) -> Callable[[int], keras.Model]:
    """The same network with ImageNet's statistics in its Normalization layer."""

    def swap(layer: keras.Layer) -> keras.Layer:
        if isinstance(layer, keras.layers.Normalization):
            variance = [deviation**2 for deviation in (0.229, 0.224, 0.225)]
            return keras.layers.Normalization(mean=(0.485, 0.456, 0.406), variance=variance, name=layer.name)
        return layer.__class__.from_config(layer.get_config())

    return lambda size: keras.models.clone_model(make(size), clone_function=swap)


def _reference(size: int) -> keras.Model:
    return reference_network((size, size, 1), CLASSES, BatchNormArguments(), name="reference")


def _vgg16(size: int) -> keras.Model:
    layers = keras.layers
    x = inputs = keras.Input((size, size, 3))
    for filters, repeats in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(repeats):
            x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(filters, 3, padding="same")(x)))
        x = layers.MaxPooling2D(2)(x)
    x = layers.Flatten()(x)
    for _ in range(2):
        x = layers.ReLU()(layers.BatchNormalization()(layers.Dense(512)(x)))
    return keras.Model(inputs, layers.Dense(CLASSES)(x), name="vgg16_bn")


NETWORKS = {
    "reference": Network(_reference, 28, 0, 255),
    "ResNet50": Network(_application("ResNet50"), 64),
    "ResNet50V2": Network(_application("ResNet50V2"), 64),
    "DenseNet121": Network(_application("DenseNet121"), 64),
    "MobileNetV2": Network(_application("MobileNetV2"), 64),
    "MobileNetV3Small": Network(_application("MobileNetV3Small"), 64, 0, 255),
    "EfficientNetB0": Network(_with_statistics(_application("EfficientNetB0")), 64, 0, 255),
    "EfficientNetV2B0": Network(_with_statistics(_application("EfficientNetV2B0")), 64, 0, 255),
    "InceptionV3": Network(_application("InceptionV3"), 75),
    "Xception": Network(_application("Xception"), 71),
    "VGG16 with BN": Network(_vgg16, 64),
}
