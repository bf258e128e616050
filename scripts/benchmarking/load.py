"""A load generator: one thread, raw sockets, keep-alive, closed or open loop.

It belongs into a process of its own (`in_own_process`), so that it neither waits for the interpreter of the one who
measures nor is counted as the server's.
"""

import math
import multiprocessing
import random
import select
import socket
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass


@dataclass(frozen=True)
class Load:
    """What to send.

    Attributes:
        port: on 127.0.0.1; no other machine is ever loaded.
        requests: whole HTTP/1.1 requests, head and body, sent in turn.
        connections: in a closed loop each keeps one request in flight; in an open loop the most that are used.
        rate: requests a second of a Poisson process, whatever the server does; 0 for a closed loop.
        seconds: of the measured window, after `warmup` seconds.
        seed: of the arrivals.
    """

    port: int
    requests: tuple[bytes, ...]
    connections: int
    rate: float = 0.0
    seconds: float = 2.0
    warmup: float = 0.5
    seed: int = 0


@dataclass(frozen=True)
class Figures:
    """What came back in the measured window.

    Attributes:
        answered: requests with a 2xx.
        refused: answers with another status, by status.
        broken: connections that ended within a request.
        late: open loop: requests that were due and unanswered at the end; they count with the time waited so far.
        rate: answered requests a second.
        p50, p90, p99, p999: milliseconds from when the request was sent, or in an open loop from when it was due.
        cpu: seconds of processor time that the generator took, for everything that it sent.
        sent: requests, warm-up included.
    """

    answered: int
    refused: dict[int, int]
    broken: int
    late: int
    rate: float
    p50: float
    p90: float
    p99: float
    p999: float
    cpu: float
    sent: int


class _Connection:
    __slots__ = ("due", "missing", "parts", "socket", "status")

    def __init__(self, port: int) -> None:
        self.due = 0.0
        self.dial(port)

    def dial(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.missing, self.status, self.parts = -1, 0, b""

    def feed(self, data: bytes) -> bool:
        """Take bytes in; whether the answer is complete."""
        if self.missing < 0:
            data = self.parts + data
            end = data.find(b"\r\n\r\n")
            if end < 0:
                self.parts = data
                return False
            head = data[:end].lower()
            at = head.find(b"\r\ncontent-length:")
            if at < 0:
                raise ValueError("an answer without Content-Length cannot be measured")
            stop = head.find(b"\r\n", at + 2)
            self.missing = int(head[at + 17 : stop if stop > 0 else end]) - (len(data) - end - 4)
            self.status, self.parts = int(data[9:12]), b""
        else:
            self.missing -= len(data)
        return self.missing <= 0


class _Generator:
    """One run of a load."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.poll = select.epoll()
        self.connections: dict[int, _Connection] = {}
        self.idle: deque[_Connection] = deque()
        self.waiting: deque[float] = deque()
        self.latencies: list[float] = []
        self.refused: dict[int, int] = {}
        self.broken = self.sent = 0
        for _ in range(load.connections):
            made = _Connection(load.port)
            self.register(made)
            self.idle.append(made)
        self.begin = time.perf_counter()
        self.start = self.begin + load.warmup
        self.end = self.start + load.seconds

    def register(self, connection: _Connection) -> None:
        self.connections[connection.socket.fileno()] = connection
        self.poll.register(connection.socket, select.EPOLLIN)

    def send(self, connection: _Connection, due: float) -> None:
        connection.due, connection.missing = due, -1
        requests = self.load.requests
        connection.socket.sendall(requests[self.sent % len(requests)])
        self.sent += 1

    def receive(self, number: int) -> _Connection | None:
        """Read what came on a connection; the connection, if it is free again."""
        connection = self.connections[number]
        try:
            data = connection.socket.recv(262144)
            if data and not connection.feed(data):
                return None
        except ConnectionError:
            data = b""
        now = time.perf_counter()
        if not data:
            self.broken += self.start <= now
            self.poll.unregister(number)
            del self.connections[number]
            connection.socket.close()
            connection.dial(self.load.port)
            self.register(connection)
        elif self.start <= now < self.end:
            if 200 <= connection.status < 300:
                self.latencies.append(now - connection.due)
            else:
                self.refused[connection.status] = self.refused.get(connection.status, 0) + 1
        return connection

    def closed(self) -> None:
        """Every connection sends again as soon as it has its answer."""
        while self.idle:
            self.send(self.idle.popleft(), time.perf_counter())
        while (left := self.end - time.perf_counter()) > 0:
            for number, _ in self.poll.poll(left):
                if connection := self.receive(number):
                    self.send(connection, time.perf_counter())

    def open(self) -> None:
        """Requests fall due whatever the server does, and wait where no connection is free."""
        rng = random.Random(self.load.seed)
        due = self.begin
        while (now := time.perf_counter()) < self.end:
            while due <= now:
                if self.idle:
                    self.send(self.idle.popleft(), due)
                else:
                    self.waiting.append(due)
                due += rng.expovariate(self.load.rate)
            # epoll sleeps whole milliseconds, in which arrivals would come in bunches; `select` does not
            select.select([self.poll], (), (), max(0.0, min(due, self.end) - now))
            for number, _ in self.poll.poll(0):
                if connection := self.receive(number):
                    if self.waiting:
                        self.send(connection, self.waiting.popleft())
                    else:
                        self.idle.append(connection)

    def figures(self, cpu: float) -> Figures:
        answered, overdue = len(self.latencies), list[float]()
        if self.load.rate:
            free = set(self.idle)
            pending = [connection.due for connection in self.connections.values() if connection not in free]
            overdue = [self.end - due for due in (*pending, *self.waiting)]
        latencies = sorted(self.latencies + overdue)

        def quantile(share: float) -> float:
            return round(latencies[math.ceil(share * len(latencies)) - 1] * 1000, 4) if latencies else math.nan

        return Figures(
            answered, self.refused, self.broken, len(overdue), answered / self.load.seconds,
            quantile(0.5), quantile(0.9), quantile(0.99), quantile(0.999), cpu, self.sent,
        )  # fmt: skip


def drive(load: Load) -> Figures:
    """Send the load, and wait for the end of its window.

    Raises:
        OSError: nobody listens.
    """
    cpu = time.process_time()
    generator = _Generator(load)
    if load.rate:
        generator.open()
    else:
        generator.closed()
    for connection in generator.connections.values():
        connection.socket.close()
    generator.poll.close()
    return generator.figures(time.process_time() - cpu)


def one_process() -> ProcessPoolExecutor:
    """A process that does nothing else; it is there until the end of the `with`."""
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))


def in_own_process(loads: Sequence[Load]) -> list[Figures]:
    """Send loads one after the other, from a process that does nothing else."""
    with one_process() as pool:
        return list(pool.map(drive, loads))
