"""The outermost layer: inference goes straight through, everything else into the framework, all of it counted."""

import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from service.dataplane import DataPlane
from service.errors import ServiceError
from service.http.body import Message, Receive, too_large
from service.http.infer import CLOSE, Scope, Send, Target, failure, infer, match, send_answer
from service.logs import AccessLog
from service.metrics.http import HttpStatistics
from service.security import check_access
from service.tracing import Tracing

INFER_ROUTE = "/v2/models/{model}/infer"
App = Callable[[Any, Any, Any], Awaitable[None]]


class Front:
    """ASGI middleware. Bounds every body, counts every request, says `Connection: close` while draining.

    Args:
        app: the framework.
        plane: what inference asks.
    """

    def __init__(self, app: App, plane: DataPlane) -> None:
        self._app, self.plane = app, plane
        self._statistics = HttpStatistics(plane.ledger)
        self._tracing = Tracing()
        self._access = AccessLog() if plane.settings.access_log else None
        self._keys = (*plane.settings.api_keys, *plane.settings.admin_keys) if plane.settings.api_keys else ()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = time.perf_counter()
        target = match(scope["path"]) if scope["method"] == "POST" else None
        try:
            self.authorize(scope["path"].encode(), scope["headers"])
        except ServiceError as error:
            await send_answer(send, *failure(error, target or ("", None)))
            route = INFER_ROUTE if target else "unauthorized"
            self._statistics.observe(scope["method"], route, error.status, time.perf_counter() - start)
            return
        if target is not None:
            status = await infer(self.plane, target, scope, receive, send)
            self.count(scope["headers"], INFER_ROUTE, target, status, start)
            return
        status = 500

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if self.plane.draining:
                    message["headers"] = [*message.get("headers", ()), CLOSE]
            await send(message)

        try:
            await self._app(scope, bounded(receive, self.plane.settings.max_body_bytes), watched)
        finally:
            route = getattr(scope.get("route"), "path", None) or "unmatched"
            took = time.perf_counter() - start
            self._statistics.observe(scope["method"], route, status, took)
            if self._access is not None:
                named = scope.get("path_params", {})
                target = (named.get("model") or "", named.get("version"))
                self._access.write(
                    scope["method"], scope["headers"], route=route, target=target, status=status, seconds=took
                )

    def authorize(self, path: bytes, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Let a request through that has a key, or needs none.

        Raises:
            UnauthorizedError: no key, or a wrong one.
        """
        if self._keys:
            check_access(path.decode("latin-1"), headers, self._keys)

    def count(
        self, headers: Iterable[tuple[bytes, bytes]], route: str, target: Target, status: int, start: float
    ) -> None:
        """Count, and if wanted log and trace, a POST that began at `start` (`time.perf_counter`)."""
        took = time.perf_counter() - start
        self._statistics.observe("POST", route, status, took)
        if self._tracing.on:
            self._tracing.write(route, headers, target, status, took)
        if self._access is not None:
            self._access.write("POST", headers, route=route, target=target, status=status, seconds=took)


def bounded(receive: Receive, limit: int) -> Receive:
    """A `receive` that raises `TooLargeError` as soon as more than `limit` bytes have come."""
    size = 0

    async def counted() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > limit:
            raise too_large(limit)
        return message

    return counted
