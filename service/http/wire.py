"""Inference straight from the socket: Uvicorn's HTTP protocol with a shorter way for what is asked most.

Uvicorn gives every request a task, two queues of messages and a validation of each header, for applications of which
it knows nothing. Measured on small requests, that is half of what an answer costs. Here the parser's callbacks drive
an `InferCall`, and the answer is one write. A head that comes again, byte by byte, is not even parsed. Everything
else, and whatever is unusual about a request (pipelined behind another one, `Expect: 100-continue`, a client that
does not read), goes to the application through ASGI as ever.
"""

import asyncio
import time
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, ClassVar, NamedTuple

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from service.engine.job import Job
from service.http.body import too_large
from service.http.front import INFER_ROUTE, Front
from service.http.infer import CLOSE, Headers, InferCall, Target, failure, match
from service.http.pictures import ElsewhereError, PictureCall

PREDICT_ROUTE = "/v2/models/{model}/predict"
REMEMBERED = 256
LONGEST_HEAD = 2048  # bytes that are remembered
_WAYS: dict[bytes, "Way"] = {}  # what a path means, so that it is not taken apart again
_HEADS: dict[bytes, "Head"] = {}  # what a whole head says: a client repeats it with every request


class Way(NamedTuple):
    """A route that is answered here: what it does, the model and version in its path, and its name in the counts."""

    call: type[InferCall] | type[PictureCall]
    target: Target
    route: str


class Head(NamedTuple):
    """An inference request's head, parsed and found in order: its way, its headers, and the length of the body."""

    way: Way
    url: bytes
    headers: list[tuple[bytes, bytes]]
    fields: dict[bytes, bytes]
    length: int


def way_of(path: str) -> Way | None:
    """The way of a path; None if it is the framework's."""
    if target := match(path):
        return Way(InferCall, target, INFER_ROUTE)
    if path == "/predict":
        return Way(PictureCall, ("", None), path)
    if path.endswith("/predict") and (target := match(path.removesuffix("predict") + "infer")):
        return Way(PictureCall, target, PREDICT_ROUTE)
    return None


@lru_cache(REMEMBERED)
def lines(status: int, *headers: tuple[bytes, bytes]) -> bytes:
    """The first lines of an answer."""
    return STATUS_LINE[status] + b"".join([b"%b: %b\r\n" % header for header in headers])


class WireProtocol(HttpToolsProtocol):
    """One connection.

    Args:
        front: of the application that is served; it counts what is answered here, too.
        uvicorn: the arguments of Uvicorn's own class.
    """

    def __init__(self, front: Front, **uvicorn: Any) -> None:
        super().__init__(**uvicorn)
        self.front = front
        self._current: Exchange | None = None  # whose body comes in
        self._latest: Exchange | None = None  # which may wait for its answer, with others in the pipe behind it
        self._last = 0.0  # when the last request began or the last answer ended
        self._between = True  # nothing of a further request has come

    def data_received(self, data: bytes) -> None:
        """Some bytes; mostly one whole request, whose head was seen before."""
        if not self._between:
            super().data_received(data)
            return
        end = data.find(b"\r\n\r\n") + 4
        head = _HEADS.get(data[:end])
        if head is not None and len(data) - end == head.length and not self._behind and not self.flow.write_paused:
            self._last = self.loop.time()
            self.url, self.headers = head.url, head.headers
            exchange = self._latest = Exchange(self, head.way, True)
            self.cycle = exchange  # type: ignore[assignment]  # it passes for a cycle
            exchange.open(head.fields)
            exchange.feed(data[end:])
            exchange.run()
            return
        before = self._latest
        super().data_received(data)
        if self._latest is not before and self._between and self._current is self._latest:
            self._remember(data[:end], len(data) - end)

    def _remember(self, text: bytes, length: int) -> None:
        """Note what the head of a request says that was one piece with its body."""
        fields = dict(self.headers)
        way = _WAYS.get(self.url)
        if way is None or way.call is not InferCall:  # pictures may be the application's, which needs the parser's view
            return
        whole = fields.get(b"content-length") == b"%d" % length and b"transfer-encoding" not in fields
        if whole and len(text) <= LONGEST_HEAD:
            if len(_HEADS) >= REMEMBERED:
                _HEADS.clear()
            _HEADS[text] = Head(way, self.url, self.headers, fields, length)

    def on_message_begin(self) -> None:
        """A request begins. What the application is told of it is only put together if it is to answer."""
        self._between = False
        self.url = b""
        self.headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        """A line of the head."""
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """The head is there: refuse, begin, or leave it to the application."""
        headers = dict(self.headers)
        way = self._way(headers)
        if way is not None:
            exchange = Exchange(self, way, self.parser.should_keep_alive())
            try:
                exchange.open(headers)
            except ElsewhereError:
                pass
            else:
                self._current = self._latest = self.cycle = exchange  # type: ignore[assignment]  # it passes for a cycle
                return
        self._current = None
        self._hand_on()

    def _hand_on(self) -> None:
        """Let Uvicorn do what it does with a head."""
        url, headers = self.url, self.headers
        super().on_message_begin()
        self.url = url
        self.headers.extend(headers)  # a list that the scope has as well
        self.expect_100_continue = dict(headers).get(b"expect", b"").lower() == b"100-continue"
        super().on_headers_complete()

    def leave(self, body: bytes) -> None:
        """Give the current request, which is complete, to the application after all."""
        self._current = self.cycle = None  # type: ignore[assignment]  # as before the first request
        self._hand_on()
        super().on_body(body)
        super().on_message_complete()

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        if self._current is None:
            super().on_body(body)
        else:
            self._current.feed(body)

    def on_message_complete(self) -> None:
        """The body is there."""
        self._between = self.parser.should_keep_alive()
        if self._current is None:
            super().on_message_complete()
        else:
            self._current.run()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has left: what it asked for is given up."""
        if self._latest is not None:
            self._latest.abandon()
        self.front.plane.connections.left()
        super().connection_lost(exc)
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
        # Connection and exchange know each other; left alone, they keep the last body and its arrays until the garbage
        # collector comes to its oldest generation, which is seldom.
        self.timeout_keep_alive_task = self._current = self._latest = None
        self.cycle = None  # type: ignore[assignment]  # as before the first request

    def on_response_complete(self) -> None:
        """An answer is written: the next request of this connection may begin."""
        self._last = self.loop.time()
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        elif self.timeout_keep_alive_task is None:
            self._look_later(self.timeout_keep_alive)

    # Uvicorn sets and cancels a timer with every request. One that looks how long it was quiet does as well.
    def _unset_keepalive_if_required(self) -> None:
        self._last = self.loop.time()

    def _look_later(self, wait: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(wait, self.timeout_keep_alive_handler)

    def timeout_keep_alive_handler(self) -> None:
        """Close the connection if nothing was going on for as long as it may be idle."""
        self.timeout_keep_alive_task = None
        left = self.timeout_keep_alive - (self.loop.time() - self._last)
        if self.transport.is_closing():
            return
        if self.cycle is not None and not self.cycle.response_complete:
            return  # its answer looks again
        if left <= 0:
            self.transport.close()
        else:
            self._look_later(left)

    @property
    def _behind(self) -> bool:
        """Whether another request of this connection is not answered yet."""
        return self.cycle is not None and not self.cycle.response_complete

    def _way(self, headers: Mapping[bytes, bytes]) -> Way | None:
        """What is asked, if it is for the short way."""
        way = _WAYS.get(self.url)
        if way is None:
            if b"%" in self.url:
                return None
            way = way_of(self.url.decode("latin-1"))
            if way is None:
                return None
            if len(_WAYS) < REMEMBERED:
                _WAYS[self.url] = way
        if self._behind or self.flow.write_paused or b"expect" in headers or self.parser.should_upgrade():
            return None
        if self.parser.get_method() != b"POST" or self.parser.get_http_version() != "1.1":
            return None
        return way


class Exchange:
    """One request and its answer; for Uvicorn, what it calls a cycle.

    Attributes:
        keep_alive: whether the connection stays; Uvicorn sets it to False when it shuts down.
        disconnected: the client has left.
        response_complete: the answer is written.
        message_event: Uvicorn tells a waiting application with it; here nobody waits.
    """

    __slots__ = (
        "_call", "_headers", "_job", "_parts", "_protocol", "_size", "_start", "_way", "disconnected", "keep_alive",
        "response_complete",
    )  # fmt: skip

    message_event: ClassVar[asyncio.Event] = asyncio.Event()
    _call: InferCall | PictureCall

    def __init__(self, protocol: WireProtocol, way: Way, keep_alive: bool) -> None:
        self._protocol, self._way = protocol, way
        self._headers = protocol.headers
        self._start = time.perf_counter()
        self._parts: list[bytes] = []
        self._size = 0
        self._job: Job | None = None
        self.keep_alive = keep_alive
        self.disconnected = self.response_complete = False

    def open(self, headers: Mapping[bytes, bytes]) -> None:
        """Look at the head; what is refused now has its body read past by the parser.

        Raises:
            ElsewhereError: it is for the application.
        """
        protocol, way = self._protocol, self._way
        try:
            protocol.front.authorize(protocol.url, protocol.headers)
            self._call = way.call(protocol.front.plane, way.target, headers)
        except ElsewhereError:
            raise
        except Exception as error:
            self._answer(*failure(error, way.target))

    def feed(self, data: bytes) -> None:
        """Keep a piece of the body."""
        if self.response_complete:
            return
        self._parts.append(data)
        self._size += len(data)
        limit = self._protocol.front.plane.settings.max_body_bytes
        if self._size > limit:
            self._parts.clear()
            self._answer(*failure(too_large(limit), self._way.target))

    def run(self) -> None:
        """Queue what the whole body asks for."""
        if self.response_complete:
            return
        parts = self._parts
        body = parts[0] if len(parts) == 1 else b"".join(parts)
        try:
            self._job = self._call.start(body, self._finish)
        except ElsewhereError:
            self._protocol.leave(body)
        except Exception as error:
            self._answer(*failure(error, self._way.target))

    def abandon(self) -> None:
        """The client has left."""
        if not self.response_complete:
            self.disconnected = True
            if self._job is not None:
                self._job.cancel()

    def _finish(self, job: Job) -> None:
        try:
            headers, body = self._call.finish(job)
        except asyncio.CancelledError:
            self._protocol.front.count(self._headers, self._way.route, self._way.target, 499, self._start)
        except Exception as error:
            self._answer(*failure(error, self._way.target))
        else:
            self._answer(200, headers, body)

    def _answer(self, status: int, headers: Headers, body: bytes) -> None:
        protocol = self._protocol
        if protocol.front.plane.draining or not self.keep_alive:
            self.keep_alive = False
            headers.append(CLOSE)
        self.response_complete = True
        if not self.disconnected:
            head = lines(status, *headers)
            protocol.transport.write(b"%bcontent-length: %d\r\n\r\n%b" % (head, len(body), body))
            if not self.keep_alive:
                protocol.transport.close()
            protocol.on_response_complete()
        protocol.front.count(self._headers, self._way.route, self._way.target, status, self._start)
