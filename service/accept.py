"""New connections, in equal shares to the processes that take them from one listening socket.

Whoever wakes first would take all that wait, and a client that keeps its connection stays with that process: with two
workers, one may end up with everything. So a worker takes connections only as long as it has not clearly more than
another, and then gives the others a moment to be first. If none of them comes it takes some itself, so that nobody
waits long for fairness, and not at all for a worker that is not there.
"""

import asyncio
import logging
import socket
from collections.abc import Callable
from functools import partial

from service.metrics.ledger import Ledger

log = logging.getLogger(__name__)

MOMENT = 0.001  # seconds that a worker with more connections leaves to the others
TURN = 32  # most connections taken in one turn of the event loop: whoever is here already is not to wait for long
BREATH = 0.1  # seconds without accepting after an error, e.g. when the process may not open more files


class Connections:
    """How many connections each worker has, counted in shared memory from when they are accepted.

    Args:
        ledger: what the workers share.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._mine, self._accepting = ledger.series("connections", 1), ledger.series("accepting", 1)
        self._mine[0] = self._accepting[0] = 0  # a worker that was replaced may have left others
        self._everyone, self._open = ledger.watch("connections"), ledger.watch("accepting")

    def came(self) -> None:
        """This process has accepted one."""
        self._mine[0] += 1

    def left(self) -> None:
        """One of this process has ended."""
        self._mine[0] -= 1

    def accepting(self, whether: bool) -> None:
        """Say whether this process takes connections; one that does not is nobody's measure."""
        self._accepting[0] = whether

    @property
    def crowded(self) -> bool:
        """Whether this process has clearly more than another one that accepts.

        The more there are, the more it may be ahead: when hundreds come at once, they are not to wait for fairness.
        """
        counts = [count for count, accepts in zip(self._everyone(), self._open(), strict=True) if accepts]
        return bool(counts) and self._mine[0] - min(counts) > 1 + sum(counts) // 32

    @property
    def elsewhere(self) -> float:
        """How many the other processes have."""
        return sum(self._everyone()) - self._mine[0]

    @property
    def portion(self) -> int:
        """How many a crowded process takes that was left alone with them: one, and an eighth of what there is."""
        return 1 + int(sum(self._everyone())) // 8


class Acceptor:
    """Takes connections while it is open.

    Args:
        listener: non-blocking; stays the caller's.
        protocol: makes the protocol of each connection, which says when it has ended.
        connections: of all workers.
    """

    def __init__(
        self, listener: socket.socket, protocol: Callable[[], asyncio.BaseProtocol], connections: Connections
    ) -> None:
        self._listener, self._protocol, self._connections = listener, protocol, connections
        self._loop = asyncio.get_running_loop()
        self._making: set[asyncio.Task[object]] = set()
        self._later: asyncio.TimerHandle | None = None

    def open(self) -> None:
        """Begin to accept."""
        self._connections.accepting(True)
        self._listen()

    def close(self) -> None:
        """Accept no more; who waits in the listener's queue is left there."""
        self._connections.accepting(False)
        self._loop.remove_reader(self._listener)
        if self._later is not None:
            self._later.cancel()

    def _listen(self) -> None:
        self._later = None
        self._loop.add_reader(self._listener, self._knock)

    def _pause(self, seconds: float, then: Callable[[], None]) -> None:
        self._loop.remove_reader(self._listener)
        self._later = self._loop.call_later(seconds, then)

    def _knock(self) -> None:
        """Somebody waits: take who comes, until this process is crowded."""
        for _ in range(TURN):
            if self._connections.crowded:
                self._pause(MOMENT, partial(self._insist, self._connections.elsewhere))
                return
            if not self._accept():
                return

    def _insist(self, elsewhere: float) -> None:
        """The others, who had so many, had their moment: if none has come to them, take some here."""
        self._listen()
        if self._connections.elsewhere <= elsewhere:
            for _ in range(self._connections.portion):
                if not self._accept():
                    return

    def _accept(self) -> bool:
        """Take one; whether another may follow at once."""
        try:
            connection, _ = self._listener.accept()
        except ConnectionAbortedError:  # it has left
            return True
        except (BlockingIOError, InterruptedError):  # nobody there, or another worker was faster
            return False
        except OSError as error:
            log.error("no connection can be accepted: %s", error)
            self._pause(BREATH, self._listen)
            return False
        self._connections.came()
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        task = self._loop.create_task(self._loop.connect_accepted_socket(self._protocol, connection))
        self._making.add(task)
        task.add_done_callback(self._made)
        return True

    def _made(self, task: asyncio.Task[object]) -> None:
        self._making.discard(task)
        if not task.cancelled() and (error := task.exception()):  # no protocol will ever say that it has ended
            self._connections.left()
            log.error("a connection failed: %s", error)
