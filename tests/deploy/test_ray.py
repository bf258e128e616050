"""deploy/ray on a real cluster of two nodes, on this machine."""

import contextlib
import json
import os
import select
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest

from tests.support import ROOT, fetch, free_port, golden_picture, served_bundle

pytestmark = [
    pytest.mark.slow,
    # Ray gives its own processes 15 seconds to start, and a machine that is busy with other tests cannot keep that.
    pytest.mark.skipif(not os.environ.get("FOLDSERVE_TEST_RAY"), reason="FOLDSERVE_TEST_RAY is not set"),
]
pytest.importorskip("ray", reason="Ray is not installed (pip install 'foldserve[ray]')")
START = 300.0  # seconds; a bound for a test that would otherwise hang


class Cluster:
    """tests/deploy/ray_cluster.py as a process."""

    def __init__(self, folder: Path, log: IO[bytes]) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("FOLDSERVE_")}
        for line in (ROOT / "deploy" / "ray" / "environment").read_text(encoding="utf-8").splitlines():
            if line and not line.startswith("#"):
                name, _, value = line.partition("=")
                environment[name] = value.strip('"')
        environment |= {
            "FOLDSERVE_MODELS": str(ROOT / "models"),
            "PYTHONPATH": str(ROOT),
            # A machine that runs tests may be slow.
            "RAY_raylet_start_wait_time_s": "45",
            "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
            "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "socket"),
            "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
            "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "state"),
        }
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "tests" / "deploy" / "ray_cluster.py"), str(free_port())],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
        )

    def hear(self, seconds: float = 60) -> dict[str, Any]:
        """The next thing that it says."""
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], seconds)
        line = self.process.stdout.readline() if ready else b""
        assert line, "the cluster said nothing"
        said: dict[str, Any] = json.loads(line)
        return said

    def tell(self, command: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{command}\n".encode())
        self.process.stdin.flush()
        return self.hear()


@pytest.fixture(scope="module")
def cluster() -> Iterator[tuple[Cluster, str]]:
    served_bundle()
    # Not below pytest's own folders: the path of a Unix socket is short.
    with tempfile.TemporaryDirectory(prefix="foldserve-", ignore_cleanup_errors=True) as name:
        with (Path(name) / "log").open("wb") as log:
            started = Cluster(Path(name), log)
        try:
            try:
                said = started.hear(START)
            except AssertionError:
                pytest.fail((Path(name) / "log").read_text(errors="replace")[-4000:])
            assert said["nodes"] == 2
            assert len(said["replicas"]) == 2
            yield started, said["url"]
        finally:
            with contextlib.suppress(subprocess.TimeoutExpired):
                started.process.communicate(timeout=120)
            started.process.kill()
            started.process.wait()


def body() -> tuple[bytes, Any]:
    with np.load(served_bundle() / "golden.npz") as golden:
        pixels, wanted = golden["image"][0], golden["probabilities"][0]
    tensor = {"name": "image", "shape": [1, 28, 28, 1], "datatype": "UINT8", "data": pixels.ravel().tolist()}
    return json.dumps({"inputs": [tensor]}).encode(), wanted


def test_it_answers_as_the_plain_server_does(cluster: tuple[Cluster, str]) -> None:
    _, url = cluster
    request, wanted = body()
    picture, _ = golden_picture(served_bundle())

    answer = fetch(f"{url}/v2/models/kmnist/infer", request)
    np.testing.assert_allclose(answer["outputs"][0]["data"], wanted, atol=1e-5)
    np.testing.assert_allclose(fetch(f"{url}/predict", picture, "image/png")["probabilities"], wanted, atol=1e-5)
    assert fetch(f"{url}/v2/health/ready")["ready"] is True
    with urllib.request.urlopen(f"{url}/") as page:
        assert b"<title>Foldserve</title>" in page.read()


def test_a_replica_that_is_killed_under_load_is_replaced_and_no_answer_is_wrong(cluster: tuple[Cluster, str]) -> None:
    started, url = cluster
    request, wanted = body()
    counts: Counter[str] = Counter()
    over = threading.Event()

    def load() -> None:
        while not over.is_set():
            try:
                answer = fetch(f"{url}/v2/models/kmnist/infer", request)
                right = np.allclose(answer["outputs"][0]["data"], wanted, atol=1e-5)
                counts["right" if right else "wrong"] += 1
            except OSError as error:
                counts[f"lost: {error}"] += 1

    threads = [threading.Thread(target=load) for _ in range(8)]
    for thread in threads:
        thread.start()
    try:
        time.sleep(2)
        before = counts["right"]
        killed = started.tell("kill")["killed"]
        end = time.monotonic() + 90
        names = [killed]
        while time.monotonic() < end and (killed in names or len(names) < 2):
            time.sleep(0.5)
            names = started.tell("replicas")["replicas"]
        time.sleep(2)
    finally:
        over.set()
        for thread in threads:
            thread.join(60)

    assert killed not in names
    assert len(names) == 2
    assert counts["right"] > before > 0
    assert counts["wrong"] == 0  # what the dead replica was at may be lost: clients must ask again
