"""Inference straight from the socket, for clients that do all that HTTP allows."""

import asyncio
import contextlib
import gc
import json
import socket
import time
import weakref
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
import uvicorn
from uvicorn.server import ServerState

from service.app import create_app
from service.http.wire import WireProtocol
from service.settings import Settings
from tests.service.bundles import Array
from tests.service.process import Process
from tests.service.test_infer import HEADER, INFER, binary_body, json_input


@pytest.fixture(scope="module")
def server(repository: Path) -> Iterator[Process]:
    started = Process(repository, max_body_bytes=100_000).wait_ready()
    yield started
    started.kill()


@pytest.fixture
def caller(server: Process) -> Iterator[socket.socket]:
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        yield connection


def request(images: Array, *lines: str, version: str = "HTTP/1.1", identifier: str = "") -> bytes:
    body = json.dumps({"id": identifier, "inputs": [json_input(images)]}).encode()
    head = [f"POST {INFER} {version}", "Host: x", f"Content-Length: {len(body)}", *lines]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


def answer(stream: BinaryIO) -> tuple[int, dict[str, str], bytes]:
    """The next answer on a connection."""
    status = int(stream.readline().split()[1])
    headers = {}
    while line := stream.readline().strip().decode():
        name, _, value = line.partition(": ")
        headers[name.lower()] = value
    return status, headers, stream.read(int(headers.get("content-length", 0)))


def check(body: bytes, expected: Array) -> None:
    data = json.loads(body)["outputs"][0]["data"]
    np.testing.assert_allclose(np.reshape(data, expected.shape), expected, atol=1e-6)


def test_a_head_that_comes_again_is_a_request_of_its_own(caller: socket.socket, images: Array, expected: Array) -> None:
    def text(i: int, *lines: str) -> tuple[bytes, bytes]:
        body, headers = binary_body(images[i : i + 1])
        head = [f"POST {INFER} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", f"{HEADER}: {headers[HEADER]}"]
        return "\r\n".join([*head, *lines]).encode() + b"\r\n\r\n", body

    def ask(*requests: tuple[int, bytes, bytes]) -> None:
        caller.sendall(b"".join(head + body for _, head, body in requests))
        for i, _, _ in requests:
            status, _, body = answer(stream)
            assert status == 200, body
            check(body, expected[i : i + 1])

    assert len({text(i)[0] for i in range(5)}) == 1
    with caller.makefile("rb") as stream:
        for i in range(3):
            ask((i, *text(i)))
        ask(*((i, *text(i)) for i in (3, 1, 4)))  # in one piece
        head, body = text(2)
        caller.sendall(head)
        time.sleep(0.05)  # in two
        ask((2, b"", body))
        caller.sendall(b"GET /v2 HTTP/1.1\r\nHost: x\r\n\r\n")
        assert answer(stream)[0] == 200
        ask((0, *text(0)))
        caller.sendall(head + body[:-1] + b"\r")  # the header says that it is whole
        assert answer(stream)[0] == 200
        ask((1, *text(1, "Connection: close")))
        assert stream.read() == b""


def test_pipelined_requests_are_answered_in_their_order(caller: socket.socket, images: Array, expected: Array) -> None:
    metadata = b"GET /v2 HTTP/1.1\r\nHost: x\r\n\r\n"
    texts = [request(images[i : i + 1], identifier=str(i)) for i in range(3)]
    caller.sendall(texts[0] + texts[1] + metadata + texts[2] + metadata)
    with caller.makefile("rb") as stream:
        for i in (0, 1, None, 2, None):
            status, _, body = answer(stream)
            assert status == 200
            if i is None:
                assert json.loads(body)["name"] == "foldserve"
            else:
                assert json.loads(body)["id"] == str(i)
                check(body, expected[i : i + 1])


def test_a_body_in_pieces_and_in_chunks(caller: socket.socket, images: Array, expected: Array) -> None:
    text = request(images)
    with caller.makefile("rb") as stream:
        for piece in range(0, len(text), 701):
            caller.sendall(text[piece : piece + 701])
        check(answer(stream)[2], expected)
        body = text.partition(b"\r\n\r\n")[2]
        caller.sendall(f"POST {INFER} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        for piece in range(0, len(body), 997):
            part = body[piece : piece + 997]
            caller.sendall(b"%x\r\n%b\r\n" % (len(part), part))
        caller.sendall(b"0\r\n\r\n")
        check(answer(stream)[2], expected)


def test_expect_continue(caller: socket.socket, images: Array, expected: Array) -> None:
    head, _, body = request(images, "Expect: 100-continue").partition(b"\r\n\r\n")
    caller.sendall(head + b"\r\n\r\n")
    with caller.makefile("rb") as stream:
        assert answer(stream)[0] == 100
        caller.sendall(body)
        check(answer(stream)[2], expected)


@pytest.mark.parametrize(("version", "lines"), [("HTTP/1.0", ()), ("HTTP/1.1", ("Connection: close",))])
def test_a_connection_that_is_to_end_ends(
    caller: socket.socket, images: Array, expected: Array, version: str, lines: tuple[str, ...]
) -> None:
    caller.sendall(request(images, *lines, version=version))
    with caller.makefile("rb") as stream:
        _, headers, body = answer(stream)
        assert headers["connection"] == "close"
        check(body, expected)
        assert stream.read() == b""


@pytest.mark.parametrize(
    ("path", "length", "status", "message"),
    [
        ("/v2/models/nobody/infer", 50_000, 404, "unknown model"),
        ("/v2/models/tiny/versions/9/infer", 50_000, 404, "unknown model"),
        (INFER, 100_001, 413, "exceeds the maximum allowed value of 100000 bytes"),
    ],
)
def test_what_is_refused_is_refused_before_its_body(
    caller: socket.socket, images: Array, expected: Array, path: str, length: int, status: int, message: str
) -> None:
    caller.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n".encode())
    with caller.makefile("rb") as stream:
        found, _, body = answer(stream)
        assert found == status
        assert message in json.loads(body)["error"]
        caller.sendall(b"x" * length + request(images))  # a client that sends it all the same is understood afterwards
        check(answer(stream)[2], expected)


def test_a_body_that_grows_too_large_is_refused(caller: socket.socket, images: Array, expected: Array) -> None:
    caller.sendall(f"POST {INFER} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
    with caller.makefile("rb") as stream:
        for _ in range(4):
            caller.sendall(b"%x\r\n%b\r\n" % (30_000, b"x" * 30_000))
        assert answer(stream)[0] == 413
        caller.sendall(b"0\r\n\r\n" + request(images))
        check(answer(stream)[2], expected)


def test_answers_that_nobody_reads_are_not_piled_up(server: Process, images: Array) -> None:
    """A client that only sends is stopped by the full pipes between it and the server, whose memory stays."""
    host, port = server.url.removeprefix("http://").split(":")
    text = request(images[:1], identifier="x" * 50_000) * 20  # which is repeated in the answer
    with socket.create_connection((host, int(port)), timeout=1) as deaf:
        sent = 0
        with contextlib.suppress(TimeoutError):
            while sent < 50 * 2**20:
                sent += deaf.send(text)
    assert sent < 50 * 2**20


@pytest.mark.parametrize("leaves", ["after the answer", "before it"])
def test_a_connection_that_has_ended_leaves_nothing_to_the_collector(
    repository: Path, images: Array, leaves: str
) -> None:
    """It would come so seldom that the bodies of thousands of connections stay in memory until then."""
    app = create_app(
        Settings(models=repository, runners=1, max_queue_delay=0.0 if leaves == "after the answer" else 0.3)
    )
    made: list[weakref.ref[Any]] = []

    async def scenario() -> None:
        http: Any = partial(WireProtocol, app.front)
        config: Any = uvicorn.Config(app, http=http, ws="none", log_config=None)
        config.load()
        state = ServerState()

        def connected() -> Any:
            protocol = config.http_protocol_class(config=config, server_state=state, app_state={})
            made.append(weakref.ref(protocol))
            return protocol

        server = await asyncio.get_running_loop().create_server(connected, "127.0.0.1", 0)
        for _ in range(3):
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(request(images))
            if leaves == "after the answer":
                assert (await reader.readline()).startswith(b"HTTP/1.1 200")
            else:
                await asyncio.sleep(0.05)  # it is queued
            writer.close()
        await asyncio.sleep(0.6)
        server.close()

    app.state.plane.start()
    gc.collect()
    gc.disable()
    try:
        asyncio.run(scenario())
        assert [reference() for reference in made] == [None] * 3
    finally:
        gc.enable()
        app.state.plane.stop()
