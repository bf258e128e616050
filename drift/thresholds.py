"""How large a score is chance: thresholds by the number of images, from windows of held-out pictures.

A window of n pictures of the training distribution has a score above 0, the larger the smaller it is. Windows are drawn
with replacement from N held-out pictures (the bootstrap: Efron, Annals of Statistics 7(1), 1979) and the quantile of
their scores is the threshold. They are compared with the mean of the very pictures that they were drawn from, which a
fresh window is not: a fresh one of n differs from the mean of N others with variance 1/n + 1/N, in units of one
picture's. So windows of n' = nN/(n + N) pictures stand for fresh ones of n.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from drift.comparison import LayerReference, Reference
from drift.moments import Array, Layout, Moments

SIZES = (32, 64, 128, 256, 512, 1024, 2048, 4096)
RATE = 0.01
WINDOWS = 5000
FEWEST = 100  # held-out pictures below which a quantile says nothing
_CHUNK = 250  # windows at a time


@dataclass(frozen=True)
class Thresholds:
    """What windows of the training distribution score, by their size.

    Attributes:
        images: sizes of windows, rising.
        expected: mean score of such windows.
        limit: score that a share `rate` of them exceeds.
        rate: of false alarms per window.
    """

    images: tuple[int, ...]
    expected: tuple[float, ...]
    limit: tuple[float, ...]
    rate: float = RATE

    def at(self, images: int) -> tuple[float, float]:
        """Expected score and limit for a window, interpolated over the logarithm of its size; constant beyond."""
        sizes, size = np.log(self.images), np.log(images)
        return float(np.interp(size, sizes, self.expected)), float(np.interp(size, sizes, self.limit))


def calibrate(
    layers: dict[str, LayerReference],
    pictures: Array,
    *,
    sizes: Sequence[int] = SIZES,
    rate: float = RATE,
    windows: int = WINDOWS,
    seed: int = 0,
) -> tuple[Reference, Thresholds]:
    """Measure what is expected of the layers, and how far windows are from it by chance.

    Args:
        layers: as they were trained.
        pictures: float64 [N, length], the moments of each held-out picture by itself.
        sizes: of windows.
        rate: of false alarms per window.
        windows: drawn of each size.
        seed: of the draws; the same seed gives the same thresholds.

    Raises:
        ValueError: fewer than 100 pictures.
    """
    count = len(pictures)
    if count < FEWEST:
        raise ValueError(f"{count} held-out pictures: thresholds need at least {FEWEST}")
    layout = Layout.of({name: len(layer.mean) for name, layer in layers.items()})
    reference = Reference(layers, Moments(layout, pictures.sum(0)))
    random = np.random.default_rng(seed)
    expected, limit = [], []
    for size in sizes:
        scores = window_scores(reference, pictures, round(size * count / (size + count)), windows, random)
        expected.append(_rounded(scores.mean()))
        limit.append(_rounded(np.quantile(scores, 1 - rate)))
    return reference, Thresholds(tuple(sizes), tuple(expected), tuple(limit), rate)


def window_scores(
    reference: Reference, pictures: Array, size: int, windows: int, random: np.random.Generator, *, replace: bool = True
) -> Array:
    """Scores [windows] of windows of `size` pictures, drawn at random with or without replacement."""
    scores = []
    for start in range(0, windows, _CHUNK):
        chunk, count = min(_CHUNK, windows - start), len(pictures)
        if replace:
            drawn = random.integers(0, count, (chunk, size))
        else:
            drawn = np.argsort(random.random((chunk, count)), axis=1)[:, :size]
        flat = drawn + count * np.arange(chunk)[:, None]
        draws = np.bincount(flat.ravel(), minlength=chunk * count).reshape(chunk, count)
        scores.append(reference.score(draws.astype(np.float64) @ pictures))
    return np.concatenate(scores)


def _rounded(value: float) -> float:
    """Six digits: more would be noise, and would differ between processors."""
    return float(f"{value:.6g}")
