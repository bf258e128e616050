"""A server that only counts bytes: what the load generator itself can do, with next to nothing on the other side."""

import select
import socket

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"


def echo(listener: socket.socket, size: int) -> None:
    """Answer every `size` bytes, for ever."""
    poll = select.epoll()
    poll.register(listener, select.EPOLLIN)
    open_ones: dict[int, tuple[socket.socket, int]] = {}
    while True:
        for number, _ in poll.poll():
            if number == listener.fileno():
                made, _ = listener.accept()
                made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                poll.register(made, select.EPOLLIN)
                open_ones[made.fileno()] = made, 0
                continue
            connection, have = open_ones[number]
            try:
                got = len(connection.recv(262144))
            except ConnectionError:
                got = 0
            if not got:
                poll.unregister(number)
                del open_ones[number]
                connection.close()
                continue
            have += got
            if have >= size:
                connection.sendall(ANSWER)
                have -= size
            open_ones[number] = connection, have
