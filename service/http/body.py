"""Request bodies: bounded while they come in and while they are decompressed."""

import zlib
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from service.errors import BadRequestError, TooLargeError

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]

_WBITS = {"gzip": 31, "x-gzip": 31, "deflate": 15}  # deflate is the zlib container, as the protocol's clients send it


class ClientLeftError(Exception):
    """The client closed the connection before its request was complete."""


async def read_body(receive: Receive, limit: int, announced: int | None = None) -> bytes:
    """The whole body.

    Args:
        receive: of ASGI.
        limit: most bytes.
        announced: the value of Content-Length, if there was one.

    Raises:
        TooLargeError: announced or sent more than the limit.
        ClientLeftError: the client is gone.
    """
    if announced is not None and announced > limit:
        raise too_large(limit)
    message = await receive()
    if not message.get("more_body", False):
        if message["type"] == "http.disconnect":
            raise ClientLeftError
        body: bytes = message.get("body", b"")
        if len(body) > limit:
            raise too_large(limit)
        return body
    parts, size = [message.get("body", b"")], len(message.get("body", b""))
    while message.get("more_body", False):
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeftError
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > limit:
            raise too_large(limit)
    return b"".join(parts)


def too_large(limit: int) -> TooLargeError:
    """The error of a body that is larger than the limit."""
    return TooLargeError(f"the request body exceeds the maximum allowed value of {limit} bytes")


def decompress(body: bytes, encoding: str, limit: int) -> bytes:
    """Undo a `Content-Encoding`.

    Raises:
        BadRequestError: an unknown encoding, or not such data.
        TooLargeError: more than `limit` bytes come out.
    """
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return body
    if encoding not in _WBITS:
        raise BadRequestError("unsupported Content-Encoding: only gzip and deflate are understood")
    stream = zlib.decompressobj(_WBITS[encoding])
    try:
        data = stream.decompress(body, limit + 1)
    except zlib.error:
        raise BadRequestError(f"the request body is not {encoding} data") from None
    if len(data) > limit:
        raise too_large(limit)
    if not stream.eof or stream.unused_data:
        raise BadRequestError(f"the request body is not one complete {encoding} stream")
    return data


def compress(body: bytes, accepted: str) -> tuple[bytes, str | None]:
    """The body in the first encoding of `Accept-Encoding` that we have, and its name; None if it stays as it is."""
    for item in accepted.lower().split(","):
        name, _, weight = item.strip().partition(";")
        if name in ("gzip", "deflate") and weight.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000"):
            stream = zlib.compressobj(1, wbits=_WBITS[name])
            return stream.compress(body) + stream.flush(), name
    return body, None
