"""The report on the layers: complete, bit for bit, in every form it can be asked for."""

from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import pytest
from safetensors.numpy import load
from starlette.testclient import TestClient

from bundle import Bundle, open_bundle
from service.app import create_app
from service.settings import Settings
from tests.service import watched

REPORT = "/v2/models/watched/batchnorm"
OCTETS = {"Accept": "application/octet-stream"}
NAMES = ("gamma", "beta", "moving_mean", "moving_variance")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return watched.write(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def client(bundle: Bundle) -> Iterator[TestClient]:
    with TestClient(create_app(Settings(models=bundle.folder.parents[1], runners=1))) as client:
        yield client


def test_the_summary_says_where_each_layer_went(client: TestClient, bundle: Bundle) -> None:
    body = client.get(REPORT).json()
    assert (body["model_name"], body["model_version"], body["bundle_sha256"]) == ("watched", "1", bundle.digest)
    first, second = body["layers"]
    assert {key: first[key] for key in ("name", "axis", "channels", "epsilon", "momentum", "center", "scale")} == {
        "name": "bn_1", "axis": 1, "channels": 4, "epsilon": 1e-3, "momentum": 0.99, "center": True, "scale": True,
    }  # fmt: skip
    assert first["fold"] | {"conditioning": None} == {
        "status": "folded",
        "rules": ["past Flatten flat", "forward into Gemm dense"],
        "into": ["dense"],
        "residual": [],
        "conditioning": None,
    }
    values = watched.parameters(0)
    mean, variance = values["bn_1/moving_mean"].astype(float), values["bn_1/moving_variance"].astype(float)
    assert first["fold"]["conditioning"] == pytest.approx((np.abs(mean) / np.sqrt(variance + 1e-3)).max())
    assert first["tap"] == {"tensor": "relu", "axis": 1}
    assert first["dead_channels"] == {"gamma": [], "variance": []}
    assert second["dead_channels"] == {"gamma": [3], "variance": [2]}
    for name in NAMES:
        array = values[f"bn_2/{name}"]
        expected = {"min": array.min(), "mean": array.mean(), "max": array.max()}
        assert second["ranges"][name] == pytest.approx({key: float(value) for key, value in expected.items()})
    assert not set(NAMES) & set(first)


def test_the_arrays_are_those_of_the_bundle(client: TestClient) -> None:
    body = client.get(REPORT, params={"arrays": "true"}).json()
    for name, layer in zip(watched.CHANNELS, body["layers"], strict=True):
        assert client.get(f"{REPORT}/{name}?arrays=true").json().items() >= layer.items()
        stored = {key: watched.parameters(0)[f"{name}/{key}"] for key in NAMES}
        for key in NAMES:
            np.testing.assert_array_equal(np.asarray(layer[key], np.float32), stored[key])
        scale = stored["gamma"].astype(float) / np.sqrt(stored["moving_variance"].astype(float) + layer["epsilon"])
        np.testing.assert_allclose(layer["s"], scale, rtol=1e-12)
        np.testing.assert_allclose(layer["t"], stored["beta"] - scale * stored["moving_mean"], rtol=1e-12, atol=1e-12)
        channels = watched.CHANNELS[name]
        assert (layer["tap"]["scale"], layer["tap"]["shift"]) == ([1.0] * channels, [0.0] * channels)


def test_one_layer_can_be_asked_for(client: TestClient) -> None:
    body = client.get("/v2/models/watched/versions/1/batchnorm/bn_2").json()
    assert (body["model_name"], body["name"], body["fold"]["into"]) == ("watched", "bn_2", ["logits"])
    unknown = client.get(f"{REPORT}/bn_3")
    assert unknown.status_code == 404
    assert unknown.json() == {"error": "the model has no such batch-normalisation layer; it has bn_1, bn_2"}
    unclear = client.get(REPORT, params={"arrays": "perhaps"})
    assert (unclear.status_code, unclear.json()["error"].partition(":")[0]) == (400, "arrays")


def test_binary_forms(client: TestClient, bundle: Bundle) -> None:
    values = watched.parameters(0)
    each = {layer: b"".join(values[f"{layer}/{name}"].tobytes() for name in NAMES) for layer in watched.CHANNELS}
    whole = client.get(REPORT, headers=OCTETS)
    assert (whole.headers["content-type"], whole.content) == ("application/octet-stream", b"".join(each.values()))
    for layer, raw in each.items():
        assert client.get(f"{REPORT}/{layer}", headers=OCTETS).content == raw
    file = client.get("/v2/models/watched/batchnorm.safetensors")
    assert file.headers["content-disposition"] == 'attachment; filename="watched-1-batchnorm.safetensors"'
    assert file.content == bundle.path("batchnorm.safetensors").read_bytes()
    for key, array in load(file.content).items():
        np.testing.assert_array_equal(array, values[key])


@pytest.mark.parametrize("path", ["", "/bn_1", ".safetensors"])
@pytest.mark.parametrize("headers", [{}, OCTETS])
def test_what_is_known_is_not_sent_again(
    client: TestClient, bundle: Bundle, path: str, headers: dict[str, str]
) -> None:
    answer = client.get(REPORT + path, headers=headers)
    tag = answer.headers["etag"]
    assert tag.startswith(f'"{bundle.digest}')
    for known in (tag, f'"other", W/{tag}', "*"):
        again = client.get(REPORT + path, headers=headers | {"If-None-Match": known})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert client.get(REPORT + path, headers=headers | {"If-None-Match": '"other"'}).content == answer.content


def test_forms_of_one_address_have_tags_of_their_own(client: TestClient) -> None:
    as_json, raw = client.get(REPORT), client.get(REPORT, headers=OCTETS)
    assert as_json.headers["etag"] != raw.headers["etag"]
    assert as_json.headers["vary"] == raw.headers["vary"] == "Accept"


@pytest.mark.slow
def test_every_number_is_that_of_the_trained_network(root: Path) -> None:
    """The bundle that ships, against its own model.keras."""
    shipped = open_bundle(root / "models" / "kmnist" / "1")
    trained = keras.models.load_model(shipped.path("model.keras"), compile=False)
    with TestClient(create_app(Settings(models=root / "models", runners=1))) as client:
        layers = client.get("/v2/models/kmnist/versions/1/batchnorm?arrays=true").json()["layers"]
    norms = [layer for layer in trained.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert [layer["name"] for layer in layers] == [norm.name for norm in norms]
    for said, norm in zip(layers, norms, strict=True):
        assert (said["epsilon"], said["momentum"]) == (norm.epsilon, norm.momentum)
        assert (said["center"], said["scale"], said["axis"]) == (norm.center, norm.scale, norm.axis % norm.input.ndim)
        for name in NAMES:
            np.testing.assert_array_equal(np.asarray(said[name], np.float32), np.asarray(getattr(norm, name)))
        points = np.random.default_rng(0).normal(0, 2, (7, *[1] * (norm.input.ndim - 2), said["channels"]))
        answers = np.asarray(norm(points.astype(np.float32)), np.float64)
        limit = 1e-5 * np.abs(np.asarray(said["s"])).max() * 10
        np.testing.assert_allclose(
            np.asarray(said["s"]) * points + np.asarray(said["t"]), answers, rtol=1e-5, atol=limit
        )
