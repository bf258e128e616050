"""Numbers that several processes count together, without locks on the way of a request.

Every process adds to its own row of one block of memory; a reader sums the rows. Which numbers there are stands in a
directory at the head of the block, so that any process can read what another one began to count.
"""

import fcntl
import json
import mmap
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

DIRECTORY = 1 << 18  # bytes for the names
CAPACITY = 1 << 15  # numbers in a row
SUMS = 1 << 22  # numbers in a row of the statistics of the traffic, ten for each channel and more

Numbers: TypeAlias = "memoryview[float]"


class Ledger:
    """A block of float64 numbers, `rows` processes wide.

    Args:
        rows: processes that may count at the same time.
        row: which of them this one is.
        fd: the shared memory, an open file; None for memory of this process alone.
        capacity: numbers in a row; what is not used takes no memory.
    """

    def __init__(self, rows: int = 1, row: int = 0, fd: int | None = None, capacity: int = CAPACITY) -> None:
        self.rows, self.row, self._fd, self._capacity = rows, row, fd, capacity
        size = self.size(rows, capacity)
        self._memory = mmap.mmap(-1 if fd is None else fd, size)
        view = memoryview(self._memory)
        self._numbers = view[DIRECTORY:].cast("d")
        self._lock = threading.Lock()

    @staticmethod
    def size(rows: int, capacity: int = CAPACITY) -> int:
        """Bytes of shared memory that `rows` processes need."""
        return DIRECTORY + rows * capacity * 8

    def series(self, key: str, length: int) -> Numbers:
        """This process's numbers of that name, all zero at first; adding to them is all that counting takes.

        Raises:
            MemoryError: the block is full.
        """
        with self.exclusive():
            directory = self._read()
            if key not in directory:
                first = max((start + n for start, n in directory.values()), default=0)
                directory[key] = (first, length)
                raw = json.dumps(directory, separators=(",", ":")).encode()
                if first + length > self._capacity or len(raw) + 8 > DIRECTORY:
                    raise MemoryError(f"no room to count {key}")
                self._memory[8 : 8 + len(raw)] = raw
                self._memory[:8] = struct.pack("<q", len(raw))
            start, found = directory[key]
        first = self.row * self._capacity + start
        return self._numbers[first : first + found]

    def names(self) -> list[str]:
        """Those of all series, whichever process began them."""
        with self.exclusive():
            return list(self._read())

    def totals(self) -> dict[str, list[float]]:
        """Every series, summed over the processes."""
        with self.exclusive():
            directory = self._read()
        return {key: [self._sum(start + i) for i in range(n)] for key, (start, n) in directory.items()}

    def total(self, key: str) -> list[float]:
        """One series, summed over the processes; empty if there is none of that name."""
        with self.exclusive():
            start, n = self._read().get(key, (0, 0))
        return [self._sum(start + i) for i in range(n)]

    def rows_of(self, key: str, index: int = 0) -> list[float]:
        """One number of a series as each of the processes has it."""
        with self.exclusive():
            start, _ = self._read()[key]
        return [self._numbers[row * self._capacity + start + index] for row in range(self.rows)]

    def every_row(self, key: str) -> list[Numbers]:
        """A series as each of the processes has it; all zero where one has not begun.

        Raises:
            KeyError: there is none of that name.
        """
        with self.exclusive():
            start, n = self._read()[key]
        firsts = [row * self._capacity + start for row in range(self.rows)]
        return [self._numbers[first : first + n] for first in firsts]

    def watch(self, key: str) -> Callable[[], list[float]]:
        """The first number of a series as each of the processes has it, cheap to ask for again and again."""
        with self.exclusive():
            start, _ = self._read()[key]
        at = [row * self._capacity + start for row in range(self.rows)]
        return lambda: [self._numbers[index] for index in at]

    def _sum(self, index: int) -> float:
        return float(sum(self._numbers[row * self._capacity + index] for row in range(self.rows)))

    def _read(self) -> dict[str, tuple[int, int]]:
        (length,) = struct.unpack("<q", self._memory[:8])
        return {key: (start, n) for key, (start, n) in json.loads(self._memory[8 : 8 + length] or b"{}").items()}

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Keep every other thread and process out.

        By a record lock, which belongs to a process: `flock` belongs to the open file, which the workers inherit
        together, so that each of them would have the lock of all.
        """
        with self._lock:
            if self._fd is None:
                yield
                return
            fcntl.lockf(self._fd, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.lockf(self._fd, fcntl.LOCK_UN)
