"""The process around the application: its socket, its signals, its end."""

import asyncio
import contextlib
import ctypes
import logging
import os
import signal
import socket
import struct
import threading
from collections.abc import Generator
from types import FrameType

import uvicorn

from service.app import create_app
from service.dataplane import DataPlane
from service.errors import StartupError
from service.settings import Settings

log = logging.getLogger(__name__)

EXIT_STARTUP = 3
LINGER = 0.25  # seconds in which a connection that is already made sends its request
_SO_ATTACH_FILTER = 26
_BPF_DROP = ctypes.create_string_buffer(struct.pack("=HBBI", 0x06, 0, 0, 0))  # one instruction: return 0 bytes


class Server(uvicorn.Server):
    """Uvicorn with our own reading of signals.

    SIGTERM: unready at once, but still accepting for `drain_delay`, since load balancers need a moment to look away;
    then no new connections, and what was accepted is finished. SIGINT, a person's Ctrl-C: the same without the delay.
    A second SIGINT ends the process at once. A second SIGTERM is the same wish again: process managers send it to a
    whole group, in which `make serve` then passes it on as well.
    """

    def __init__(self, config: uvicorn.Config, plane: DataPlane) -> None:
        super().__init__(config)
        self._plane = plane

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Install our handlers; unlike Uvicorn's, the signal is not raised again at the end, so the status is 0."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()
        for sig in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(sig, self.handle_exit, sig, None)
        try:
            yield
        finally:
            for sig in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(sig)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain, or end at once if that has begun."""
        if self._plane.draining:
            if sig == signal.SIGTERM:
                return
            log.warning("second %s: ending at once", signal.Signals(sig).name)
            signal.signal(sig, signal.SIG_DFL)
            os.kill(os.getpid(), sig)
            return
        self._plane.draining = True
        delay = self._plane.settings.drain_delay if sig == signal.SIGTERM else 0.0
        log.info("%s: not ready any more, accepting for %g s, then finishing", signal.Signals(sig).name, delay)
        asyncio.get_running_loop().call_later(delay, self._stop_accepting)

    def _stop_accepting(self) -> None:
        for server in self.servers:
            for listener in server.sockets:
                refuse_new(listener)
        asyncio.get_running_loop().call_later(LINGER, self._finish)

    def _finish(self) -> None:
        self.should_exit = True


def listen(settings: Settings) -> socket.socket:
    """The listening socket.

    Raises:
        StartupError: the address cannot be had.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((settings.host, settings.port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise StartupError(f"cannot listen on {settings.host}:{settings.port}: {error.strerror}") from error
    listener.setblocking(False)
    return listener


def refuse_new(listener: socket.socket) -> None:
    """Let no further connection into the listener's queue, so that the queue can be emptied before it is closed.

    Closing a listener resets the connections that the kernel has made and nobody has accepted yet, with their requests.
    A packet filter that drops everything ends that on Linux: a caller's SYN goes unanswered until the close refuses it.
    """
    program = struct.pack("@HP", 1, ctypes.addressof(_BPF_DROP))
    try:
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
    except OSError as error:
        log.debug("no packet filter on the listener: %s", error)


def serve(settings: Settings) -> None:
    """Load the models, listen, and serve until a signal comes.

    Raises:
        StartupError: see the message.
    """
    plane = DataPlane(settings)
    plane.start()
    listener = listen(settings)
    host, port = listener.getsockname()[:2]
    config = uvicorn.Config(
        create_app(settings, plane),
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        lifespan="on",
        timeout_graceful_shutdown=max(1, round(settings.shutdown_timeout)),
    )
    log.info("listening on http://%s:%d", f"[{host}]" if ":" in host else host, port)
    Server(config, plane).run(sockets=[listener])
    log.info("ended")
