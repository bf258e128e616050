"""Windows of traffic, drawn from pictures that were measured one by one, and how well a score tells them apart."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from drift import Layout, Reference, divergence
from scripts.recalibrating.measure import BATCH, by_picture, session

Array = NDArray[np.float64]
Score = Callable[["Pictures"], Array]


@dataclass(frozen=True)
class Pictures:
    """Measurements of pictures, or sums of them over windows.

    Attributes:
        moments: [n, length], see `drift.Moments`; the first column counts pictures.
        answers: [n, classes], probabilities.
        pixels: [n, 2], mean and mean square of the pixels, 0 to 1.
        surest: [n, 1], largest probability.
        votes: [n, classes], 1 for the predicted class.
    """

    moments: Array
    answers: Array
    pixels: Array
    surest: Array
    votes: Array

    def windows(self, draws: Array) -> "Pictures":
        """Sums over windows; `draws` is [windows, n], how often each picture is in each."""
        return Pictures(*(draws @ values for values in vars(self).values()))

    @property
    def classes(self) -> NDArray[np.int64]:
        """[n], predicted."""
        return np.asarray(self.answers.argmax(1), np.int64)


def measure(probe: onnx.ModelProto, layout: Layout, images: NDArray[np.uint8]) -> Pictures:
    """Run the probe on every picture."""
    graph = session(by_picture(probe))
    wanted = [probe.graph.output[0].name, *layout.outputs]
    moments, answers = [], []
    for at in range(0, len(images), BATCH):
        batch = images[at : at + BATCH]
        first, *sums = graph.run(wanted, {probe.graph.input[0].name: batch})
        rows = [np.ones((len(batch), 1))]
        for value in sums:
            rows.append(value if value.ndim else np.full((len(batch), 1), value / len(batch)))
        moments.append(np.concatenate(rows, axis=1, dtype=np.float64))
        answers.append(first.astype(np.float64))
    flat = images.reshape(len(images), -1) / np.float64(255)
    found = np.concatenate(answers)
    return Pictures(
        np.concatenate(moments),
        found,
        np.stack([flat.mean(1), (flat**2).mean(1)], axis=1),
        found.max(1, keepdims=True),
        np.eye(found.shape[1])[found.argmax(1)],
    )


def draw(count: int, size: int, windows: int, random: np.random.Generator) -> Array:
    """Windows of `size` different pictures out of `count`, [windows, count] of 0 and 1."""
    picked = np.argsort(random.random((windows, count)), axis=1)[:, :size]
    draws = np.zeros((windows, count))
    np.put_along_axis(draws, picked, 1.0, axis=1)
    return draws


def scores(reference: Reference, source: Pictures) -> dict[str, Score]:
    """The scores that are compared, by name: ours first, then the baselines; each larger the further away.

    Args:
        reference: what the layers are to expect.
        source: held-out pictures of the training's kind, for the baselines.
    """
    mean, square = source.pixels.mean(0)
    sure = float(source.surest.mean())
    votes = source.votes.mean(0)

    def size(windows: Pictures) -> Array:
        return windows.moments[:, :1]

    def pixels(windows: Pictures) -> Array:
        now = windows.pixels / size(windows)
        variance = square - mean**2
        ratio = np.maximum((now[:, 1] - now[:, 0] ** 2) / variance, 1e-12)
        return divergence((now[:, 0] - mean) / np.sqrt(variance), ratio)

    def certainty(windows: Pictures) -> Array:
        return np.abs(windows.surest / size(windows) - sure)[:, 0]

    def classes(windows: Pictures) -> Array:
        wanted = size(windows) * np.maximum(votes, 1e-3)
        return np.asarray(((windows.votes - wanted) ** 2 / wanted).sum(1) / size(windows)[:, 0])

    return {
        "statistics of the layers": lambda windows: reference.score(windows.moments),
        "mean and variance of the pixels": pixels,
        "maximum softmax probability": certainty,
        "predicted classes": classes,
    }


def auc(negative: Array, positive: Array) -> float:
    """Share of pairs in which the positive one has the larger score; ties count half (Mann & Whitney 1947)."""
    order = np.sort(negative)
    below = np.searchsorted(order, positive, "left")
    up_to = np.searchsorted(order, positive, "right")
    return float((below + up_to).mean() / 2 / len(negative))


class Detectors:
    """Scores, each with limits that 1 % of the windows of clean pictures exceed.

    Args:
        scores: by name; larger is further away.
        clean: pictures without any change.
        sizes: of windows, rising; those of more than half of the clean pictures are left out.
        windows: drawn for each size.
    """

    def __init__(self, scores: Mapping[str, Score], clean: Pictures, sizes: Sequence[int], windows: int) -> None:
        self._scores, self._windows = dict(scores), windows
        self._sizes = tuple(size for size in sizes if 2 * size <= len(clean.moments))
        self._limits = {
            size: {name: float(np.quantile(score(drawn), 0.99)) for name, score in scores.items()}
            for size in self._sizes
            for drawn in [self._drawn(clean, size, seed=1)]
        }

    def needed(self, pictures: Pictures) -> dict[str, int | None]:
        """By score, the smallest size at which 95 % of the windows are above the limit; None if there is none."""
        found: dict[str, int | None] = dict.fromkeys(self._scores)
        for size in (size for size in self._sizes if 2 * size <= len(pictures.moments)):
            drawn = self._drawn(pictures, size, seed=2)
            for name, score in self._scores.items():
                if found[name] is None and np.mean(score(drawn) > self._limits[size][name]) >= 0.95:
                    found[name] = size
            if None not in found.values():
                break
        return found

    def _drawn(self, pictures: Pictures, size: int, seed: int) -> Pictures:
        return pictures.windows(draw(len(pictures.moments), size, self._windows, np.random.default_rng([seed, size])))


def table(head: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    """A Markdown table; what is not the first column is right-aligned."""
    lines = [head, ("---", *("--:" for _ in head[1:])), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)
