"""The way of an inference request: from bytes to the data plane and back, without a framework.

Routing, dependency injection and response classes would cost more than a small model itself, so this one route is
recognised before the framework; it stands in the framework's router as well, for the documentation. `InferCall` knows
no transport: `infer` drives it from ASGI, `service.http.wire` from the socket.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from typing import Any

import orjson

from service.dataplane import DataPlane
from service.engine.job import Job
from service.engine.scheduler import overloaded
from service.errors import ServiceError
from service.http.body import ClientLeftError, Message, Receive, compress, decompress, read_body, too_large
from service.protocol.request import InferRequest

log = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]
Target = tuple[str, str | None]

JSON = (b"content-type", b"application/json")
OCTETS = (b"content-type", b"application/octet-stream")
CLOSE = (b"connection", b"close")
WORTH_COMPRESSING = 1024  # bytes; below, the client's unpacking costs more than the wire


def match(path: str) -> Target | None:
    """Model and version of `/v2/models/{model}[/versions/{version}]/infer`; None for any other path."""
    if not path.endswith("/infer") or not path.startswith("/v2/models/"):
        return None
    parts = path[11:-6].split("/")
    if len(parts) == 1:
        return parts[0], None
    if len(parts) == 3 and parts[1] == "versions" and parts[2].isascii() and parts[2].isdigit():
        return parts[0], parts[2]
    return None


class InferCall:
    """One request, in the order in which it comes: its head, its body, its outputs.

    Args:
        plane: that is asked.
        target: model and version, as `match` found them.
        headers: of the request, by lower-case name; of several with one name, the last.

    Raises:
        ServiceError: it can be refused before its body is read: an unknown model, too large, or the queue is full.
    """

    __slots__ = ("_headers", "_limit", "_plane", "_request", "announced", "model")

    _request: InferRequest

    def __init__(self, plane: DataPlane, target: Target, headers: Mapping[bytes, bytes]) -> None:
        self._plane, self._limit, self._headers = plane, plane.settings.max_body_bytes, headers
        self.model = plane.repository.get(*target)
        announced = headers.get(b"content-length")  # the HTTP parser has seen to it that it is a number
        self.announced = None if announced is None else int(announced)
        if self.announced is not None and self.announced > self._limit:
            raise too_large(self._limit)
        if self.model.lane.full:
            self.model.statistics.failure("REJECTED")
            raise overloaded()

    def start(self, body: bytes, then: Callable[[Job], None] | None = None) -> Job:
        """Read the body and queue what it asks for; `then` is called when that is done.

        Raises:
            ServiceError: it says what does not fit.
        """
        headers = self._headers
        if encoding := headers.get(b"content-encoding"):
            body = decompress(body, encoding.decode("latin-1"), self._limit)
        self._request = self._plane.read(self.model, body, headers.get(b"inference-header-content-length"))
        return self._plane.submit(self.model, self._request, then)

    def finish(self, job: Job) -> tuple[Headers, bytes]:
        """Headers and body of the answer, once the job is done.

        Raises:
            ServiceError: the job failed, or its outputs cannot be written as they were asked for.
            asyncio.CancelledError: the client has left.
        """
        arrays = self._plane.collect(self.model, job)
        answer, json_length = self.model.writer.write(self._request, arrays)
        headers: Headers = [JSON]
        if json_length is not None:
            headers = [OCTETS, (b"inference-header-content-length", b"%d" % json_length)]
        if len(answer) >= WORTH_COMPRESSING and (accepted := self._headers.get(b"accept-encoding")):
            answer, used = compress(answer, accepted.decode("latin-1"))
            if used:
                headers.append((b"content-encoding", used.encode()))
        return headers, answer


async def infer(plane: DataPlane, target: Target, scope: Scope, receive: Receive, send: Send) -> int:
    """Answer one request from ASGI; the status that was sent."""
    try:
        status, headers, body = 200, *await _answer(plane, target, scope["headers"], receive)
    except (ClientLeftError, asyncio.CancelledError):
        return 499  # nobody is there to be answered
    except Exception as error:
        status, headers, body = failure(error, target)
    if plane.draining:
        headers.append(CLOSE)
    await send_answer(send, status, headers, body)
    return status


async def _answer(
    plane: DataPlane, target: Target, request_headers: Iterable[tuple[bytes, bytes]], receive: Receive
) -> tuple[Headers, bytes]:
    call = InferCall(plane, target, dict(request_headers))
    job = call.start(await read_body(receive, plane.settings.max_body_bytes, call.announced))

    async def left() -> bool:
        return bool((await receive())["type"] == "http.disconnect")

    await plane.wait(job, left)
    return call.finish(job)


async def send_answer(send: Send, status: int, headers: Headers, body: bytes) -> None:
    """Send a whole answer."""
    headers.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def failure(error: Exception, target: Target) -> tuple[int, Headers, bytes]:
    """Status, headers and body for whatever went wrong; what is not the client's doing is logged."""
    if not isinstance(error, ServiceError):
        log.error("a request for model %s failed", target[0], exc_info=error)
        error = ServiceError("internal server error")
    headers = [JSON, *((k.lower().encode(), v.encode()) for k, v in error.headers.items())]
    return error.status, headers, orjson.dumps({"error": error.message})
