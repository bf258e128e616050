"""deploy/ray on a real cluster of two nodes, on this machine: FOLDSERVE_TEST_RAY=1 pytest tests/deploy/test_ray.py."""

import contextlib
import itertools
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest

from tests.service import watched
from tests.service.test_infer import binary_body
from tests.support import ROOT, free_port, golden_picture, served_bundle

pytestmark = [
    pytest.mark.slow,
    # Ray gives its own processes 15 seconds to start, and a machine that is busy with other tests cannot keep that.
    pytest.mark.skipif(not os.environ.get("FOLDSERVE_TEST_RAY"), reason="FOLDSERVE_TEST_RAY is not set"),
]
pytest.importorskip("ray", reason="Ray is not installed (pip install 'foldserve[ray]')")
START = 300.0  # seconds; bounds for tests that would otherwise hang
PATIENCE = 120.0
KILLS = 3
KEY = "k"
WATCHED = "/v2/models/watched"


class Cluster:
    """tests/deploy/ray_cluster.py as a process."""

    def __init__(self, models: Path, log: IO[bytes]) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("FOLDSERVE_")}
        environment |= {
            "FOLDSERVE_MODELS": str(models),
            "FOLDSERVE_DEFAULT_MODEL": "kmnist",
            "FOLDSERVE_ADMIN_KEYS": KEY,
            "FOLDSERVE_DRIFT_SHARE": "1",
            "FOLDSERVE_DRIFT_WINDOW": "32",
            "PYTHONPATH": str(ROOT),
            # A machine that runs tests may be slow.
            "RAY_raylet_start_wait_time_s": "90",
        }
        script = 'set -a; . deploy/ray/environment; set +a; exec "$@"'
        command = [sys.executable, str(ROOT / "tests" / "deploy" / "ray_cluster.py"), str(free_port())]
        self.process = subprocess.Popen(
            ["sh", "-c", script, "sh", *command],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
        )
        self.url = ""

    def hear(self, seconds: float = PATIENCE) -> dict[str, Any]:
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

    def call(
        self, path: str, body: bytes | None = None, headers: dict[str, str] | None = None, method: str = ""
    ) -> Any:
        """Status and JSON."""
        request = urllib.request.Request(self.url + path, body, headers or {}, method=method or None)
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read())

    def wish(self, path: str) -> Any:
        """What an operator's POST is answered."""
        status, answer = self.call(path, b"", {"Authorization": f"Bearer {KEY}"}, "POST")
        assert status == 200, answer
        return answer

    def wait_for_two_replicas(self, gone: str) -> None:
        until(lambda: len(set(self.tell("replicas")["replicas"]) - {gone}) == 2)


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.5)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    bundle = served_bundle()
    # Not below pytest's own folders, which are gone before the last replica is.
    with tempfile.TemporaryDirectory(prefix="foldserve-", ignore_cleanup_errors=True) as name:
        shutil.copytree(bundle, Path(name) / "models" / "kmnist" / bundle.name)
        for version in (1, 2):  # with the same statistics
            watched.write(Path(name) / "models", version, labels=tuple(f"{version}{i}" for i in range(3)))
        with (Path(name) / "log").open("wb") as log:
            started = Cluster(Path(name) / "models", log)
        try:
            try:
                said = started.hear(START)
            except AssertionError:
                pytest.fail((Path(name) / "log").read_text(errors="replace")[-4000:])
            assert said["nodes"] == 2
            assert len(said["replicas"]) == 2
            started.url = said["url"]
            yield started
        finally:
            with contextlib.suppress(subprocess.TimeoutExpired):
                started.process.communicate(timeout=120)
            started.process.kill()
            started.process.wait()


def kmnist_requests() -> list[tuple[str, bytes, dict[str, str], Any]]:
    """Path, body, headers and the probabilities that the network as trained gives: as JSON and as a picture."""
    with np.load(served_bundle() / "golden.npz") as golden:
        pixels, wanted = golden["image"][0], golden["probabilities"][0]
    tensor = {"name": "image", "shape": [1, 28, 28, 1], "datatype": "UINT8", "data": pixels.ravel().tolist()}
    body = json.dumps({"inputs": [tensor]}).encode()
    picture, probabilities = golden_picture(served_bundle())
    return [
        ("/v2/models/kmnist/infer", body, {"Content-Type": "application/json"}, wanted),
        ("/predict", picture, {"Content-Type": "image/png"}, probabilities),
    ]


def probabilities_of(answer: Any) -> Any:
    return answer["outputs"][0]["data"] if "outputs" in answer else answer["probabilities"]


def test_it_answers_as_the_plain_server_does(cluster: Cluster) -> None:
    for path, body, headers, wanted in kmnist_requests():
        status, answer = cluster.call(path, body, headers)
        assert status == 200
        np.testing.assert_allclose(probabilities_of(answer), wanted, atol=1e-5)
    assert cluster.call("/v2/health/ready") == (200, {"ready": True, "live": True})
    with urllib.request.urlopen(f"{cluster.url}/") as page:
        assert b"<title>Foldserve</title>" in page.read()


def test_it_keeps_the_protocol(cluster: Cluster) -> None:
    command = [sys.executable, "-m", "scripts.conformance", cluster.url, "--model", "kmnist"]
    done = subprocess.run(
        [*command, "--mutations", "100", "--cases", "100"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_request_is_lost_when_a_replica_is_killed(cluster: Cluster) -> None:
    requests = kmnist_requests()
    counts: Counter[str] = Counter()
    over = threading.Event()

    def load(number: int) -> None:
        for path, body, headers, wanted in itertools.cycle(requests[number % 2 :] + requests[: number % 2]):
            if over.is_set():
                return
            try:
                status, answer = cluster.call(path, body, headers)
            except (OSError, ValueError) as error:
                counts[f"lost: {error!r}"] += 1
                continue
            right = status == 200 and np.allclose(probabilities_of(answer), wanted, atol=1e-5)
            counts["right" if right else f"wrong: {status} {answer}"] += 1

    def enough(number: int) -> bool:
        return counts["right"] > number

    with ThreadPoolExecutor(8) as pool:
        clients = [pool.submit(load, number) for number in range(8)]
        try:
            for _ in range(KILLS):
                until(partial(enough, counts["right"] + 100))
                cluster.wait_for_two_replicas(cluster.tell("kill")["gone"])
            until(partial(enough, counts["right"] + 100))
        finally:
            over.set()
        for client in clients:
            client.result()
    assert set(counts) == {"right"}


def test_counts_and_drift_are_those_of_all_replicas_and_outlive_them(cluster: Cluster) -> None:
    images = watched.pictures(100)
    cluster.wish(f"{WATCHED}/drift/reset")
    counted = successes(cluster)

    def send(image: Any) -> int:
        body, headers = binary_body(image[None])
        return int(cluster.call(f"{WATCHED}/infer", body, headers)[0])

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(send, images)) == {200}
    assert successes(cluster) == counted + 100

    until(lambda: drift(cluster)["since_reset"]["images"] == 100)
    truth = watched.moments(0, images).to_arrays()
    assert_sums(cluster, truth)
    history = drift(cluster)["history"]
    assert len(history) >= 2
    assert all(drift(cluster)["history"] == history for _ in range(6))  # whoever answers

    gone = cluster.tell("kill")["gone"]
    cluster.wait_for_two_replicas(gone)
    assert_sums(cluster, truth)
    cluster.tell("forget")
    assert_sums(cluster, truth)
    assert successes(cluster) == counted + 100
    assert all(drift(cluster)["history"] == history for _ in range(6))
    with urllib.request.urlopen(f"{cluster.url}/metrics") as answer:
        assert b"foldserve_workers{} 2.0" in answer.read()

    cluster.wish(f"{WATCHED}/drift/reset")
    assert {drift(cluster)["since_reset"]["images"] for _ in range(6)} == {0}


def test_what_an_operator_wishes_every_replica_does(cluster: Cluster) -> None:
    body, headers = binary_body(watched.pictures(1))

    def answers() -> set[Any]:
        """Status and version that twenty requests get, whichever replicas they meet."""
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda _: cluster.call(f"{WATCHED}/infer", body, headers), range(20)))
        return {(status, answer.get("model_version")) for status, answer in found}

    assert answers() == {(200, "2")}
    assert cluster.wish(f"{WATCHED}/versions/1/promote")["default_version"] == "1"
    assert answers() == {(200, "1")}
    cluster.wish(f"{WATCHED}/rollback")
    assert answers() == {(200, "2")}
    cluster.wish("/v2/repository/models/watched/unload")
    assert answers() == {(404, None)}
    gone = cluster.tell("kill")["gone"]
    cluster.wait_for_two_replicas(gone)
    assert answers() == {(404, None)}  # the new one knows
    cluster.wish("/v2/repository/models/watched/load")
    assert answers() == {(200, "2")}


def drift(cluster: Cluster) -> Any:
    status, found = cluster.call(f"{WATCHED}/drift?arrays=true")
    assert status == 200
    return found


def assert_sums(cluster: Cluster, truth: dict[str, Any]) -> None:
    for _ in range(4):  # whoever answers
        found = drift(cluster)["since_reset"]["sums"]
        assert set(found) == set(truth)
        for key, values in truth.items():
            np.testing.assert_allclose(found[key], values, rtol=1e-3, atol=1e-2)


def successes(cluster: Cluster) -> int:
    _, found = cluster.call(f"{WATCHED}/stats")
    return sum(version["inference_stats"]["success"]["count"] for version in found["model_stats"])
