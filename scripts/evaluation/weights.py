"""Random weights that make every layer of a network count: unit-scale activations, real-looking statistics."""

from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

NEGATIVE = 0.1
SMALLEST = 0.1
"""Of a layer's mean variance: a channel next to dead on the pictures would magnify whatever else comes."""


def randomise(model: keras.Model, seed: int = 0, negative: float = NEGATIVE, low: float = -3, high: float = 3) -> None:
    """Give a network new weights.

    Kernels are drawn at unit gain and biases are not zero. Moving statistics are those of `pictures` at this very place
    of the network, then disturbed, so that activations stay at unit scale down to the last layer and yet no layer
    normalises perfectly.

    Args:
        model: is changed.
        seed: of every draw.
        negative: share of the gammas that are negative.
        low: smallest input.
        high: largest input.
    """
    keras.utils.set_random_seed(seed)
    rng = np.random.default_rng(seed)
    norms = []
    for layer in model._flatten_layers(include_self=False, recursive=True):
        if isinstance(layer, keras.layers.BatchNormalization):
            norms.append(layer)
            if layer.scale:
                layer.gamma.assign(_gamma(layer.gamma.shape, rng, negative))
            if layer.center:
                layer.beta.assign(rng.normal(0, 0.5, layer.beta.shape))
        elif layer.trainable_weights and not layer._layers:
            for weight in layer.trainable_weights:
                weight.assign(_draw(weight.path, weight.shape, rng))
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    shape = model.inputs[0].shape[1:]
    model(np.concatenate([pictures(shape, low, high, seed) for seed in (1, 2, 3)]), training=True)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        variance = np.asarray(norm.moving_variance)
        variance = np.maximum(variance, max(1e-2, SMALLEST * variance.mean()))
        norm.moving_mean.assign(np.asarray(norm.moving_mean) + rng.normal(0, 0.2, variance.shape) * np.sqrt(variance))
        norm.moving_variance.assign(variance * rng.uniform(0.7, 1.4, variance.shape))


def pictures(shape: tuple[int, ...], low: float, high: float, seed: int = 1) -> NDArray[np.float32]:
    """Six inputs [6, *shape]: noise, faint noise, energy at the border alone, a checkerboard, all lowest, all highest.

    Args:
        shape: channels last.
        low: smallest value.
        high: largest value.
        seed: of the noise.
    """
    rng = np.random.default_rng(seed)
    noise = rng.uniform(low, high, (3, *shape))
    noise[1] = (low + high) / 2 + 0.1 * (noise[1] - (low + high) / 2)
    inner = [slice(1, -1)] * (len(shape) - 1)  # Of every axis but the channels.
    noise[2][tuple(inner)] = max(low, 0)
    board = np.where(np.indices(shape).sum(axis=0) % 2, low, high)
    return np.stack([*noise, board, np.full(shape, low), np.full(shape, high)]).astype(np.float32)


def _gamma(shape: tuple[int, ...], rng: np.random.Generator, negative: float) -> Any:
    return rng.uniform(0.5, 1.5, shape) * np.where(rng.random(shape) < negative, -1.0, 1.0)


def _draw(path: str, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float64]:
    if len(shape) < 2:
        return rng.normal(0, 0.3, shape)
    fan_in = np.prod(shape[:-2]) if "depthwise" in path else np.prod(shape[:-1])
    return rng.normal(0, np.sqrt(2.0 / fan_in), shape)
