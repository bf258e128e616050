"""Moments of live traffic in shared memory: every process adds to a row of its own, and the sum of the rows is read."""

import time

import numpy as np

from drift import Layout, Moments
from drift.moments import Array
from service.metrics.ledger import Ledger

TRIES, PAUSE = 100, 1e-4  # a writer takes microseconds; one that was killed while it wrote is not waited for for ever


class Tally:
    """The moments of everything that was sampled for one set of statistics. They only grow.

    A row begins with a number that is odd while its process writes, so that a reader sees all of a batch or nothing.

    Args:
        ledger: the memory.
        key: of the statistics; versions with the same ones share the sums.
        layout: of the moments.

    Raises:
        MemoryError: the memory is full.
    """

    def __init__(self, ledger: Ledger, key: str, layout: Layout) -> None:
        self.layout = layout
        self._mine = np.asarray(ledger.series(key, 1 + layout.length))
        self._rows = [np.asarray(row) for row in ledger.every_row(key)]
        self._mine[0] += self._mine[0] % 2  # a worker before us may have been killed while it wrote

    def add(self, moments: Moments) -> None:
        """Add a batch; from one thread of each process."""
        self._mine[0] += 1
        self._mine[1:] += moments.values
        self._mine[0] += 1

    def total(self) -> Moments:
        """The sum over all processes."""
        return Moments(self.layout, np.sum([steady(row) for row in self._rows], axis=0))

    @property
    def images(self) -> int:
        """How many images were sampled, by all processes: cheap to look at, again and again."""
        return int(sum(row[1] for row in self._rows))


def steady(row: Array) -> Array:
    """The moments in a row, and never half a batch."""
    for _ in range(TRIES):
        before = row[0]
        values = row[1:].copy()
        if before % 2 == 0 and row[0] == before:
            break
        time.sleep(PAUSE)
    return values
