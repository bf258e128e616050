"""A listener that is about to close: who was let in stays in, and nobody else comes."""

import errno
import select
import socket
import sys

import pytest

from service.errors import StartupError
from service.listener import address, listen, refuse_new

filters = pytest.mark.skipif(sys.platform != "linux", reason="packet filters are Linux's")


def caller(listener: socket.socket) -> socket.socket:
    """A connection to it, as far as the caller can see."""
    made = socket.create_connection(listener.getsockname()[:2], timeout=5)
    made.settimeout(0.3)
    return made


def accept(listener: socket.socket) -> socket.socket:
    """The next that waits."""
    select.select([listener], [], [], 5)
    accepted, _ = listener.accept()
    accepted.settimeout(5)
    return accepted


@filters
def test_nobody_comes_who_was_not_there_before() -> None:
    with listen("127.0.0.1", 0) as listener, caller(listener) as before:
        refuse_new(listener)
        with socket.socket() as late:
            late.settimeout(0.3)
            with pytest.raises(TimeoutError):
                late.connect(listener.getsockname())
        before.sendall(b"question")
        with accept(listener) as accepted:
            assert accepted.recv(100) == b"question"
            accepted.sendall(b"answer")
            assert before.recv(100) == b"answer"
        with pytest.raises(BlockingIOError):
            listener.accept()


@filters
def test_a_caller_whose_syn_was_answered_before_gets_in() -> None:
    with listen("127.0.0.1", 0) as listener:
        # The kernel passes over the last packet of the handshake and waits for data: the state in which a connection
        # is for some microseconds otherwise.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 5)
        with caller(listener) as between:
            with pytest.raises(BlockingIOError):
                listener.accept()
            refuse_new(listener)
            between.sendall(b"question")
            with accept(listener) as accepted:
                assert accepted.recv(100) == b"question"


def test_an_address_that_is_taken_is_named() -> None:
    with listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        assert address(listener) == f"http://127.0.0.1:{port}"
        with pytest.raises(StartupError, match=f"cannot listen on 127.0.0.1:{port}: ") as raised:
            listen("127.0.0.1", port)
        assert isinstance(raised.value.__cause__, OSError)
        assert raised.value.__cause__.errno == errno.EADDRINUSE
