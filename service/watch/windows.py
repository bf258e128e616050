"""Windows of live traffic: closed after enough images or enough time, the last ones remembered, common to all workers.

What was sampled only grows (`Tally`); a window is the difference of two totals. Where the last one ended stands in
shared memory, so whichever worker looks first closes a window, for all.
"""

from dataclasses import dataclass

import numpy as np

from drift import Layout, Moments, Reference
from drift.moments import Array
from service.metrics.ledger import Ledger

HISTORY = 128  # windows that are remembered
_CLOSED, _OPENED, _BEGAN, _HEAD = 0, 1, 2, 3
SUFFIX = "/windows"  # of the names of their series


@dataclass(frozen=True)
class Window:
    """One closed window.

    Attributes:
        closed: seconds since 1970.
        seconds: that it was open.
        images: in it.
        score: of the whole model.
        layers: score of every layer.
    """

    closed: float
    seconds: float
    images: int
    score: float
    layers: tuple[float, ...]


class Windows:
    """The windows of one set of statistics.

    Args:
        ledger: the memory.
        key: of the statistics.
        layout: of the moments.
        now: seconds since 1970.

    Raises:
        MemoryError: the memory is full.
    """

    def __init__(self, ledger: Ledger, key: str, layout: Layout, now: float) -> None:
        self._ledger, self._layout = ledger, layout
        length, self._entry = layout.length, 4 + len(layout.layers)
        ledger.series(key + SUFFIX, _HEAD + 3 * length + HISTORY * self._entry)
        shared = np.asarray(ledger.every_row(key + SUFFIX)[0])  # the first row is everybody's
        self._head = shared[:_HEAD]
        self._start, self._last, self._origin = shared[_HEAD : _HEAD + 3 * length].reshape(3, length)
        self._ring = shared[_HEAD + 3 * length :].reshape(HISTORY, self._entry)
        with ledger.exclusive():
            if not self._head[_BEGAN]:
                self._head[[_OPENED, _BEGAN]] = now

    def due(self, images: int, now: float, size: int, interval: float, fewest: int) -> bool:
        """Whether the open window is to be closed.

        Args:
            images: sampled in all (`Tally.images`).
            now: seconds since 1970.
            size: images after which it is.
            interval: seconds after which it is, if it has images enough.
            fewest: images that are enough.
        """
        count = images - int(self._start[0])
        return count >= size or (count >= fewest and now - self._head[_OPENED] >= interval)

    def close(self, number: int, total: Moments, now: float, reference: Reference) -> None:
        """Close the open window at this total, and begin the next, unless another worker was faster.

        Args:
            number: windows that were closed when it was due (`closed`).
            total: of everything sampled.
            now: seconds since 1970.
            reference: to compare it with.
        """
        with self._ledger.exclusive():
            values = total.values - self._start
            if self.closed != number or values[0] < 1:
                return
            row = self._ring[int(self._head[_CLOSED]) % HISTORY]
            layers = reference.layer_scores(values)
            row[:4] = now, now - self._head[_OPENED], values[0], layers.mean()
            row[4:] = layers
            self._last[:], self._start[:] = values, total.values
            self._head[_CLOSED] += 1
            self._head[_OPENED] = now

    def reset(self, total: Moments, now: float) -> None:
        """Forget everything before this total."""
        with self._ledger.exclusive():
            self._start[:] = self._origin[:] = total.values
            self._last[:] = self._ring[:] = 0
            self._head[:] = 0, now, now

    @property
    def began(self) -> float:
        """When the statistics were first watched, or last reset; seconds since 1970."""
        return float(self._head[_BEGAN])

    @property
    def opened(self) -> float:
        """When the open window began; seconds since 1970."""
        return float(self._head[_OPENED])

    @property
    def closed(self) -> int:
        """How many windows were closed."""
        return int(self._head[_CLOSED])

    def last(self) -> Moments | None:
        """The moments of the last closed window."""
        with self._ledger.exclusive():
            return Moments(self._layout, self._last.copy()) if self._last[0] else None

    def open(self, total: Moments) -> Moments:
        """The moments of the open window."""
        with self._ledger.exclusive():
            values = total.values - self._start
        return Moments(self._layout, values if values[0] > 0 else None)  # it may have been closed after that total

    def everything(self, total: Moments) -> Moments:
        """The moments since the beginning."""
        with self._ledger.exclusive():
            return Moments(self._layout, total.values - self._origin)

    def history(self) -> list[Window]:
        """The closed windows that are remembered, oldest first."""
        with self._ledger.exclusive():
            count, ring = self.closed, self._ring.copy()
        rows = [ring[i % HISTORY] for i in range(max(count - HISTORY, 0), count)]
        return [Window(row[0], row[1], int(row[2]), row[3], tuple(row[4:])) for row in map(np.ndarray.tolist, rows)]


def age(series: Array) -> tuple[float, float, float]:
    """What grows with every step of a series of windows: a reset, and a window that is closed."""
    return float(series[_BEGAN]), float(series[_CLOSED]), float(series[_OPENED])
