"""A served model is recalibrated, promoted and rolled back, over HTTP and with real processes."""

import io
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from starlette.testclient import TestClient

from service.app import create_app
from service.errors import MissingPartsError
from service.recalibration import jobs
from service.recalibration.recent import Recent
from service.settings import Settings
from tests.service.conftest import png
from tests.service.process import Process
from tests.service.test_infer import binary_body, json_input
from tests.support import served_bundle

ADMIN = {"Authorization": "Bearer k"}
ROOT = "/v2/models/kmnist"
JOBS = f"{ROOT}/recalibrations"


@pytest.fixture
def models(tmp_path: Path) -> Path:
    shutil.copytree(served_bundle(), tmp_path / "models/kmnist/1")
    return tmp_path / "models"


def faint(rows: int = 10) -> np.ndarray:
    """Real pictures of all classes with little contrast, moved about so that there are enough."""
    with np.load(served_bundle() / "golden.npz") as archive:
        pictures = archive["image"]
    moved = [np.roll(pictures, (row % 3 - 1, row // 3 - 1), axis=(1, 2)) for row in range(rows)]
    return np.rint(30 + 0.2 * np.concatenate(moved)).astype(np.uint8)


def npz(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def wait(client: Any, answer: Any) -> dict[str, Any]:
    """The job at its end."""
    assert answer.status_code == 202, answer.text
    where = answer.headers["location"]
    assert where.endswith(answer.json()["id"])
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        job: dict[str, Any] = client.get(where, headers=ADMIN).json()
        assert 0 <= job["progress"] <= 1 if "progress" in job else True
        if job["state"] in jobs.ENDED:
            return job
        time.sleep(0.05)
    raise AssertionError(f"the job does not end: {job}")


def versions(client: Any) -> tuple[str, list[str]]:
    found = client.get(JOBS, headers=ADMIN).json()
    return found["default_version"], found["versions"]


@pytest.mark.slow
def test_a_recalibrated_version_goes_live_under_load_and_is_rolled_back_by_one_call(
    models: Path, start_server: Callable[..., Process]
) -> None:
    server = start_server(models, workers=2, admin_keys="k").wait_ready()
    images = faint()
    body, headers = binary_body(images[:4], parameters={"binary_data_output": True})
    answered: list[str] = []
    bad: list[str] = []
    stop = threading.Event()

    def ask() -> None:
        with httpx2.Client(verify=False, base_url=server.url, timeout=60) as client:
            while not stop.is_set():
                try:
                    answer = client.post(f"{ROOT}/infer", content=body, headers=headers)
                except httpx2.TransportError as error:
                    bad.append(repr(error))
                    continue
                head = answer.content[: int(answer.headers.get("inference-header-content-length", 0))]
                found = next((v for v in ("1", "2") if b'"model_version":"%s"' % v.encode() in head), None)
                (answered if answer.status_code == 200 and found else bad).append(found or answer.text)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()

    def settled(version: str) -> None:
        """Wait until enough answers in a row came from a version; nothing else may come any more."""
        start = len(answered)
        while len(answered) < start + 40:
            time.sleep(0.01)
        assert set(answered[start + 20 :]) == {version}

    try:
        with httpx2.Client(verify=False, base_url=server.url, headers=ADMIN, timeout=60) as admin:
            # Forced, since the guard rails are not what this is about, and what they say depends on the network.
            asked: dict[str, int | str] = {"pseudo_count": 8, "force": "true"}
            job = wait(admin, admin.post(JOBS, content=npz(images=images), params=asked))
            assert (job["state"], job["version"]) == ("done", "2"), job
            assert job["recalibration"]["images"] == len(images)
            while admin.get(ROOT).json()["versions"] != ["1", "2"]:
                time.sleep(0.02)
            assert versions(admin) == ("1", ["1", "2"])
            settled("1")
            assert admin.post(f"{ROOT}/versions/2/promote").json()["default_version"] == "2"
            settled("2")
            assert admin.delete(f"{ROOT}/versions/2").status_code == 409
            assert admin.post(f"{ROOT}/rollback").json()["default_version"] == "1"
            settled("1")
            assert admin.post(f"{ROOT}/rollback").status_code == 409
            deleted = admin.delete(f"{ROOT}/versions/2")
            assert (deleted.status_code, deleted.json()["versions"]) == (200, ["1"])
            for _ in range(8):  # whichever worker answers
                assert httpx2.get(f"{server.url}{ROOT}/versions/2", verify=False).status_code == 404
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert bad == []
    assert sorted(path.name for path in (models / "kmnist").iterdir()) == [".recalibrations", "1"]
    assert not list((models / "kmnist/.recalibrations").glob("*/images.npz"))


@pytest.mark.slow
def test_a_guard_rail_refuses_a_tensor_and_a_job_is_cancelled_and_forgotten(models: Path) -> None:
    with TestClient(create_app(Settings(models=models, admin_keys="k"))) as client:
        one = np.repeat(faint(1)[:1], 70, axis=0)
        job = wait(client, client.post(JOBS, json={"inputs": [json_input(one)]}, headers=ADMIN))
        assert job["state"] == "refused", job
        assert "equally frequent" in job["error"]
        assert {guard["name"]: guard["passed"] for guard in job["guards"]}["class balance"] is False
        assert versions(client) == ("1", ["1"])

        begun = client.post(JOBS, content=npz(images=faint()), headers=ADMIN).json()
        assert client.post(JOBS, content=npz(images=faint()), headers=ADMIN).status_code == 409
        ended = client.delete(f"{JOBS}/{begun['id']}", headers=ADMIN)
        assert (ended.status_code, ended.json()["state"]) == (200, "cancelled")
        listed = client.get(JOBS, headers=ADMIN).json()["recalibrations"]
        assert [row["state"] for row in listed] == ["refused", "cancelled"]
        assert client.delete(f"{JOBS}/{begun['id']}", headers=ADMIN).status_code == 200
        assert client.get(f"{JOBS}/{begun['id']}", headers=ADMIN).status_code == 404

        begun = client.post(JOBS, content=npz(images=faint()), headers=ADMIN)
        os.kill(int((models / "kmnist/.recalibrations" / begun.json()["id"] / "pid").read_text()), signal.SIGKILL)
        job = wait(client, begun)
        assert (job["state"], job["error"]) == ("failed", "the process ended; see its log")
        assert versions(client) == ("1", ["1"])


@pytest.mark.slow
def test_pictures_and_kept_images_are_taken_and_forced(models: Path) -> None:
    settings = Settings(models=models, admin_keys="k", keep_images=50)
    with TestClient(create_app(settings)) as client:
        recent = {"source": "recent"}
        assert "no images were seen" in client.post(JOBS, json=recent, headers=ADMIN).json()["error"]
        images = faint(3)
        for at in range(0, len(images), 16):
            client.post(f"{ROOT}/infer", json={"inputs": [json_input(images[at : at + 16])]})
        job = wait(client, client.post(JOBS, json=recent, headers=ADMIN))
        assert (job["state"], job["images"], job["source"]) == ("refused", 50, "recent")
        assert "at least 64" in job["error"]

        files = [("image", (f"{row}.png", png(image), "image/png")) for row, image in enumerate(images[:20])]
        job = wait(client, client.post(JOBS, files=files, params={"force": "true", "polarity": "keep"}, headers=ADMIN))
        assert (job["state"], job["images"], job["source"]) == ("done", 20, "pictures"), job
        assert job["recalibration"]["forced"] is True
        deadline = time.monotonic() + 30
        while versions(client) != ("1", ["1", "2"]):
            assert time.monotonic() < deadline
        card = client.get(f"{ROOT}/versions/2/batchnorm").json()
        assert card["model_version"] == "2"


def test_who_is_no_admin_is_sent_away(models: Path) -> None:
    calls = [
        ("POST", JOBS), ("GET", JOBS), ("GET", f"{JOBS}/x"), ("DELETE", f"{JOBS}/x"),
        ("POST", f"{ROOT}/versions/1/promote"), ("POST", f"{ROOT}/rollback"), ("DELETE", f"{ROOT}/versions/1"),
    ]  # fmt: skip
    with TestClient(create_app(Settings(models=models))) as client:
        assert [client.request(method, path, headers=ADMIN).status_code for method, path in calls] == [403] * 7
    with TestClient(create_app(Settings(models=models, admin_keys="k"))) as client:
        assert [client.request(method, path).status_code for method, path in calls] == [401] * 7


@pytest.mark.parametrize(
    ("send", "status", "reason"),
    [
        ({"content": b"PK nonsense"}, 400, "not an .npz file"),
        ({"content": npz(pictures=np.zeros(3))}, 400, "no array 'images'"),
        ({"content": npz(images=np.zeros((3, 28, 28, 1)))}, 400, "takes UINT8"),
        ({"content": npz(images=np.zeros((0, 28, 28, 1), np.uint8))}, 400, "takes UINT8"),
        ({"content": npz(images=np.zeros((3, 28, 28, 1), np.uint8), labels=np.zeros(2, int))}, 400, "labels"),
        ({"content": npz(images=np.array([{}], object))}, 400, "without objects"),
        ({"content": npz(images=np.zeros(3_000_000, np.uint8))}, 413, "exceed"),
        ({"content": b"\x89PNG", "headers": {"Content-Type": "image/png"}}, 415, "multipart"),
        ({"content": b"{", "headers": {"Content-Type": "application/json"}}, 400, "JSON"),
        ({"json": {"source": "yesterday"}}, 400, "'source' must be"),
        ({"json": {"source": "recent"}}, 409, "FOLDSERVE_KEEP_IMAGES"),
        ({"json": {"inputs": []}}, 400, "input"),
        ({"json": {}, "params": {"pseudo_count": -1}}, 400, "pseudo_count"),
    ],
)
def test_what_does_not_fit_is_named(models: Path, send: dict[str, Any], status: int, reason: str) -> None:
    with TestClient(create_app(Settings(models=models, admin_keys="k", max_body_bytes=2_000_000))) as client:
        send = send | {"headers": ADMIN | send.get("headers", {})}
        answer = client.post(JOBS, **send)
        assert answer.status_code == status, answer.text
        assert reason in answer.json()["error"]
        assert client.get(JOBS, headers=ADMIN).json()["recalibrations"] == []


def test_versions_that_are_not_there_or_not_recalibrated(models: Path) -> None:
    with TestClient(create_app(Settings(models=models, admin_keys="k"))) as client:
        for path in (f"{ROOT}/versions/9/promote", f"{ROOT}/versions/%2e%2e/promote", "/v2/models/nobody/rollback"):
            assert client.post(path, headers=ADMIN).status_code == 404
        assert client.delete(f"{ROOT}/versions/9", headers=ADMIN).status_code == 404
        refused = client.delete(f"{ROOT}/versions/1", headers=ADMIN)
        assert (refused.status_code, "no recalibrated one" in refused.text) == (409, True)
        assert client.get(f"{JOBS}/%2e%2e", headers=ADMIN).status_code == 404


def test_an_installation_that_cannot_fold_says_how_to(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "PARTS", (*jobs.PARTS, "no_such_part"))
    with TestClient(create_app(Settings(models=models, admin_keys="k"))) as client:
        answer = client.post(JOBS, content=npz(images=faint()), headers=ADMIN)
    assert answer.status_code == MissingPartsError.status == 501
    assert "no_such_part" in answer.json()["error"]
    assert "scripts/recalibrate.py" in answer.json()["error"]


def test_a_promoted_version_is_the_default_after_a_start_and_with_the_policy_latest(models: Path) -> None:
    shutil.copytree(models / "kmnist/1", models / "kmnist/2")
    manifest = models / "kmnist/2/manifest.json"
    manifest.write_text(manifest.read_text().replace('"version": 1', '"version": 2', 1))
    settings = Settings(models=models, admin_keys="k", versions="latest")
    with TestClient(create_app(settings)) as client:
        assert versions(client) == ("2", ["2"])
        assert client.post(f"{ROOT}/versions/1/promote", headers=ADMIN).json()["versions"] == ["1"]
    with TestClient(create_app(settings)) as client:
        assert versions(client) == ("1", ["1"])
    with TestClient(create_app(Settings(models=models, admin_keys="k"))) as client:
        assert versions(client) == ("1", ["1", "2"])
        assert client.post(f"{ROOT}/rollback", headers=ADMIN).json()["default_version"] == "2"


def test_the_latest_images_are_kept_and_no_more() -> None:
    recent = Recent(5)
    assert recent.images() is None
    rows = np.arange(24).reshape(12, 2)
    for part in (rows[:3], rows[3:4], rows[4:12]):
        recent.keep(part)
        kept = recent.images()
        assert kept is not None
        seen = int(part[-1, 0]) // 2 + 1
        assert sorted(kept[:, 0].tolist()) == rows[max(0, seen - 5) : seen, 0].tolist()
    recent.keep(np.zeros((2, 3)))  # of another size
    assert recent.images().shape == (5, 2)  # type: ignore[union-attr]
