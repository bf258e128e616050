"""Several processes on one port: their counts add up, their models agree, and one's death is nobody else's."""

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx2
import pytest

from scripts.stressing.sockets import held_by, is_stopped
from service.workers import pause_before
from tests.service import bundles
from tests.service.process import Process, fresh
from tests.service.test_infer import HEADER, INFER, binary_body
from tests.service.test_load import metric
from tests.service.test_process import run

Start = Callable[..., Process]


def children(process: Process) -> list[int]:
    pid = process.process.pid
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


@pytest.fixture(scope="module")
def pair(repository: Path) -> Iterator[Process]:
    """Two workers; the tests that take one of them away wait until there are two again."""
    server = Process(repository, workers=2, runners=1, admin_keys="k").wait_ready()
    both_serve(server)
    yield server
    server.signal()
    status = server.wait()
    server.kill()
    assert status == 0, server.log


def both_serve(server: Process) -> None:
    wait_until(lambda: server.log.count("serving tiny version 2") >= 2 + server.log.count("replacing it"), "a start")
    wait_until(lambda: metric(server.url, "foldserve_workers") == 2, "two signs of life")


def test_counts_add_up(pair: Process) -> None:
    body, headers = binary_body(bundles.pictures(2))
    before = metric(pair.url, "nv_inference_request_success", version="2")
    rows = metric(pair.url, "nv_inference_count", version="2")
    for _ in range(60):  # a connection each, so that both workers get some
        assert fresh.post(pair.url + INFER, content=body, headers=headers).status_code == 200
    for _ in range(10):
        assert metric(pair.url, "nv_inference_request_success", version="2") == before + 60
        assert metric(pair.url, "nv_inference_count", version="2") == rows + 120
        stats = fresh.get(pair.url + "/v2/models/tiny/versions/2/stats").json()["model_stats"][0]
        assert stats["inference_stats"]["success"]["count"] == before + 60


def test_all_workers_follow_the_operator(pair: Process) -> None:
    admin = {"Authorization": "Bearer k"}
    for action, status in (("unload", 404), ("load", 200), ("unload", 404), ("load", 200)):
        assert fresh.post(f"{pair.url}/v2/repository/models/tiny/{action}", headers=admin).status_code == 200
        assert {fresh.get(pair.url + "/v2/models/tiny").status_code for _ in range(30)} == {status}
    fresh.post(f"{pair.url}/v2/repository/models/tiny/unload", headers=admin)
    victim = children(pair)[0]
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: victim not in children(pair) and len(children(pair)) == 2, "a new worker")
    starts = pair.log.count("replacing it") + 2
    wait_until(lambda: pair.log.count("cores,") == starts, "its start")
    time.sleep(0.5)
    assert {fresh.get(pair.url + "/v2/models/tiny").status_code for _ in range(30)} == {404}
    assert fresh.post(f"{pair.url}/v2/repository/models/tiny/load", headers=admin).status_code == 200
    assert {fresh.get(pair.url + "/v2/models/tiny").status_code for _ in range(30)} == {200}


def test_a_killed_worker_is_replaced_and_only_its_own_requests_suffer(pair: Process) -> None:
    body, headers = binary_body(bundles.pictures(1))
    stop = threading.Event()
    answered: list[int] = []
    broken: list[str] = []

    def load() -> None:
        while not stop.is_set():
            with httpx2.Client(verify=False, base_url=pair.url, timeout=60) as client:
                try:
                    while not stop.is_set():
                        answered.append(client.post(INFER, content=body, headers=headers).status_code)
                except httpx2.TransportError as error:
                    broken.append(type(error).__name__)

    threads = [threading.Thread(target=load) for _ in range(6)]
    for thread in threads:
        thread.start()
    kills, replaced = 4, pair.log.count("replacing it")
    for _ in range(kills):
        both_serve(pair)  # otherwise the next kill would take the last one, and everybody would wait for a start
        before = len(answered)
        victim = children(pair)[0]
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda v=victim: v not in children(pair) and len(children(pair)) == 2, "a replacement")  # type: ignore[misc]
        wait_until(lambda n=before: len(answered) > n + 50, "answers")  # type: ignore[misc]
    stop.set()
    for thread in threads:
        thread.join()
    assert set(answered) == {200}
    # One request on each connection at the most
    assert len(broken) <= kills * len(threads), (broken, pair.log)
    assert pair.log.count("replacing it") == replaced + kills
    both_serve(pair)
    # What the dead have counted is not lost.
    assert metric(pair.url, "nv_inference_request_success", version="2") >= len(answered)


def test_a_killed_worker_takes_only_its_own_connections_along(pair: Process) -> None:
    both_serve(pair)
    address = ("127.0.0.1", int(pair.url.rpartition(":")[2]))
    body, headers = binary_body(bundles.pictures(1))
    head = f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n{HEADER}: {headers[HEADER]}\r\n\r\n"
    request = head.encode() + body

    def caller(sent: bytes) -> socket.socket:
        made = stack.enter_context(socket.create_connection(address, timeout=60))
        made.sendall(sent)
        return made

    def answered(made: socket.socket, rest: bytes) -> bool:
        try:
            made.sendall(rest)
            return made.recv(12) == b"HTTP/1.1 200"
        except ConnectionError:
            return False

    with ExitStack() as stack:
        victim, survivor = children(pair)
        begun: dict[int, socket.socket] = {}

        def both_have_some() -> bool:  # a worker that is away for a moment leaves the first ones to the other
            made = caller(request[:-9])
            begun[made.getsockname()[1]] = made
            return all(begun.keys() & held_by(worker, address[1]) for worker in (victim, survivor))

        wait_until(both_have_some, "connections to both")
        wait_until(lambda: begun.keys() <= held_by(victim, address[1]) | held_by(survivor, address[1]), "connections")
        theirs = begun.keys() & held_by(victim, address[1])
        assert theirs
        assert theirs != begun.keys()
        for worker in (victim, survivor):
            os.kill(worker, signal.SIGSTOP)
            wait_until(lambda w=worker: is_stopped(w), "a halt")  # type: ignore[misc]
        queued = [caller(request) for _ in range(3)]  # accepted by nobody yet
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: victim not in children(pair), "its end")
        os.kill(survivor, signal.SIGCONT)
        assert {port for port, made in begun.items() if not answered(made, request[-9:])} == theirs
        assert all(answered(made, b"") for made in queued)


def test_sigterm_under_load_loses_nothing(repository: Path, start_server: Start) -> None:
    pair = start_server(repository, workers=2, runners=1).wait_ready()
    both_serve(pair)
    body, headers = binary_body(bundles.pictures(1))
    statuses: list[int] = []
    lost: list[Exception] = []

    def load() -> None:
        with httpx2.Client(verify=False, base_url=pair.url) as client:
            while True:
                try:
                    statuses.append(client.post(INFER, content=body, headers=headers).status_code)
                except httpx2.ConnectError:
                    return
                except Exception as error:
                    lost.append(error)
                    return

    threads = [threading.Thread(target=load) for _ in range(8)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(statuses) > 50, "load")
    pair.signal()
    for thread in threads:
        thread.join(60)
    assert pair.wait() == 0, pair.log
    assert lost == []
    assert set(statuses) == {200}


def test_one_worker_that_is_told_to_end_does_not_take_the_port_with_it(pair: Process) -> None:
    both_serve(pair)
    replaced = pair.log.count("replacing it")
    os.kill(children(pair)[0], signal.SIGTERM)
    wait_until(lambda: pair.log.count("replacing it") > replaced, "a replacement")
    for _ in range(20):
        assert fresh.get(pair.url + "/v2/health/live").status_code == 200


def test_workers_end_when_the_supervisor_is_killed(repository: Path, start_server: Start) -> None:
    pair = start_server(repository, workers=2).wait_ready()
    workers = children(pair)
    pair.signal(signal.SIGKILL)
    pair.process.wait()
    wait_until(lambda: not any(is_running(worker) for worker in workers), "the workers' end")
    host, port = pair.url.removeprefix("http://").split(":")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, int(port)))


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_start_that_fails_ends_the_supervisor_too(tmp_path: Path) -> None:
    done = run("--models", str(tmp_path), "--port", "0", "--workers", "2")
    assert done.returncode == 3
    assert "nothing to serve" in done.stderr
    assert "Traceback" not in done.stderr


def test_connections_that_stay_are_shared_out(pair: Process) -> None:
    both_serve(pair)
    address = ("127.0.0.1", int(pair.url.rpartition(":")[2]))

    def even(count: int) -> bool:
        wait_until(lambda: metric(pair.url, "foldserve_connections") <= 1, "the last ones' end")
        with ExitStack() as stack:
            for _ in range(count):
                stack.enter_context(socket.create_connection(address))
            wait_until(lambda: metric(pair.url, "foldserve_connections") >= count, "connections")
            shares = [metric(pair.url, "foldserve_connections", worker=str(row)) for row in range(2)]
        return max(shares) - min(shares) <= 4 + count // 32  # one of them asks for the metrics

    for count in (2, 9, 40):
        # A machine that lets a worker wait for a processor lets the other take its share: hence not at the first try.
        wait_until(lambda n=count: even(n), "equal shares")  # type: ignore[misc]


def test_when_all_workers_die_callers_wait_but_not_long(repository: Path, start_server: Start) -> None:
    pair = start_server(repository, workers=2, runners=1).wait_ready()
    body, headers = binary_body(bundles.pictures(1))
    for _ in range(3):
        both_serve(pair)
        for victim in children(pair):
            os.kill(victim, signal.SIGKILL)
        # It is accepted by the socket that the supervisor keeps open, and answered by whoever comes first.
        answer = httpx2.post(pair.url + INFER, content=body, headers=headers, timeout=30, verify=False)
        assert answer.status_code == 200


def test_an_attempt_that_fails_again_and_again_is_made_less_often() -> None:
    pauses = [pause_before(attempt) for attempt in range(1, 12)]
    assert pauses[0] == 0
    assert pauses == sorted(pauses)
    assert pauses[-1] == 10
