import json
from collections.abc import Callable
from pathlib import Path

from tests.service import bundles
from tests.service.process import Process, fresh
from tests.service.test_infer import INFER, binary_body

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


def test_one_structured_line_a_request(repository: Path, start_server: Callable[..., Process]) -> None:
    server = start_server(repository, access_log=True, log_format="json").wait_ready()
    body, headers = binary_body(bundles.pictures(1))
    mine = {"X-Request-Id": 'r-7" evil=1', "traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}
    fresh.post(server.url + INFER, content=body, headers=headers | mine)
    fresh.get(server.url + "/v2/models/tiny/versions/1")
    fresh.get(server.url + "/a/stranger")
    server.signal()
    assert server.wait() == 0
    lines = [json.loads(line) for line in server.lines]
    requests = [line for line in lines if line["logger"] == "service.access" and "ready" not in line["route"]]
    assert [(r["method"], r["route"], r["model"], r["version"], r["status"]) for r in requests] == [
        ("POST", "/v2/models/{model}/infer", "tiny", "", 200),
        ("GET", "/v2/models/{model}/versions/{version}", "tiny", "1", 200),
        ("GET", "unmatched", "", "", 404),
    ]
    assert (requests[0]["id"], requests[0]["trace"]) == ("r-7evil1", TRACE)
    assert all(r["ms"] > 0 for r in requests)
    assert "stranger" not in server.log


def test_no_line_a_request_by_default(repository: Path, start_server: Callable[..., Process]) -> None:
    server = start_server(repository).wait_ready()
    fresh.get(server.url + "/v2")
    server.signal()
    assert server.wait() == 0
    assert "route=" not in server.log
