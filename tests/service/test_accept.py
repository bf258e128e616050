"""Connections are shared out evenly, and nobody waits long for that. Counts, not times."""

import asyncio
import os
import socket
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager

import pytest

from service.accept import Acceptor, Connections
from service.metrics.ledger import Ledger

COUNT = 256


@contextmanager
def shared(workers: int) -> Iterator[list[Connections]]:
    """What so many workers know of each other."""
    memory = os.memfd_create("counts")
    os.ftruncate(memory, Ledger.size(workers))
    try:
        yield [Connections(Ledger(workers, row, memory)) for row in range(workers)]
    finally:
        os.close(memory)


@contextmanager
def crowd(count: int) -> Iterator[socket.socket]:
    """A listener with so many callers in its queue."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=2 * COUNT))
        listener.setblocking(False)
        for _ in range(count):
            stack.enter_context(socket.create_connection(listener.getsockname()))
        yield listener


class Worker:
    """A process's part, in this one: its own acceptor, and the connections that came to it."""

    def __init__(self, listener: socket.socket, connections: Connections) -> None:
        self.connections, self.transports = connections, list[asyncio.BaseTransport]()
        self.own = listener.dup()  # an event loop watches a descriptor once
        self.acceptor = Acceptor(self.own, self._protocol, connections)
        self.acceptor.open()

    def _protocol(self) -> asyncio.BaseProtocol:
        worker = self

        class Kept(asyncio.Protocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                worker.transports.append(transport)

            def connection_lost(self, exc: Exception | None) -> None:
                worker.connections.left()

        return Kept()

    async def __aenter__(self) -> "Worker":
        return self

    async def __aexit__(self, *_: object) -> None:
        self.acceptor.close()
        for transport in self.transports:
            transport.close()
        await asyncio.sleep(0)
        self.own.close()


async def settled(workers: list[Worker], count: int, turns: int) -> bool:
    """Whether all connections are there after so many turns of the event loop, in which hardly any time goes by."""
    for _ in range(turns):
        await asyncio.sleep(0)
        if sum(len(worker.transports) for worker in workers) == count:
            return True
    return False


def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long the event loop was asked to wait, each time, from now on."""
    loop, asked = asyncio.get_running_loop(), list[float]()
    call_later = loop.call_later

    def noted(delay: float, *arguments: object) -> asyncio.TimerHandle:
        asked.append(delay)
        return call_later(delay, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "call_later", noted)
    return asked


@pytest.mark.parametrize("number", [2, 3])
def test_hundreds_at_once_are_shared_out_evenly_and_soon(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        with shared(number) as views, crowd(COUNT) as listener:
            async with AsyncExitStack() as stack:
                workers = [await stack.enter_async_context(Worker(listener, view)) for view in views]
                waits = pauses(monkeypatch)
                while not await settled(workers, COUNT, 10):
                    await asyncio.sleep(0.001)
                counts = [len(worker.transports) for worker in workers]
            # What it may be ahead anyway, and what it takes if the others seem not to come: they share a loop here.
            assert max(counts) - min(counts) <= 2 + COUNT // 32 + 1 + COUNT // 8, counts
            assert len(waits) < COUNT / 2  # the test's own included: most come without waiting for anybody

    asyncio.run(test())


def test_nobody_waits_for_a_worker_that_does_not_accept() -> None:
    async def test() -> None:
        with shared(2) as views, crowd(COUNT) as listener:
            async with Worker(listener, views[0]) as worker:
                assert await settled([worker], COUNT, 30)

    asyncio.run(test())


def test_a_worker_that_is_stuck_is_given_few_moments(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        with shared(2) as views, crowd(COUNT) as listener:
            async with Worker(listener, views[0]) as worker:
                waits = pauses(monkeypatch)
                views[1].accepting(True)  # it says so, and never comes
                while len(worker.transports) < COUNT:
                    await asyncio.sleep(0)
            assert 0 < len(waits) <= COUNT / 8

    asyncio.run(test())


def test_the_next_connections_go_to_the_emptier_worker() -> None:
    async def test() -> None:
        with shared(2) as views, crowd(20) as first, crowd(16) as second:
            async with Worker(first, views[0]) as full:
                assert await settled([full], 20, 30)
                async with Worker(second, views[0]) as ahead, Worker(second, views[1]) as behind:
                    assert await settled([behind], 16, 30)
                    assert not ahead.transports

    asyncio.run(test())


def test_a_connection_counts_until_it_ends() -> None:
    async def test() -> None:
        with shared(2) as views, crowd(9) as listener:
            async with Worker(listener, views[0]) as worker:
                assert await settled([worker], 9, 30)
                views[1].accepting(True)
                assert views[0].crowded
                for transport in worker.transports[:8]:
                    transport.close()
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                assert not views[0].crowded

    asyncio.run(test())
