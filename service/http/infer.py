"""The way of an inference request: straight from ASGI to the data plane.

Routing, dependency injection and response classes would cost more than a small model itself, so this one route is
recognised before the framework; it stands in the framework's router as well, for the documentation.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

import orjson

from service.dataplane import DataPlane
from service.errors import ServiceError
from service.http.body import ClientLeftError, Message, Receive, compress, decompress, read_body

log = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

JSON = (b"content-type", b"application/json")
OCTETS = (b"content-type", b"application/octet-stream")
CLOSE = (b"connection", b"close")
WORTH_COMPRESSING = 1024  # bytes; below, the client's unpacking costs more than the wire


def match(path: str) -> tuple[str, str | None] | None:
    """Model and version of `/v2/models/{model}[/versions/{version}]/infer`; None for any other path."""
    if not path.endswith("/infer") or not path.startswith("/v2/models/"):
        return None
    parts = path[11:-6].split("/")
    if len(parts) == 1:
        return parts[0], None
    if len(parts) == 3 and parts[1] == "versions" and parts[2].isascii() and parts[2].isdigit():
        return parts[0], parts[2]
    return None


async def infer(plane: DataPlane, target: tuple[str, str | None], scope: Scope, receive: Receive, send: Send) -> int:
    """Answer one request; the status that was sent."""
    try:
        status, headers, body = 200, *await _answer(plane, target, scope["headers"], receive)
    except ServiceError as error:
        status, headers, body = error.status, *error_answer(error)
    except (ClientLeftError, asyncio.CancelledError):
        return 499  # nobody is there to be answered
    except Exception:
        log.exception("a request for model %s failed", target[0])
        status, headers, body = 500, *error_answer(ServiceError("internal server error"))
    if plane.draining:
        headers.append(CLOSE)
    await send_answer(send, status, headers, body)
    return status


async def send_answer(send: Send, status: int, headers: Headers, body: bytes) -> None:
    """Send a whole answer."""
    headers.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def error_answer(error: ServiceError) -> tuple[Headers, bytes]:
    """Headers and body of an error."""
    headers = [JSON, *((k.lower().encode(), v.encode()) for k, v in error.headers.items())]
    return headers, orjson.dumps({"error": error.message})


async def _answer(
    plane: DataPlane, target: tuple[str, str | None], request_headers: Iterable[tuple[bytes, bytes]], receive: Receive
) -> tuple[Headers, bytes]:
    announced = None
    header_length = encoding = accepted = None
    for name, value in request_headers:
        if name == b"content-length":
            announced = int(value)  # the HTTP parser has seen to it that it is a number
        elif name == b"inference-header-content-length":
            header_length = value.decode("latin-1")
        elif name == b"content-encoding":
            encoding = value.decode("latin-1")
        elif name == b"accept-encoding":
            accepted = value.decode("latin-1")
    model = plane.repository.get(*target)  # an unknown model is answered before its body is read
    body = await read_body(receive, plane.settings.max_body_bytes, announced)
    if encoding:
        body = decompress(body, encoding, plane.settings.max_body_bytes)

    async def left() -> bool:
        return bool((await receive())["type"] == "http.disconnect")

    answer, json_length = await plane.infer(model, body, header_length, left)
    headers: Headers = [JSON]
    if json_length is not None:
        headers = [OCTETS, (b"inference-header-content-length", b"%d" % json_length)]
    if accepted and len(answer) >= WORTH_COMPRESSING:
        answer, used = compress(answer, accepted)
        if used:
            headers.append((b"content-encoding", used.encode()))
    return headers, answer
