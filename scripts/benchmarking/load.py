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


def drive(load: Load) -> Figures:
    """Send the load, and wait for the end of its window.

    Raises:
        OSError: nobody listens.
    """
    cpu = time.process_time()
    poll = select.epoll()
    connections: dict[int, _Connection] = {}
    for _ in range(load.connections):
        made = _Connection(load.port)
        connections[made.socket.fileno()] = made
        poll.register(made.socket, select.EPOLLIN)
    idle = deque(connections.values())
    waiting: deque[float] = deque()
    rng = random.Random(load.seed)
    latencies: list[float] = []
    refused: dict[int, int] = {}
    broken = turn = 0
    requests, count = load.requests, len(load.requests)
    start = time.perf_counter() + load.warmup
    end = start + load.seconds
    next_due = time.perf_counter()

    def send(connection: _Connection, due: float) -> None:
        nonlocal turn
        connection.due, connection.missing = due, -1
        connection.socket.sendall(requests[turn % count])
        turn += 1

    if not load.rate:
        while idle:
            send(idle.popleft(), time.perf_counter())
    while (now := time.perf_counter()) < end:
        if load.rate:
            while next_due <= now:
                if idle:
                    send(idle.popleft(), next_due)
                else:
                    waiting.append(next_due)
                next_due += rng.expovariate(load.rate)
            # epoll sleeps whole milliseconds: the last one is spent asking again, or arrivals would be late in bunches
            pause = max(0.0, min(next_due, end) - now - 0.001)
        else:
            pause = end - now
        for number, _ in poll.poll(pause):
            connection = connections[number]
            try:
                data = connection.socket.recv(262144)
                complete = connection.feed(data) if data else None
            except ConnectionError:
                complete = None
            if complete is False:
                continue
            now = time.perf_counter()
            if complete is None:
                broken += start <= now
                poll.unregister(number)
                del connections[number]
                connection.socket.close()
                connection.dial(load.port)
                connections[connection.socket.fileno()] = connection
                poll.register(connection.socket, select.EPOLLIN)
            elif start <= now < end:
                if 200 <= connection.status < 300:
                    latencies.append(now - connection.due)
                else:
                    refused[connection.status] = refused.get(connection.status, 0) + 1
            if not load.rate:
                send(connection, now)
            elif waiting:
                send(connection, waiting.popleft())
            else:
                connection.due = 0.0
                idle.append(connection)
    answered = len(latencies)
    overdue: list[float] = []
    if load.rate:
        pending = [c.due for c in connections.values() if c not in idle]
        overdue = [end - due for due in (*pending, *waiting)]
        latencies.extend(overdue)
    for connection in connections.values():
        connection.socket.close()
    poll.close()
    latencies.sort()

    def quantile(share: float) -> float:
        return round(latencies[math.ceil(share * len(latencies)) - 1] * 1000, 4) if latencies else math.nan

    return Figures(
        answered, refused, broken, len(overdue), answered / load.seconds,
        quantile(0.5), quantile(0.9), quantile(0.99), quantile(0.999), time.process_time() - cpu, turn,
    )  # fmt: skip


def in_own_process(loads: Sequence[Load]) -> list[Figures]:
    """Send loads one after the other, from a process that does nothing else."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return list(pool.map(drive, loads))
