"""The listening socket: opened, named, and closed without losing who stands in its queue."""

import ctypes
import logging
import socket
import struct

from service.errors import StartupError

log = logging.getLogger(__name__)

BACKLOG = 2048
_SO_ATTACH_FILTER = 26
_DROP_SYN = (  # classic BPF over a TCP header: code, jump if true, jump if false, operand
    (0x30, 0, 0, 13),  # load the byte of the flags
    (0x45, 0, 1, 0x02),  # SYN?
    (0x06, 0, 0, 0),  # yes: keep 0 bytes of the packet
    (0x06, 0, 0, 0xFFFFFFFF),  # no: keep them all
)
_PROGRAM = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *row) for row in _DROP_SYN))


def listen(host: str, port: int) -> socket.socket:
    """Open a socket and listen.

    Raises:
        StartupError: the address cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise StartupError(f"cannot listen on {host}:{port}: {error.strerror}") from error
    listener.setblocking(False)
    return listener


def address(listener: socket.socket) -> str:
    """Where a listening socket is, as a URL."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def refuse_new(listener: socket.socket) -> None:
    """Let no further connection into the listener's queue, so that the queue can be emptied before it is closed.

    Closing a listener resets the connections that the kernel has made and nobody has accepted yet, with their requests.
    A packet filter ends that on Linux: a caller's SYN goes unanswered until the close refuses it. Everything else goes
    through, or a caller whose SYN was answered just before would believe in a connection that is never made.
    """
    program = struct.pack("@HP", len(_DROP_SYN), ctypes.addressof(_PROGRAM))
    try:
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
    except OSError as error:
        log.debug("no packet filter on the listener: %s", error)
