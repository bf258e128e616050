"""The live statistics at a layer's input against those expected there, channel by channel.

What a layer normalises is z = (x - mean)/sqrt(variance + epsilon) with its moving statistics. If the moving statistics
are those of the data, z has the mean 0 and the variance variance/(variance + epsilon), so with epsilon/(variance +
epsilon) added back the *regularised* variance r is 1. They may differ: networks are trained on augmented pictures and
serve plain ones. What is expected is therefore measured on held-out pictures, (m0, r0), and is (0, 1) where there are
none. Two Gaussians are compared, N(m, r) as seen and N(m0, r0) as expected:

- the standardised mean shift d = (m - m0)/sqrt(r0);
- the log variance ratio ln k, with k = r/r0;
- the symmetric Kullback-Leibler divergence (Jeffreys 1946), J = (k + 1/k - 2 + d^2 (1 + 1/k))/2, in nats.

Dead channels (moving variance near 0) need no special case, since epsilon stands on both sides: one that is constant in
training and live has d = 0 and k = 1, and one that wakes up is measured in units of sqrt(epsilon), just as the layer
magnifies it. Channels that no tap shows are left out.

A layer's score is the mean of ln(1 + J) over its channels, the model's score the mean over its layers: J where it is
small, but one channel among hundreds that explodes does not hide the rest.

Batch statistics as a sign of covariate shift: Ioffe & Szegedy (arXiv:1502.03167), Li et al. (arXiv:1603.04779),
Schneider et al. (arXiv:2006.16971).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from drift.moments import Array, LayerSums, Layout, Moments

DEAD = 1e-8  # a moving variance below it: the channel never changed in training
_TINY = 1e-30  # instead of a variance of 0, where epsilon is 0


class ChannelDrift(NamedTuple):
    """How each channel moved; float64 [..., channels] each, nan where nothing was counted.

    Attributes:
        shift: of the mean, in deviations.
        log_ratio: of the regularised variances.
        divergence: symmetric Kullback-Leibler divergence, in nats.
    """

    shift: Array
    log_ratio: Array
    divergence: Array


@dataclass(frozen=True)
class LayerReference:
    """One layer as it was trained.

    Attributes:
        epsilon: of the layer.
        mean: float64 [channels], moving mean.
        variance: float64 [channels], moving variance.
        seen: bool [channels], whether the tap shows the channel.
    """

    epsilon: float
    mean: Array
    variance: Array
    seen: NDArray[np.bool_]

    @property
    def dead(self) -> NDArray[np.bool_]:
        """Channels that never changed in training."""
        return self.variance < DEAD

    def regularised(self, sums: LayerSums) -> tuple[Array, Array]:
        """Mean and regularised variance of z, [..., channels]."""
        mean, variance = mean_and_variance(sums)
        return mean, np.maximum(variance + self.epsilon / np.maximum(self.variance + self.epsilon, _TINY), _TINY)


class Reference:
    """All layers that can be watched, and what is expected of each.

    Args:
        layers: as they were trained, by name, in the order of the network.
        expected: moments of held-out pictures; None expects the moving statistics themselves.

    Raises:
        ValueError: the expected moments are those of other layers, or of no pictures.
    """

    def __init__(self, layers: Mapping[str, LayerReference], expected: Moments | None = None) -> None:
        self.layers = dict(layers)
        self.layout = Layout.of({name: len(layer.mean) for name, layer in self.layers.items()})
        if expected is not None and (expected.layout != self.layout or expected.images < 1):
            raise ValueError("the expected moments are not those of these layers")
        self.expected = expected
        self._expected = {name: self._of(name) for name in self.layers}

    def channels(self, values: Array, name: str) -> ChannelDrift:
        """Compare one layer's part of vectors of moments [..., length] with what is expected."""
        mean, ratio = self.layers[name].regularised(self.layout.sums(values, name))
        expected_mean, expected_ratio = self._expected[name]
        shift, ratio = (mean - expected_mean) / np.sqrt(expected_ratio), ratio / expected_ratio
        return ChannelDrift(shift, np.log(ratio), divergence(shift, ratio))

    def layer_scores(self, values: Array) -> Array:
        """The score of every layer, [..., layers], of vectors of moments [..., length]."""
        scores = [
            np.log1p(self.channels(values, name).divergence[..., layer.seen]).mean(-1)
            for name, layer in self.layers.items()
        ]
        return np.stack(scores, axis=-1)

    def score(self, values: Array) -> Array:
        """The whole model's score, [...], of vectors of moments [..., length]."""
        return np.asarray(self.layer_scores(values).mean(-1))

    def live(self, values: Array, name: str) -> tuple[Array, Array]:
        """Mean and variance of a layer's input, [..., channels], in the units of the network."""
        layer = self.layers[name]
        mean, variance = mean_and_variance(self.layout.sums(values, name))
        sigma = np.sqrt(layer.variance + layer.epsilon)
        return layer.mean + sigma * mean, sigma**2 * variance

    def _of(self, name: str) -> tuple[Any, Any]:
        if self.expected is None:
            return 0.0, 1.0
        return self.layers[name].regularised(self.expected.layer(name))


def divergence(shift: Array, ratio: Array) -> Array:
    """Symmetric Kullback-Leibler divergence of N(shift, ratio) and N(0, 1)."""
    return (ratio + 1 / ratio - 2 + shift**2 * (1 + 1 / ratio)) / 2


def mean_and_variance(sums: LayerSums) -> tuple[Array, Array]:
    """Of z, [..., channels]; nan where nothing was counted."""
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = sums.total / sums.number[..., None]
        return mean, np.maximum(sums.squares / sums.number[..., None] - mean**2, 0.0)
