"""The process around the application: its socket, its signals, its end."""

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Generator
from functools import partial
from types import FrameType
from typing import Any

import uvicorn

from service import memory
from service.accept import Acceptor
from service.app import create_app
from service.dataplane import DataPlane
from service.http.wire import WireProtocol
from service.listener import address, listen, refuse_new
from service.settings import Settings
from service.workers import Share

log = logging.getLogger(__name__)

ECHO = 1.0  # seconds in which another signal is the same wish
LINGER = 0.25  # seconds in which a connection that is already made sends its request


class Server(uvicorn.Server):
    """Uvicorn with our own reading of signals.

    SIGTERM: unready at once, but still accepting for `drain_delay`, since load balancers need a moment to look away;
    then no new connections, and what was accepted is finished. SIGINT, a person's Ctrl-C: the same without the delay.
    A second signal ends the process at once, unless it comes within a second: then it is the first one's echo, since
    process managers signal a whole group, in which `make serve` passes the signal on as well.
    A worker whose supervisor is gone drains as at SIGTERM.
    """

    def __init__(
        self, config: uvicorn.Config, plane: DataPlane, listener: socket.socket, parent: int | None = None
    ) -> None:
        super().__init__(config)
        self._listener = listener
        self._acceptor: Acceptor | None = None
        self._plane = plane
        self._parent = parent
        self._asked = 0.0

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the application, then accept."""
        await super().startup(sockets=[])

        def protocol() -> asyncio.BaseProtocol:
            make: Any = self.config.http_protocol_class
            made: asyncio.BaseProtocol = make(
                config=self.config, server_state=self.server_state, app_state=self.lifespan.state
            )
            return made

        self._acceptor = Acceptor(self._listener, protocol, self._plane.connections)
        self._acceptor.open()
        self._tidy_later()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept no more, finish what was accepted, end the application."""
        if self._acceptor is not None:
            self._acceptor.close()
        await super().shutdown([self._listener])

    def _tidy_later(self) -> None:
        loop = asyncio.get_running_loop()
        seen = self.server_state.total_requests

        def tidy() -> None:
            if self.server_state.total_requests != seen:  # a process at rest has nothing to give back
                memory.give_back()
            self._tidy_later()

        loop.call_later(memory.INTERVAL, tidy)

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Install our handlers; unlike Uvicorn's, the signal is not raised again at the end, so the status is 0."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()
        for sig in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(sig, self.handle_exit, sig, None)
        if self._parent is not None:  # readable, at its end, when the supervisor is gone
            loop.add_reader(self._parent, self._orphaned, self._parent)
        try:
            yield
        finally:
            for sig in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(sig)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain, or end at once if that has begun."""
        now = time.monotonic()
        if self._plane.draining:
            if now - self._asked < ECHO:
                return
            log.warning("second %s: ending at once", signal.Signals(sig).name)
            signal.signal(sig, signal.SIG_DFL)
            os.kill(os.getpid(), sig)
            return
        self._plane.draining, self._asked = True, now
        delay = self._plane.settings.drain_delay if sig == signal.SIGTERM else 0.0
        log.info("%s: not ready any more, accepting for %g s, then finishing", signal.Signals(sig).name, delay)
        asyncio.get_running_loop().call_later(delay, self._stop_accepting)

    def _orphaned(self, parent: int) -> None:
        asyncio.get_running_loop().remove_reader(parent)
        if not self._plane.draining:
            log.warning("the supervisor is gone")
            self.handle_exit(signal.SIGTERM, None)

    def _stop_accepting(self) -> None:
        if self._parent is None:  # of a socket that is shared the supervisor takes care
            refuse_new(self._listener)
        asyncio.get_running_loop().call_later(LINGER, self._finish)

    def _finish(self) -> None:
        self.should_exit = True


def serve(settings: Settings, share: Share | None = None) -> None:
    """Load the models, listen, and serve until a signal comes.

    Args:
        settings: of the server.
        share: what this process shares with other workers; None if it is alone.

    Raises:
        StartupError: see the message.
    """
    plane = DataPlane(settings, share.ledger(), share.journal(), share.sums()) if share else DataPlane(settings)
    plane.start()
    listener = share.listener() if share else listen(settings.host, settings.port)
    app = create_app(settings, plane)
    config = uvicorn.Config(
        app,
        http=partial(WireProtocol, app.front),  # type: ignore[arg-type]  # anything that makes a protocol will do
        ws="none",
        proxy_headers=False,  # nothing depends on where a request comes from
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        lifespan="on",
        timeout_graceful_shutdown=max(1, round(settings.shutdown_timeout)),
    )
    gc.freeze()  # all that there is now stays: no collection needs to look at it again
    gc.enable()
    if share is None:
        log.info("listening on %s", address(listener))
    Server(config, plane, listener, share.parent if share else None).run()
    log.info("ended")
