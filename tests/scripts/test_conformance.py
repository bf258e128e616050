"""The conformance suite on the real server, where everything holds, and on a proxy that spoils one thing at a time."""

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from scripts import conformance
from tests.service import bundles
from tests.service.process import Process

SMALL = ("--mutations", "60", "--cases", "60")
# Status, headers in lower case, body -> the same, spoiled.
Spoil = Callable[[int, dict[str, str], bytes], tuple[int, dict[str, str], bytes]]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    repository = tmp_path_factory.mktemp("models")
    bundles.write(repository, version=1)
    bundles.write(repository, version=2)
    process = Process(repository)
    yield process.wait_ready().url
    process.kill()


@contextmanager
def proxy(url: str, spoil: Spoil) -> Iterator[str]:
    """A server that passes everything on, and spoils what comes back."""

    class Handler(BaseHTTPRequestHandler):
        def pass_on(self) -> None:
            length = int(self.headers.get("Content-Length", "0"))
            body = self.rfile.read(length) if length < 2**30 else b""
            while self.headers.get("Transfer-Encoding") and (size := int(self.rfile.readline(), 16)):
                body += self.rfile.read(size + 2)[:-2]
            own = ("host", "content-length", "connection", "transfer-encoding")
            kept = {k: v for k, v in self.headers.items() if k.lower() not in own}
            request = urllib.request.Request(url + self.path, body or None, kept, method=self.command)
            try:
                answer: Any = urllib.request.urlopen(request, timeout=20)
            except urllib.error.HTTPError as error:
                answer = error
            with answer:
                headers = {k.lower(): v for k, v in answer.headers.items() if k.lower() != "content-length"}
                status, headers, content = spoil(answer.status, headers, answer.read())
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_DELETE = pass_on  # noqa: N815 (the names that http.server calls)

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def results(capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """Result by `group: name`, from the JSON that was printed."""
    return {f"{c['group']}: {c['name']}": c["result"] for c in json.loads(capsys.readouterr().out)["checks"]}


@pytest.mark.slow
def test_everything_holds_on_the_real_server(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    status = conformance.main([url, *SMALL])

    table = capsys.readouterr().out
    assert status == 0, table
    lines = [line for line in table.splitlines() if line.startswith("| ")][1:]
    assert len(lines) > 100
    skipped = [line for line in lines if "| skip " in line]
    assert all("kserve client" in line and "not installed" in line for line in skipped), skipped
    assert "0 fail" in table.splitlines()[-1]


def hide_error(status: int, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
    return status, headers, body.replace(b'"error"', b'"detail"') if status >= 400 else body


def server_error(status: int, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
    return 500 if status == 400 else status, headers, body


def accept_all(status: int, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
    return 200 if status == 400 else status, headers, body


def one_bit(status: int, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
    """The last tensor's last byte holds the sign and the exponent of a float32."""
    binary = "inference-header-content-length" in headers
    return status, headers, body[:-1] + bytes([body[-1] ^ 1]) if binary else body


def other_id(status: int, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
    return status, headers, body.replace(b'"id":"r-1"', b'"id":"r-2"')


def wrong_type(status: int, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
    return status, headers | {"content-type": "text/plain"} if status == 200 else headers, body


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spoil", "fails", "holds"),
    [
        (hide_error, ["refusal: unknown model", "tritonclient: errors in words"], ["tritonclient: health"]),
        (server_error, ["refusal: no inputs", "fuzzing: 60 mutated binary requests"], ["refusal: unknown model"]),
        (accept_all, ["refusal: too few elements", "fuzzing: 60 mutated binary requests"], ["surface: Live"]),
        (one_bit, ["inference: Binary tensors both ways"], ["inference: Binary tensors in, JSON out"]),
        (other_id, ["inference: The id is echoed exactly"], ["inference: JSON, flat data"]),
        (wrong_type, ["surface: Live", "inference: JSON, flat data"], ["refusal: unknown model"]),
    ],
)
def test_a_spoiled_answer_is_found(
    url: str, spoil: Spoil, fails: list[str], holds: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    groups = {name.partition(":")[0] for name in fails + holds}
    with proxy(url, spoil) as spoiled:
        status = conformance.main([spoiled, "--mutations", "60", "--json", "--only", *groups])

    seen = results(capsys)
    assert status == 1
    assert {name: seen[name] for name in fails} == dict.fromkeys(fails, "fail")
    assert {name: seen[name] for name in holds} == dict.fromkeys(holds, "pass")


def test_nobody_there(capsys: pytest.CaptureFixture[str]) -> None:
    status = conformance.main(["http://127.0.0.1:9"])

    assert status == 2
    assert "http://127.0.0.1:9 does not answer" in capsys.readouterr().err


def test_a_model_that_is_not_there(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    status = conformance.main([url, "--model", "nobody"])

    assert status == 2
    assert "/v2/models/nobody answers 404" in capsys.readouterr().err


def test_a_header_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        conformance.main(["http://127.0.0.1:9", "--header", "nonsense"])

    assert ended.value.code == 2
    assert "NAME:VALUE" in capsys.readouterr().err


def test_a_key_goes_with_every_request(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundles.write(tmp_path)
    process = Process(tmp_path, api_keys="k3y")
    try:
        address = process.wait_ready().url
        without = conformance.main([address, "--only", "surface"])
        capsys.readouterr()
        with_key = conformance.main([address, "--only", "surface", "tritonclient", "--header", "X-API-Key: k3y"])
    finally:
        process.kill()

    assert (without, with_key) == (2, 0), capsys.readouterr().out
