"""The reference network of the Keras batch-normalisation example, and a larger teacher for it."""

from typing import Any

import keras
import tensorflow as tf

from scripts.training.batchnorm import BatchNormArguments

Tensor = Any
layers = keras.layers


class FusedBatchNormalization(keras.layers.BatchNormalization):  # type: ignore[misc]
    """Keras' layer with TensorFlow's fused kernel in training: half the time of a training step on a CPU.

    The output is the same function of the batch. Only the moving variance differs: the kernel reports the
    unbiased batch variance, n/(n-1) of Keras' (n = batch·height·width, so a factor below 1.00003 here).
    Inputs that are not pictures take Keras' own path.
    """

    def call(self, inputs: Tensor, training: bool | None = None, mask: Tensor | None = None) -> Tensor:
        """Normalise with batch statistics when training, with moving statistics otherwise."""
        if not training or len(inputs.shape) != 4:
            return super().call(inputs, training=training, mask=mask)
        outputs, mean, variance = tf.compat.v1.nn.fused_batch_norm(
            inputs, *self._affine(), epsilon=self.epsilon, is_training=True
        )
        for moving, batch in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign(moving * self.momentum + batch * (1.0 - self.momentum))
        return outputs

    def _affine(self) -> tuple[Tensor, Tensor]:
        """Gamma and beta as the kernel wants them: float32, whatever the precision of the pictures."""
        return tf.cast(self.gamma, tf.float32), tf.cast(self.beta, tf.float32)


def reference_network(
    shape: tuple[int, int, int],
    classes: int,
    batchnorm: BatchNormArguments,
    *,
    dropout: float = 0.0,
    layer: type = layers.BatchNormalization,
    name: str = "kmnist",
) -> keras.Model:
    """Five batch-normalisation layers after the activations and around the pools.

    Args:
        shape: height, width, channels of the raw pixels, 0 to 255.
        classes: how many probabilities come out.
        batchnorm: the arguments of every BN layer.
        dropout: if not 0, a Dropout layer before the first Dense layer (for training only).
        layer: the BN layer's class.
        name: the model's name.
    """
    numbers = iter(range(1, 6))

    def norm() -> Any:
        return layer(name=f"bn{next(numbers)}", **batchnorm.keras_arguments())

    stack = [
        keras.Input(shape, name="image"),
        layers.Rescaling(1.0 / 255.0, name="rescale"),
        layers.Conv2D(32, 3, activation="relu", name="conv1"),
        norm(),
        layers.MaxPooling2D(2, name="pool1"),
        norm(),
        layers.Conv2D(64, 3, activation="relu", name="conv2"),
        norm(),
        layers.MaxPooling2D(2, name="pool2"),
        norm(),
        layers.Flatten(name="flatten"),
        *([layers.Dropout(dropout, name="dropout")] if dropout else []),
        layers.Dense(256, activation="relu", name="dense1"),
        norm(),
        layers.Dense(classes, activation="softmax", name="probabilities"),
    ]
    inputs = outputs = stack[0]
    for step in stack[1:]:
        outputs = step(outputs)
    return keras.Model(inputs, outputs, name=name)


def teacher_network(shape: tuple[int, int, int], classes: int, precision: str = "float32") -> keras.Model:
    """Nine padded convolutions, 32 to 256 channels, batch normalisation before each activation; 2.5 million weights.

    Args:
        shape: height, width, channels of the raw pixels, 0 to 255.
        classes: how many probabilities come out.
        precision: Keras' dtype policy of all layers but the last.
    """
    inputs = keras.Input(shape, name="image")
    hidden = layers.Rescaling(1.0 / 255.0)(inputs)
    pools = iter(("pool1", "pool2", "pool3"))
    for channels in (32, None, 64, 64, None, 128, 128, 128, None, 256, 256, 256):
        if channels is None:
            hidden = layers.MaxPooling2D(2, name=next(pools), dtype=precision)(hidden)
            continue
        hidden = layers.Conv2D(channels, 3, padding="same", use_bias=False, dtype=precision)(hidden)
        hidden = layers.ReLU(dtype=precision)(FusedBatchNormalization(dtype=precision)(hidden))
    hidden = layers.Dropout(0.3)(layers.Flatten()(hidden))
    hidden = layers.Dropout(0.3)(layers.Dense(256, activation="relu")(hidden))
    return keras.Model(inputs, layers.Dense(classes, activation="softmax")(hidden), name="teacher")
