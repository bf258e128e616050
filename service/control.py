"""What the workers of one server tell each other: which models an operator loaded or took out of service."""

import fcntl
import json
import mmap
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from service.metrics.ledger import Ledger

SIZE = 1 << 20
STALE = 3.0  # seconds without a sign of life after which a worker is not waited for
WAIT = 10.0  # seconds that the others have to follow
_HEAD = struct.Struct("<qq")  # how often it was written, and how long the text behind is


class Journal:
    """The wishes of the operator, by model: `[number of the wish, whether it shall serve]`; shared memory.

    Args:
        fd: an open file of `SIZE` bytes; None for memory of this process alone.
    """

    def __init__(self, fd: int | None = None) -> None:
        self._fd = fd
        self._memory = mmap.mmap(-1 if fd is None else fd, SIZE)
        self._lock = threading.Lock()

    def number(self) -> int:
        """How many wishes were written: cheap to look at, again and again."""
        count: int = _HEAD.unpack_from(self._memory)[0]
        return count

    def read(self) -> tuple[int, dict[str, tuple[int, bool]]]:
        """How many wishes were written, and the last one for each model."""
        with self._exclusive():
            return self._read()

    def write(self, model: str, serve: bool) -> int:
        """Add a wish; its number.

        Raises:
            MemoryError: there is no room, after some ten thousand models.
        """
        with self._exclusive():
            count, wishes = self._read()
            wishes[model] = (count + 1, serve)
            text = json.dumps(wishes).encode()
            if _HEAD.size + len(text) > SIZE:
                raise MemoryError("no room in the journal")
            self._memory[_HEAD.size : _HEAD.size + len(text)] = text
            _HEAD.pack_into(self._memory, 0, count + 1, len(text))
        return count + 1

    def _read(self) -> tuple[int, dict[str, tuple[int, bool]]]:
        count, length = _HEAD.unpack_from(self._memory)
        text = self._memory[_HEAD.size : _HEAD.size + length] or b"{}"
        return count, {model: (number, serve) for model, (number, serve) in json.loads(text).items()}

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        with self._lock:
            if self._fd is not None:
                fcntl.lockf(self._fd, fcntl.LOCK_EX)  # not flock: see Ledger.exclusive
            try:
                yield
            finally:
                if self._fd is not None:
                    fcntl.lockf(self._fd, fcntl.LOCK_UN)


class Control:
    """One worker's view of the journal.

    Args:
        ledger: where each worker notes how far it has followed.
        journal: the wishes.
    """

    def __init__(self, ledger: Ledger, journal: Journal) -> None:
        self._ledger, self._journal = ledger, journal
        self._mine = ledger.series("control", 2)  # the last wish that was followed; the time of the last sign of life
        self._seen = self._following = journal.number()
        self._mine[0] = self._seen

    def unloaded(self) -> set[str]:
        """Models that are not to serve."""
        return {model for model, (_, serve) in self._journal.read()[1].items() if not serve}

    def beat(self) -> None:
        """Give a sign of life."""
        self._mine[1] = time.time()

    def alive(self) -> int:
        """Workers that gave one lately."""
        return sum(seen > time.time() - STALE for seen in self._ledger.rows_of("control", 1))

    @property
    def behind(self) -> bool:
        """Whether there are wishes that this worker has not followed yet; cheap to ask."""
        return self._journal.number() != self._seen

    def changes(self) -> dict[str, bool]:
        """Those wishes; `done` says that they were followed."""
        self._following, wishes = self._journal.read()
        return {model: serve for model, (number, serve) in wishes.items() if number > self._seen}

    def done(self) -> None:
        """Note that the last `changes` were followed."""
        self._seen = self._following
        self._mine[0] = self._seen

    def publish(self, model: str, serve: bool) -> int:
        """Tell the others what this worker has done; the number of the wish."""
        return self._journal.write(model, serve)

    def wait_for_others(self, number: int) -> None:
        """Wait until they have followed that wish, but not for ever."""
        deadline = time.monotonic() + WAIT
        while time.monotonic() < deadline and not self._all_followed(number):
            time.sleep(0.01)

    def _all_followed(self, number: int) -> bool:
        followed, signs = self._ledger.rows_of("control", 0), self._ledger.rows_of("control", 1)
        alive = time.time() - STALE
        mine = self._ledger.row
        return all(
            row == mine or done >= number or sign < alive
            for row, (done, sign) in enumerate(zip(followed, signs, strict=True))
        )
