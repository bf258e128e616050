"""The server under concurrent callers, over real sockets."""

import json
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import numpy as np
from prometheus_client.parser import text_string_to_metric_families

from tests.service import bundles
from tests.service.process import Process, fresh
from tests.service.test_infer import HEADER, INFER, binary_body

Start = Callable[..., Process]
BINARY_OUT = {"parameters": {"binary_data_output": True}}


def metric(url: str, name: str, **labels: str) -> float:
    families = text_string_to_metric_families(fresh.get(url + "/metrics").text)
    samples = [s for family in families for s in family.samples if s.name.removesuffix("_total") == name]
    return sum(s.value for s in samples if labels.items() <= s.labels.items())


def test_answers_have_the_same_bits_whatever_the_batch_mates(repository: Path, start_server: Start) -> None:
    server = start_server(repository, runners=1).wait_ready()
    images = bundles.pictures(40, seed=9)

    def ask(first: int, count: int) -> bytes:
        body, headers = binary_body(images[first : first + count], **BINARY_OUT)
        answer = clients[first % 8].post(INFER, content=body, headers=headers)
        assert answer.status_code == 200
        return answer.content[int(answer.headers[HEADER]) :]

    clients = [httpx2.Client(verify=False, base_url=server.url) for _ in range(8)]
    alone = [ask(i, 1) for i in range(40)]
    rng = np.random.default_rng(0)
    plan = [(int(i), int(n)) for i, n in zip(rng.integers(0, 36, 400), rng.integers(1, 5, 400), strict=True)]
    with ThreadPoolExecutor(16) as pool:
        together = list(pool.map(lambda p: ask(*p), plan))
    for (first, count), answer in zip(plan, together, strict=True):
        assert answer == b"".join(alone[first : first + count])
    merged = metric(server.url, "inference_batch_size_count", version="2")
    assert merged < 440, "no two requests ever shared a run: this test has not tested anything"
    for client in clients:
        client.close()


def test_overload_is_refused_at_once_and_counted(repository: Path, start_server: Start) -> None:
    server = start_server(repository, runners=2, max_queue=1).wait_ready()
    body, headers = binary_body(bundles.pictures(1000), **BINARY_OUT)

    def ask(_: int) -> httpx2.Response:
        return fresh.post(server.url + INFER, content=body, headers=headers)

    with ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(ask, range(48)))
    assert {answer.status_code for answer in answers} == {200, 503}
    for answer in answers:
        if answer.status_code == 503:
            assert answer.headers["retry-after"] == "1"
            assert answer.json() == {"error": "Exceeds maximum queue size"}
    refused = sum(answer.status_code == 503 for answer in answers)
    assert metric(server.url, "nv_inference_request_failure", version="2", reason="REJECTED") == refused
    assert metric(server.url, "nv_inference_request_success", version="2") == 48 - refused
    assert fresh.get(server.url + "/v2/health/ready").status_code == 200


def test_a_client_that_leaves_does_not_hold_the_queue(repository: Path, start_server: Start) -> None:
    server = start_server(repository, runners=2).wait_ready()
    body, headers = binary_body(bundles.pictures(1000), **BINARY_OUT)
    host, port = server.url.removeprefix("http://").split(":")
    head = f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n{HEADER}: {headers[HEADER]}\r\n\r\n"
    callers = []
    for _ in range(60):
        caller = socket.create_connection((host, int(port)))
        caller.sendall(head.encode() + body)
        callers.append(caller)
    for caller in callers:
        caller.close()
    deadline = time.monotonic() + 60
    while metric(server.url, "nv_inference_pending_request_count", version="2") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert metric(server.url, "nv_inference_request_failure", version="2", reason="CANCELED") > 0
    assert metric(server.url, "nv_inference_pending_request_count", version="2") == 0
    answer = fresh.post(server.url + INFER, content=body, headers=headers)
    assert json.loads(answer.content[: int(answer.headers[HEADER])])["outputs"][0]["shape"] == [1000, 10]


def test_half_a_request_costs_nothing(repository: Path, start_server: Start) -> None:
    server = start_server(repository).wait_ready()
    host, port = server.url.removeprefix("http://").split(":")
    for text in (
        b"POST /v2/models/tiny/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{",
        b"GET /v2 HT",
        b"\0\1\2",
    ):
        with socket.create_connection((host, int(port))) as caller:
            caller.sendall(text)
    assert fresh.get(server.url + "/v2/health/live").json() == {"live": True}
    server.signal()
    assert server.wait() == 0
    assert "Traceback" not in server.log
