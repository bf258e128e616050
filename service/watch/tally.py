"""Moments of live traffic in shared memory: every process adds to a row of its own, and the sum of the rows is read."""

import numpy as np

from drift import Layout, Moments
from drift.moments import Array
from service.metrics.ledger import Ledger

TRIES = 100  # to copy sums faster than their process adds to them, which is no race but for pictures without end


class Tally:
    """The moments of everything that was sampled for one set of statistics. They only grow.

    A row holds the number of batches and the sums twice: those after an even number of batches, and those after an odd
    one. A batch goes into the older sums, and the number is raised when it is complete. So the sums that the number
    points at are never half written, not even by a process that was killed while it wrote.

    Args:
        ledger: the memory.
        key: of the statistics; versions with the same ones share the sums.
        layout: of the moments.

    Raises:
        MemoryError: the memory is full.
    """

    def __init__(self, ledger: Ledger, key: str, layout: Layout) -> None:
        self.layout = layout
        self._mine = np.asarray(ledger.series(key, room(layout.length)))
        self._rows = [np.asarray(row) for row in ledger.every_row(key)]

    def add(self, moments: Moments) -> None:
        """Add a batch; from one thread of each process."""
        replace(self._mine, both(self._mine)[int(self._mine[0]) % 2] + moments.values)

    def total(self) -> Moments:
        """The sum over all processes."""
        return Moments(self.layout, np.sum([steady(row) for row in self._rows], axis=0))

    @property
    def images(self) -> int:
        """How many images were sampled, by all processes: cheap to look at, again and again."""
        return int(sum(both(row)[int(row[0]) % 2, 0] for row in self._rows))


def room(length: int) -> int:
    """The numbers in a row for so many sums."""
    return 1 + 2 * length


def replace(row: Array, sums: Array) -> None:
    """Put other sums, (length,), in the place of those in a row, so that a reader sees either these or those."""
    batches = int(row[0])
    both(row)[(batches + 1) % 2] = sums
    row[0] = batches + 1


def both(row: Array) -> Array:
    """The sums after an even and after an odd number of batches, (2, length)."""
    return row[1:].reshape(2, -1)


def steady(row: Array) -> Array:
    """The sums of one process, (length,): all of a batch or nothing."""
    for _ in range(TRIES):
        batches = row[0]
        sums: Array = both(row)[int(batches) % 2].copy()
        if row[0] == batches:  # else the next batch but one may have gone into what was copied
            break
    return sums
