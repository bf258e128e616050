"""Mixup, at the input (Zhang et al., arXiv:1710.09412) or within the network (Verma et al., arXiv:1806.05236)."""

from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

Tensor = Any  # TensorFlow ships no types that a strict checker accepts.

INPUT = 0


class Mixture(NamedTuple):
    """How the pictures of a batch are blended, each with another one.

    Attributes:
        own: float32 [batch], the weight of the picture itself, 0 to 1.
        partner: int32 [batch], which picture has the rest of the weight.
        depth: int32 [batch], where, the same for all: `INPUT`, or behind the n-th of the chosen layers.
    """

    own: Tensor
    partner: Tensor
    depth: Tensor


def mixture(batch: Tensor, share: float, depths: tuple[int, ...] = (INPUT,)) -> Mixture:
    """Draw a mixture.

    Args:
        batch: int32 scalar, how many pictures.
        share: of the pictures that are blended, 0 to 1; the weight is uniform in 0 to 1 (alpha = 1).
        depths: one of them is drawn; a depth that is named twice is drawn twice as often.
    """
    partner = tf.random.shuffle(tf.range(batch))
    own = tf.where(tf.random.uniform([batch]) < share, tf.random.uniform([batch]), 1.0)
    drawn = tf.random.uniform([], 0, len(depths), tf.int32)
    return Mixture(own, partner, tf.fill([batch], tf.gather(tf.constant(depths), drawn)))


def unblended(count: int) -> Mixture:
    """The mixture that leaves `count` pictures as they are, in numpy: in one batch or in smaller ones."""
    partner = np.zeros(count, np.int32)  # The first of the batch: a partner without weight, there in every batch.
    return Mixture(np.ones(count, np.float32), partner, np.full(count, INPUT, np.int32))


def blend(values: Tensor, own: Tensor, partner: Tensor) -> Tensor:
    """Weighted mean of each value of a batch and its partner's; float32 of the same shape."""
    weight = tf.reshape(own, [-1] + [1] * (len(values.shape) - 1))
    return weight * values + (1 - weight) * tf.gather(values, partner)


class Blend(keras.layers.Layer):  # type: ignore[misc]
    """Blends its batch, if this is the depth that was drawn."""

    def __init__(self, depth: int) -> None:
        """The depth at which this layer stands."""
        super().__init__()
        self._depth = depth

    def call(self, inputs: tuple[Tensor, Tensor, Tensor, Tensor]) -> Tensor:
        """Values of any shape, and the parts of a `Mixture`."""
        values, own, partner, depth = inputs
        here = tf.equal(depth[0], self._depth)
        return tf.cond(here, lambda: blend(values, tf.cast(own, values.dtype), partner), lambda: values)


def blending(network: keras.Model, after: tuple[str, ...] = ()) -> keras.Model:
    """The same layers with the same weights, on inputs (pictures, own, partner, depth).

    Args:
        network: a chain of layers.
        after: the layers' names behind which depths 1, 2, … stand.
    """
    pictures = keras.Input(network.inputs[0].shape[1:])
    own, partner, depth = (keras.Input((), dtype=kind) for kind in ("float32", "int32", "int32"))
    hidden = Blend(INPUT)((pictures, own, partner, depth))
    for layer in network.layers[1:]:
        hidden = layer(hidden)
        if layer.name in after:
            hidden = Blend(1 + after.index(layer.name))((hidden, own, partner, depth))
    return keras.Model([pictures, own, partner, depth], hidden)
