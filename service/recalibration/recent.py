"""The last images that a version was asked about, if the settings want them kept: bounded, and in memory only."""

import numpy as np

from service.protocol.tensors import Array


class Recent:
    """A ring of rows. Not locked: it is written in the event loop, and a copy that is a batch off does no harm.

    Args:
        size: most rows.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._rows: Array | None = None
        self._seen = 0

    def keep(self, rows: Array) -> None:
        """Take the rows of a batch, the oldest ones making room."""
        if self._rows is None:
            self._rows = np.empty((self._size, *rows.shape[1:]), rows.dtype)
        if rows.shape[1:] != self._rows.shape[1:]:
            return  # a network of open sizes: images of other sizes cannot stand beside each other
        rows = rows[-self._size :]
        self._rows[(self._seen + np.arange(len(rows))) % self._size] = rows
        self._seen += len(rows)

    def images(self) -> Array | None:
        """A copy of what is kept; None if it is nothing."""
        if self._rows is None or not self._seen:
            return None
        return self._rows[: min(self._seen, self._size)].copy()
