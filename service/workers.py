"""Several processes on one port: what they share, and the supervisor that starts and replaces them."""

import json
import logging
import math
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import asdict, dataclass

from service.control import SIZE, Journal
from service.errors import EXIT_STARTUP, StartupError
from service.listener import refuse_new
from service.metrics.ledger import SUMS, Ledger

log = logging.getLogger(__name__)

VARIABLE = "FOLDSERVE_SHARE_"  # how a worker is told what it shares; not a setting
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)
QUICK = 10.0  # seconds of life below which a worker's death counts as a failed attempt
# Seconds before the next attempt: at once after the first death, then longer and longer; never long when nobody serves.
FIRST_PAUSE, LONGEST_PAUSE, LONGEST_ALONE = 0.1, 10.0, 0.5


@dataclass(frozen=True)
class Share:
    """What a worker has in common with the others: open files, by number, and its own row of the ledger.

    Attributes:
        row: this worker's.
        rows: workers.
        listening: the listening socket.
        counts: the ledger's memory.
        wishes: the journal's memory.
        moments: the memory for the statistics of the traffic.
        parent: a pipe that ends when the supervisor does.
    """

    row: int
    rows: int
    listening: int
    counts: int
    wishes: int
    moments: int
    parent: int

    @classmethod
    def of_this_process(cls) -> "Share | None":
        """What the supervisor gave to this process; None if it is not a worker."""
        text = os.environ.pop(VARIABLE, None)
        if text is None:
            return None
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)  # the supervisor waits for them and so has them blocked
        return cls(**json.loads(text))

    def ledger(self) -> Ledger:
        """The common counts."""
        return Ledger(self.rows, self.row, self.counts)

    def journal(self) -> Journal:
        """The common wishes."""
        return Journal(self.wishes)

    def sums(self) -> Ledger:
        """The common statistics of the traffic."""
        return Ledger(self.rows, self.row, self.moments, SUMS)

    def listener(self) -> socket.socket:
        """The common socket."""
        return socket.socket(fileno=self.listening)


class Supervisor:
    """Starts the workers, replaces those that die, passes signals on, and ends when they have ended.

    Args:
        listener: the socket that they accept from.
        workers: how many.
        drain_delay: seconds that they go on accepting after SIGTERM.

    Raises:
        StartupError: this system has no shared memory files, or no way to wait for signals.
    """

    def __init__(self, listener: socket.socket, workers: int, drain_delay: float) -> None:
        if not hasattr(os, "memfd_create") or not hasattr(signal, "sigtimedwait"):
            raise StartupError("more than one worker needs Linux; start several servers on ports of their own instead")
        self._listener, self._workers, self._drain_delay = listener, workers, drain_delay
        self._counts = self._memory("counts", Ledger.size(workers))
        self._wishes = self._memory("wishes", SIZE)
        self._moments = self._memory("moments", Ledger.size(workers, SUMS))
        self._parent, self._alive = os.pipe()
        self._children: dict[int, subprocess.Popen[bytes]] = {}
        self._started: dict[int, float] = {}
        self._attempts: dict[int, int] = {}
        self._due: dict[int, float] = {}
        self._refuse_at = math.inf
        self._stopping = False
        self._failed = False

    def run(self) -> int:
        """Serve until a signal comes; the exit status."""
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        self._due = dict.fromkeys(range(self._workers), 0.0)
        while True:
            self._start_due()
            if self._stopping and not self._children:
                return EXIT_STARTUP if self._failed else 0
            pause = min([*self._due.values(), self._refuse_at, time.monotonic() + 60.0]) - time.monotonic()
            received = signal.sigtimedwait(SIGNALS, max(pause, 0.0))
            if received is not None and received.si_signo != signal.SIGCHLD:
                self._stop(received.si_signo)
            if time.monotonic() >= self._refuse_at:
                self._refuse_at = math.inf
                refuse_new(self._listener)  # the workers still empty the queue, then they stop accepting
            self._reap()

    def _stop(self, number: int) -> None:
        if not self._stopping:
            self._refuse_at = time.monotonic() + (self._drain_delay if number == signal.SIGTERM else 0.0)
        self._stopping = True
        self._due.clear()
        for child in self._children.values():
            child.send_signal(number)

    def _start_due(self) -> None:
        for row in [row for row, when in self._due.items() if when <= time.monotonic()]:
            del self._due[row]
            share = Share(
                row, self._workers, self._listener.fileno(), self._counts, self._wishes, self._moments, self._parent
            )
            self._children[row] = subprocess.Popen(
                [sys.executable, "-m", "service", *sys.argv[1:]],
                env=os.environ | {VARIABLE: json.dumps(asdict(share))},
                pass_fds=(share.listening, share.counts, share.wishes, share.moments, share.parent),
                process_group=0,  # Ctrl-C reaches the supervisor alone, which passes it on once
            )
            self._started[row] = time.monotonic()

    def _reap(self) -> None:
        for row, child in list(self._children.items()):
            status = child.poll()
            if status is None:
                continue
            del self._children[row]
            if self._stopping:
                continue
            if status == EXIT_STARTUP and row not in self._attempts:
                self._failed = True  # what keeps one worker from starting keeps them all; it has said why
                self._stop(signal.SIGTERM)
                continue
            quick = time.monotonic() - self._started[row] < QUICK
            self._attempts[row] = self._attempts.get(row, 0) + 1 if quick else 1
            self._due[row] = time.monotonic() + pause_before(self._attempts[row])
            log.error("worker %d (process %d) ended with status %d; replacing it", row, child.pid, status)
        if self._due and not self._children:
            soon = time.monotonic() + LONGEST_ALONE
            self._due = {row: min(when, soon) for row, when in self._due.items()}

    @staticmethod
    def _memory(name: str, size: int) -> int:
        fd = os.memfd_create(f"foldserve-{name}")
        os.ftruncate(fd, size)
        return fd


def pause_before(attempt: int) -> float:
    """Seconds before a worker is started for the `attempt`th time in a row in which it did not live long."""
    return 0.0 if attempt <= 1 else min(FIRST_PAUSE * 2.0 ** (attempt - 2), LONGEST_PAUSE)
