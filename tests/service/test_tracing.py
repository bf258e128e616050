"""Traces as a collector gets them."""

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import httpx2
import pytest

from tests.service import bundles
from tests.service.process import Process
from tests.service.test_infer import INFER, binary_body

pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="the extra `otel` is not installed")


def test_a_collector_gets_a_span_of_each_way(
    repository: Path, start_server: Callable[..., Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    got: list[bytes] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(self.path.encode() + self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    collector = HTTPServer(("127.0.0.1", 0), Collector)
    threading.Thread(target=collector.serve_forever, daemon=True).start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"http://127.0.0.1:{collector.server_port}/v1/traces")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
    server = start_server(repository).wait_ready()
    body, headers = binary_body(bundles.pictures(1))
    traces = {name: f"{number:032x}" for number, name in enumerate(("infer", "metadata"), start=0xABCDEF)}
    with httpx2.Client(verify=False, base_url=server.url) as client:
        for name, path in (("infer", INFER), ("metadata", "/v2/models/tiny")):
            parent = {"traceparent": f"00-{traces[name]}-00000000000000aa-01"}
            if name == "infer":
                assert client.post(path, content=body, headers=headers | parent).status_code == 200
            else:
                assert client.get(path, headers=parent).status_code == 200
    server.signal()
    assert server.wait() == 0  # what was collected is sent at the end
    collector.shutdown()
    collector.server_close()
    spans = b"".join(part for part in got if part.startswith(b"/v1/traces"))
    for name, trace in traces.items():
        assert bytes.fromhex(trace) in spans, (name, server.log)
    assert b"POST /v2/models/{model}/infer" in spans
