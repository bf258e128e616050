"""Live traffic against the training data: the sums are the true ones, the verdicts follow, and nothing else suffers."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from bundle import BundleError, write_bundle
from bundle.statistics import read_reference
from service.app import create_app
from service.settings import Settings
from tests.service import bundles, watched
from tests.service.test_infer import binary_body

ADMIN = {"Authorization": "Bearer k"}
INFER, DRIFT = "/v2/models/watched/infer", "/v2/models/watched/drift"


@contextmanager
def serving(models: Path, **settings: Any) -> Iterator[TestClient]:
    values: dict[str, Any] = {
        "models": models,
        "runners": 1,
        "drift_share": 1.0,
        "drift_window": 64,
        "admin_keys": "k",
    } | settings
    with TestClient(create_app(Settings(**values))) as client:
        yield client


def send(client: TestClient, images: watched.Array, rows: int = 16) -> None:
    for first in range(0, len(images), rows):
        body, headers = binary_body(images[first : first + rows])
        answer = client.post(INFER, content=body, headers=headers)
        assert answer.status_code == 200, answer.text


def seen(client: TestClient, images: int, **params: Any) -> dict[str, Any]:
    """The report once that many images have been through the probe."""
    found: dict[str, Any] = until(
        lambda: client.get(DRIFT, params=params).json(), lambda body: body["since_reset"]["images"] == images
    )
    return found


def until(ask: Callable[[], Any], done: Callable[[Any], bool]) -> Any:
    deadline = time.monotonic() + 60
    while not done(found := ask()):
        assert time.monotonic() < deadline, found
        time.sleep(0.02)
    return found


@pytest.fixture
def models(tmp_path: Path) -> Path:
    watched.write(tmp_path)
    return tmp_path


def test_the_sums_are_those_of_the_unfolded_network(models: Path) -> None:
    images = np.concatenate([watched.pictures(40), watched.pictures(23, seed=2, contrast=0.3)])
    with serving(models) as client:
        send(client, images, rows=9)
        body = seen(client, 63, arrays="true")
    truth = watched.moments(0, images).to_arrays()
    for key, values in body["since_reset"]["sums"].items():
        np.testing.assert_allclose(values, truth[key], rtol=1e-4, atol=1e-3)
    inputs = watched.layer_inputs(0, images)
    for layer in body["window"]["layers"]:
        values = watched.parameters(0)
        sigma = np.sqrt(values[f"{layer['name']}/moving_variance"] + watched.EPSILON)
        live = inputs[layer["name"]]
        assert (np.abs(np.asarray(layer["live_mean"]) - live.mean(0)) / sigma).max() <= 1e-4
        assert (np.abs(np.asarray(layer["live_variance"]) - live.var(0)) / (live.var(0) + 0.1 * sigma**2)).max() <= 1e-3


def test_verdicts_follow_the_traffic(models: Path) -> None:
    with serving(models) as client:
        assert client.get(DRIFT).json()["verdict"]["grade"] == "too few"
        send(client, watched.pictures(31))
        few = seen(client, 31)
        assert few["verdict"] == {
            "grade": "too few",
            "text": "31 images are too few for a verdict; 32 are needed.",
            "images": 31, "score": None, "limit": None, "effect": None,
        }  # fmt: skip
        send(client, watched.pictures(225, seed=5), rows=1)
        like = seen(client, 256)
        assert (like["verdict"]["grade"], like["calibrated"], like["false_alarm_rate"]) == ("none", True, 0.01)
        assert like["verdict"]["score"] <= like["verdict"]["limit"]
        send(client, watched.pictures(128, seed=3, contrast=0.2))
        unlike = seen(client, 384)
        assert unlike["verdict"]["grade"] == "strong"
        assert "unlike the training data" in unlike["verdict"]["text"]
        assert client.get("/v2/health/ready").status_code == 200  # drift is no reason to be unready
        assert [window["grade"] for window in unlike["history"]] == ["none"] * 4 + ["strong"] * 2


def test_the_worst_come_first(models: Path) -> None:
    with serving(models) as client:
        send(client, watched.pictures(64, contrast=0.2))
        layers = seen(client, 64)["window"]["layers"]
    scores = [layer["score"] for layer in layers]
    assert scores == sorted(scores, reverse=True)
    for layer in layers:
        divergences = [channel["divergence"] for channel in layer["worst_channels"]]
        assert divergences == sorted(divergences, reverse=True)
        assert len(divergences) == min(5, layer["channels"])
        assert set(layer["worst_channels"][0]) == {
            "channel", "mean_shift", "log_variance_ratio", "divergence", "live_mean", "live_variance", "moving_mean",
            "moving_variance",
        }  # fmt: skip


def test_windows_end_by_count(models: Path) -> None:
    with serving(models, drift_window=50) as client:
        send(client, watched.pictures(125), rows=25)
        body = seen(client, 125)
    assert [window["images"] for window in body["history"]] == [50, 50]
    assert body["open_window"]["images"] == 25
    assert body["since_reset"]["windows"] == 2


def test_windows_end_by_time_with_images_enough(models: Path) -> None:
    with serving(models, drift_window=1000, drift_interval=0.05) as client:
        send(client, watched.pictures(31), rows=31)
        seen(client, 31)
        time.sleep(0.1)
        assert client.get(DRIFT).json()["history"] == []  # 31 images say nothing, however old they are
        send(client, watched.pictures(9, seed=2), rows=9)
        (window,) = until(lambda: client.get(DRIFT).json()["history"], lambda history: len(history) == 1)
    assert window["images"] == 40
    assert window["seconds"] >= 0.05


def test_an_admin_can_begin_anew(models: Path) -> None:
    with serving(models) as client:
        send(client, watched.pictures(80, contrast=0.2))
        seen(client, 80)
        assert client.post(DRIFT + "/reset").status_code == 401
        assert client.post(DRIFT + "/reset", headers=ADMIN).json() == {}
        empty = client.get(DRIFT).json()
        assert (empty["verdict"]["grade"], empty["history"], empty["since_reset"]["images"]) == ("too few", [], 0)
        send(client, watched.pictures(64))
        assert seen(client, 64)["verdict"]["grade"] == "none"
        assert client.post("/v2/models/nobody/drift/reset", headers=ADMIN).status_code == 404
    with serving(models, admin_keys="") as client:
        assert client.post(DRIFT + "/reset", headers=ADMIN).status_code == 403


def test_a_swap_keeps_what_was_seen_if_the_statistics_are_the_same(models: Path) -> None:
    def swap(client: TestClient, version: int, **what: Any) -> None:
        watched.write(models, version, **what)
        assert client.post("/v2/repository/models/watched/load", headers=ADMIN).status_code == 200
        assert client.get(DRIFT).json()["model_version"] == str(version)

    with serving(models, versions="latest") as client:
        send(client, watched.pictures(40))
        before = seen(client, 40)
        swap(client, 2, labels=("a", "b", "c"))
        after = client.get(DRIFT).json()
        assert after["since_reset"] == before["since_reset"]
        send(client, watched.pictures(40, seed=2))
        assert seen(client, 80)["history"][0]["images"] == 72  # the window that the older version began
        swap(client, 3, seed=1)
        assert client.get(DRIFT).json()["since_reset"]["images"] == 0
        send(client, watched.pictures(16))
        seen(client, 16)


def test_metrics_by_layer(models: Path) -> None:
    with serving(models) as client:
        before = client.get("/metrics").text
        assert 'foldserve_drift_images_total{model="watched",version="1"} 0.0' in before
        assert "foldserve_drift_score{" not in before  # no window, no score
        send(client, watched.pictures(64, contrast=0.2))
        layers = {layer["name"]: layer["score"] for layer in seen(client, 64)["window"]["layers"]}
        lines = client.get("/metrics").text.splitlines()
    for name, score in layers.items():
        assert f'foldserve_drift_layer_score{{model="watched",version="1",layer="{name}"}} {score!r}' in lines
    assert 'foldserve_drift_grade{model="watched",version="1"} 2.0' in lines
    assert 'foldserve_drift_windows_total{model="watched",version="1"} 1.0' in lines


def test_an_uncalibrated_bundle_says_so(tmp_path: Path) -> None:
    watched.write(tmp_path, calibrated=False)
    with serving(tmp_path) as client:
        send(client, watched.pictures(64))
        body = seen(client, 64)
    assert (body["verdict"]["grade"], body["calibrated"], body["verdict"]["limit"]) == ("not calibrated", False, None)
    assert body["verdict"]["score"] > 0


@pytest.mark.parametrize(("share", "reason"), [(0, "FOLDSERVE_DRIFT_SHARE is 0"), (1, "has no probe.onnx")])
def test_what_is_not_watched_says_why(tmp_path: Path, share: float, reason: str) -> None:
    (watched.write if share == 0 else bundles.write)(tmp_path, name="watched")
    with serving(tmp_path, drift_share=share) as client:
        answer = client.get(DRIFT)
        assert answer.status_code == 404
        assert reason in answer.json()["error"]
        assert client.post(DRIFT + "/reset", headers=ADMIN).status_code == 404


def test_a_probe_that_fails_takes_nothing_with_it(tmp_path: Path) -> None:
    whole = watched.write(tmp_path / "whole")
    files = {name: whole.path(name).read_bytes() for name in whole.manifest.files} | {"probe.onnx": b"no graph"}

    write_bundle(tmp_path / "models" / "watched" / "1", files, whole.manifest)
    with serving(tmp_path / "models") as client:
        send(client, watched.pictures(16))
        body = until(lambda: client.get(DRIFT).json(), lambda found: found["failed"])
        assert "probe.onnx: ONNX Runtime cannot load it" in body["failed"]
        send(client, watched.pictures(16))
        assert client.get("/v2/health/ready").status_code == 200


def test_expected_moments_of_other_layers_are_refused(tmp_path: Path) -> None:
    whole = watched.write(tmp_path / "whole")
    files = {name: whole.path(name).read_bytes() for name in whole.manifest.files}

    files["drift.safetensors"] = files["batchnorm.safetensors"]
    spoilt = write_bundle(tmp_path / "models" / "watched" / "1", files, whole.manifest)
    with pytest.raises(BundleError, match=r"drift.safetensors: does not fit the manifest"):
        read_reference(spoilt)


def test_a_small_share_is_a_sample(models: Path) -> None:
    with serving(models, drift_share=0.001) as client:
        send(client, watched.pictures(400), rows=4)
        found = until(lambda: client.get(DRIFT).json(), lambda body: body["since_reset"]["images"] > 0)
    assert found["since_reset"]["images"] < 400
