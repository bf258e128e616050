"""Callers that know of every request whether it was accepted, answered or lost."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

TIMEOUT = 20  # seconds after which an answer counts as lost


@dataclass
class Ledger:
    """What became of the requests.

    Attributes:
        sent: requests that went out on a connection that the server's machine had accepted.
        answered: whole answers, by status.
        lost: requests without a whole answer, by what happened.
        lost_on: the callers' ports of the connections on which they were lost.
        refused: connections that were not made: these requests were never accepted, and a client tries elsewhere.
        wrong: answers with the right status that are not what one version answers.
        bodies: answers by what `judge` calls them.
        pending: the callers' ports of the connections that have a request on the wire now.
    """

    sent: int = 0
    answered: Counter[int] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)
    lost_on: list[int] = field(default_factory=list)
    refused: int = 0
    wrong: int = 0
    bodies: Counter[str] = field(default_factory=Counter)
    pending: set[int] = field(default_factory=set)

    def add(self, other: "Ledger") -> None:
        """Take in another one."""
        self.sent += other.sent
        self.answered += other.answered
        self.lost += other.lost
        self.lost_on += other.lost_on
        self.refused += other.refused
        self.wrong += other.wrong
        self.bodies += other.bodies

    def __str__(self) -> str:
        answers = ", ".join(f"{status}: {count:,}" for status, count in sorted(self.answered.items()))
        lost = f"{self.lost.total()} ({', '.join(f'{what}: {n}' for what, n in self.lost.items())})" if self.lost else 0
        return (
            f"sent {self.sent:,}, answered {self.answered.total():,} ({answers}), lost {lost}, "
            f"wrong answers {self.wrong}, connections refused {self.refused}"
        )


# Gets headers and body of a 200; returns a name for what it is, or None if it is wrong.
Judge = Callable[[bytes, bytes], str | None]


@dataclass
class Callers:
    """A constant load on one server: some over connections that they keep, some over a new one for each request.

    Attributes:
        port: on 127.0.0.1.
        request: a whole HTTP/1.1 request.
        judge: of the answers with 200.
        pause: seconds between an answer and the caller's next request.
        ledger: of all callers.
    """

    port: int
    request: bytes
    judge: Judge = lambda head, body: "answer"
    pause: float = 0.002
    ledger: Ledger = field(default_factory=Ledger)
    stopped: bool = False

    async def run(self, keeping: int, fresh: int, during: Callable[[], Awaitable[None]]) -> Ledger:
        """Call until `during` is over.

        Args:
            keeping: callers that keep their connection as long as the server lets them.
            fresh: callers with a connection for each request.
            during: what happens meanwhile.
        """
        callers = [asyncio.create_task(self._call(True)) for _ in range(keeping)]
        callers += [asyncio.create_task(self._call(False)) for _ in range(fresh)]
        try:
            await during()
        finally:
            self.stopped = True
            await asyncio.gather(*callers)
        return self.ledger

    async def _call(self, keep: bool) -> None:
        stream: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        while not self.stopped:
            if stream and (stream[0].at_eof() or stream[0].exception()):
                stream[1].close()  # closed by the server while nothing was on its way: as any client, make a new one
                stream = None
            if stream is None:
                try:
                    stream = await asyncio.open_connection("127.0.0.1", self.port)
                except OSError:
                    self.ledger.refused += 1
                    await asyncio.sleep(0.05)
                    continue
            usable = await self._exchange(*stream)
            if not (keep and usable):
                stream[1].close()
                stream = None
            await asyncio.sleep(self.pause)
        if stream:
            stream[1].close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request; whether the connection can carry another."""
        port = writer.get_extra_info("sockname")[1]
        self.ledger.sent += 1
        self.ledger.pending.add(port)
        try:
            writer.write(self.request)
            status, head, body = await asyncio.wait_for(answer(reader), TIMEOUT)
        except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
            self.ledger.lost[type(error).__name__] += 1
            self.ledger.lost_on.append(port)
            return False
        finally:
            self.ledger.pending.discard(port)
        self.ledger.answered[status] += 1
        if status == 200:
            name = self.judge(head, body)
            self.ledger.wrong += name is None
            self.ledger.bodies[name or "wrong"] += 1
        return b"connection: close" not in head


async def answer(reader: asyncio.StreamReader) -> tuple[int, bytes, bytes]:
    """Status, head in lower case, and body of the next answer."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = head.partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0]
    return int(head[9:12]), head, await reader.readexactly(int(length or 0))


async def once(port: int, request: bytes) -> tuple[int, bytes, bytes]:
    """One request on a connection of its own."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        return await asyncio.wait_for(answer(reader), TIMEOUT)
    finally:
        writer.close()
