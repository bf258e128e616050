"""New connections, in equal shares to the processes that take them from one listening socket.

Whoever wakes first would take all that wait, and a client that keeps its connection stays with that process: with two
workers, one may end up with everything. So a worker takes one connection at a time, and one that has clearly more than
another gives the other a moment to be first.
"""

import asyncio
import logging
import socket
from collections.abc import Callable

log = logging.getLogger(__name__)

MOMENT = 0.001  # seconds that a worker with more connections leaves to the others
BREATH = 0.1  # seconds without accepting after an error, e.g. when the process may not open more files


class Acceptor:
    """Takes connections while it is open.

    Args:
        listener: non-blocking; stays the caller's.
        protocol: makes the protocol of each connection.
        crowded: whether this process has clearly more connections than another.
    """

    def __init__(
        self, listener: socket.socket, protocol: Callable[[], asyncio.BaseProtocol], crowded: Callable[[], bool]
    ) -> None:
        self._listener, self._protocol, self._crowded = listener, protocol, crowded
        self._loop = asyncio.get_running_loop()
        self._making: set[asyncio.Task[object]] = set()
        self._later: asyncio.TimerHandle | None = None
        self._open = False

    def open(self) -> None:
        """Begin to accept."""
        self._open = True
        self._listen()

    def close(self) -> None:
        """Accept no more; who waits in the listener's queue is left there."""
        self._open = False
        self._loop.remove_reader(self._listener)
        if self._later is not None:
            self._later.cancel()

    def _listen(self) -> None:
        self._loop.add_reader(self._listener, self._knock)

    def _knock(self) -> None:
        if self._crowded():
            self._pause(MOMENT, accept=True)
        else:
            self._accept()

    def _pause(self, seconds: float, *, accept: bool) -> None:
        self._loop.remove_reader(self._listener)
        self._later = self._loop.call_later(seconds, self._resume, accept)

    def _resume(self, accept: bool) -> None:
        self._later = None
        if self._open:
            self._listen()
            if accept:
                self._accept()

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):  # another one was faster, or it has left
            return
        except OSError as error:
            log.error("no connection can be accepted: %s", error)
            self._pause(BREATH, accept=False)
            return
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        task = self._loop.create_task(self._loop.connect_accepted_socket(self._protocol, connection))
        self._making.add(task)
        task.add_done_callback(self._making.discard)
