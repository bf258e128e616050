"""The server as an operator meets it: flags, signals, exit statuses."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest

from tests.service import bundles
from tests.service.process import ROOT, Process, fresh
from tests.service.test_infer import INFER, binary_body

Start = Callable[..., Process]


def run(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("FOLDSERVE_")}
    command = [sys.executable, "-m", "service", *arguments]
    return subprocess.run(command, cwd=ROOT, env=clean | env, capture_output=True, text=True, timeout=60, check=False)


def test_help_names_every_setting() -> None:
    done = run("--help")
    assert done.returncode == 0
    for flag in ("--host", "--port", "--models", "--provider", "--drain-delay", "--max-queue"):
        assert flag in done.stdout


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("--models", "no-such-folder"), 3, "no such folder"),
        (("--port", "99999"), 2, "port"),
        (("--provider", "tpu"), 2, "provider"),
    ],
)
def test_a_start_that_fails_is_one_line(arguments: tuple[str, ...], status: int, message: str) -> None:
    done = run(*arguments)
    assert done.returncode == status
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_cuda_that_is_absent_is_an_error(repository: Path) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    done = run("--models", str(repository), "--provider", "cuda", "--port", "0")
    assert done.returncode == 3
    assert "provider cuda was asked for" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_bad_bundle_alone_is_a_failed_start(tmp_path: Path) -> None:
    (bundles.write(tmp_path).folder / "manifest.json").write_text("{")
    done = run("--models", str(tmp_path), "--port", "0")
    assert done.returncode == 3
    assert "manifest.json" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_taken_port_is_one_line(repository: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = run("--models", str(repository), "--port", str(taken.getsockname()[1]))
    assert done.returncode == 3
    assert "cannot listen on 127.0.0.1" in done.stderr
    assert "Traceback" not in done.stderr


def test_sigterm_drains(repository: Path, start_server: Start) -> None:
    server = start_server(repository, drain_delay=1.0).wait_ready()
    body, headers = binary_body(bundles.pictures(1))
    with httpx2.Client(verify=False, base_url=server.url) as client:
        assert client.post(INFER, content=body, headers=headers).status_code == 200
        server.signal()
        while (ready := client.get("/v2/health/ready")).status_code == 200:
            time.sleep(0.01)
        assert ready.status_code == 503
        assert "draining" in ready.json()["error"]
        # Not ready, and yet new connections are served.
        answer = fresh.post(server.url + INFER, content=body, headers=headers)
        assert answer.status_code == 200
        assert answer.headers["connection"] == "close"
    assert server.wait() == 0, server.log
    with pytest.raises(httpx2.ConnectError):
        fresh.get(server.url + "/v2")


def test_sigterm_under_load_loses_nothing(repository: Path, start_server: Start) -> None:
    server = start_server(repository).wait_ready()
    body, headers = binary_body(bundles.pictures(1))
    statuses: list[int] = []
    lost: list[Exception] = []

    def load() -> None:
        with httpx2.Client(verify=False, base_url=server.url) as client:
            while True:
                try:
                    statuses.append(client.post(INFER, content=body, headers=headers).status_code)
                except httpx2.ConnectError:  # never accepted
                    return
                except Exception as error:
                    lost.append(error)
                    return

    threads = [threading.Thread(target=load) for _ in range(8)]
    for thread in threads:
        thread.start()
    while len(statuses) < 50:
        time.sleep(0.01)
    server.signal()
    for thread in threads:
        thread.join(60)
    assert server.wait() == 0, server.log
    assert lost == []
    assert set(statuses) == {200}


def test_a_second_sigterm_ends_at_once(repository: Path, start_server: Start) -> None:
    server = start_server(repository, drain_delay=300).wait_ready()
    server.signal()
    while fresh.get(server.url + "/readyz").status_code == 200:
        time.sleep(0.01)
    time.sleep(1.1)
    server.signal()
    assert server.wait(20) == -signal.SIGTERM, server.log


def test_the_echo_of_a_sigterm_changes_nothing(repository: Path, start_server: Start) -> None:
    server = start_server(repository, drain_delay=0.5).wait_ready()
    server.signal()
    server.signal()  # a process manager signals the whole group, in which `make` passes it on as well
    assert server.wait(20) == 0, server.log


def test_ctrl_c_does_not_wait(repository: Path, start_server: Start) -> None:
    server = start_server(repository, drain_delay=300).wait_ready()
    server.signal(signal.SIGINT)
    assert server.wait(20) == 0
