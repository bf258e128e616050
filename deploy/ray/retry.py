"""For Serve's HTTP proxies: what a replica had not answered when it died is asked of another one.

A proxy of Serve gives a request to one replica. If that dies before it has answered, the proxy sends nothing at all, or
stops in the middle, and the client gets a 500 or a connection that ends. If it dies before it has said that it takes
the request, the proxy chooses another replica by itself, but the body is gone with the first, and the second one waits
for it for ever. So `Retry` stands around the proxy, keeps request and answer until the answer is whole, and otherwise
asks again; and the body travels with the head of the request, where `Whole` takes it in the replica.

To ask again is right for what changes nothing, as inference. Anything else is not asked twice, and fails in words.

Serve loads this by `RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH` (see `environment`).
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.middleware import Middleware

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Any, Receive, Send], Awaitable[None]]

PAUSES = (0.0, 0.1, 0.5)  # seconds before each attempt; few, since a request may be what the replicas die of
KEPT = 64 * 2**20  # bytes of a body; a longer one is handed on as it comes, and not asked twice
PURE = ("/infer", "/predict", ":predict", "/v2/repository/index")  # how the paths end whose POST changes nothing
BODY = "foldserve.body"  # among the scope's extensions


def middlewares() -> list[Middleware]:
    """What Serve is to put around each of its proxies."""
    return [Middleware(Retry)]


class Retry:
    """ASGI middleware.

    Args:
        app: Serve's proxy.
    """

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        client = Client(receive)
        whole = announced(scope) <= KEPT and await client.keep()
        for pause in PAUSES if whole and may_repeat(scope["method"], scope["path"]) else PAUSES[:1]:
            await asyncio.sleep(pause)
            answer = await self._attempt(scope, client)
            if client.left:
                return
            if answer:
                break
        else:
            text = "no replica answered this before it ended; whether what was asked was done is not known"
            answer = _error(503, text, [(b"retry-after", b"1")])
        for message in in_json(answer):
            await send(message)

    async def _attempt(self, scope: Any, client: "Client") -> list[Message]:
        """The answer, if it is whole."""
        answer: list[Message] = []

        async def collect(message: Message) -> None:
            answer.append(message)

        more = {} if client.body is None else {BODY: client.body}
        # Lists and mappings of its own: what the proxy adds must not be there in the next attempt.
        own = {"headers": list(scope["headers"]), "extensions": (scope.get("extensions") or {}) | more}
        await self._app(scope | own, client.receiver(), collect)
        ends = answer and answer[-1]["type"] == "http.response.body" and not answer[-1].get("more_body")
        return answer if ends else []


class Whole:
    """ASGI middleware for the replicas: the body is the one that came with the head of the request.

    Args:
        app: of the replica.
    """

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """ASGI."""
        bodies = [body for body in [(scope.get("extensions") or {}).get(BODY)] if body is not None]

        async def given() -> Message:
            if bodies:
                return {"type": "http.request", "body": bodies.pop(), "more_body": False}
            while (message := await receive())["type"] == "http.request":
                pass  # the same once more, as Serve brings it
            return message

        await self._app(scope, given if bodies else receive, send)


class Client:
    """What a client sends, to be given out more than once.

    Args:
        receive: of ASGI.

    Attributes:
        body: if it is whole.
        left: the client is gone.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._read: list[Message] = []
        self.body: bytes | None = None
        self.left = False

    async def keep(self) -> bool:
        """Read the body; whether it is whole, so that it can be given out again."""
        parts: list[bytes] = []
        size, more = 0, True
        while more and size <= KEPT and not self.left:
            message = await self._next()
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            more = bool(message.get("more_body"))
        body = b"".join(parts)
        self._read = [{"type": "http.request", "body": body, "more_body": more}]
        if not more and not self.left:
            self.body = body
        return self.body is not None

    def receiver(self) -> Receive:
        """A `receive` that begins with what was read."""
        read = iter(self._read)

        async def receive() -> Message:
            for message in read:
                return message
            return await self._next()

        return receive

    async def _next(self) -> Message:
        message = await self._receive()
        self.left = self.left or message["type"] == "http.disconnect"
        return message


def may_repeat(method: str, path: str) -> bool:
    """Whether a request that was perhaps already answered may be asked again."""
    return method in ("GET", "HEAD") or (method == "POST" and path.endswith(PURE))


def announced(scope: Any) -> int:
    """The length that the head of a request names; 0 if it names none."""
    return int(dict(scope["headers"]).get(b"content-length", 0))  # the HTTP parser has seen to it that it is a number


def in_json(answer: list[Message]) -> list[Message]:
    """An answer; what Serve itself refuses, in plain text, becomes `{"error": …}` like every other error."""
    start, *body = answer
    kept = [
        (name, value) for name, value in start["headers"] if name.lower() not in (b"content-type", b"content-length")
    ]
    kinds = [value for name, value in start["headers"] if name.lower() == b"content-type"]
    if start["status"] < 400 or not any(kind.startswith(b"text/plain") for kind in kinds):
        return answer
    text = b"".join(message.get("body", b"") for message in body).decode(errors="replace")
    return _error(start["status"], text or "the request could not be served", kept)


def _error(status: int, text: str, headers: list[tuple[bytes, bytes]]) -> list[Message]:
    body = json.dumps({"error": text}).encode()
    headers = [*headers, (b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    return [
        {"type": "http.response.start", "status": status, "headers": headers},
        {"type": "http.response.body", "body": body},
    ]
