"""The main job on real handwriting: train, export, fold, serve, predict, each with its real program."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import pytest

from scripts.datasets import load
from tests.support import fetch, png, serving

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Path:
    """A model repository with one network, trained and exported a moment ago."""
    folder = tmp_path_factory.mktemp("path")
    command = [sys.executable, "-m", "scripts.train", "--recipe", "quick", "--out", str(folder / "run")]
    export = ["--name", "digits", "--models", str(folder / "models")]
    done = subprocess.run([*command, *export], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "models"


@pytest.fixture(scope="module")
def server(models: Path) -> Iterator[str]:
    with serving(models) as address:
        yield address


@pytest.fixture(scope="module")
def trained(models: Path) -> keras.Model:
    return keras.models.load_model(models / "digits" / "1" / "model.keras", compile=False)


def test_pictures_get_their_right_labels(server):
    digits = load("digits")
    right = 0
    for picture, number in zip(digits.x_test[:40], digits.y_test[:40], strict=True):
        right += fetch(f"{server}/predict", png(picture), "image/png")["label"] == str(number)
    assert right >= 37


def test_the_server_answers_as_keras_does(server, trained):
    pictures = load("digits").x_test[:8]
    tensor = {"name": "image", "shape": [8, 28, 28, 1], "datatype": "UINT8", "data": pictures.ravel().tolist()}
    (output,) = fetch(f"{server}/v2/models/digits/infer", json.dumps({"inputs": [tensor]}).encode())["outputs"]
    expected = trained.predict(pictures.astype(np.float32), verbose=0)
    np.testing.assert_allclose(np.reshape(output["data"], output["shape"]), expected, atol=1e-5)


def test_the_statistics_are_those_of_the_trained_network(server, trained):
    layers = fetch(f"{server}/v2/models/digits/batchnorm?arrays=true")["layers"]
    assert [layer["name"] for layer in layers] == ["bn1", "bn2", "bn3", "bn4", "bn5"]
    for layer in layers:
        assert layer["fold"]["status"] == "folded"
        for name in ("gamma", "beta", "moving_mean", "moving_variance"):
            expected = np.asarray(getattr(trained.get_layer(layer["name"]), name))
            np.testing.assert_array_equal(np.asarray(layer[name], np.float32), expected)
