"""An export with held-out pictures knows what chance looks like; one without says nothing of it."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest

from bundle import Bundle, open_bundle
from bundle.statistics import layer_references, read_reference, read_statistics
from scripts.converting.calibration import picture_moments
from scripts.datasets import load
from scripts.export import main
from scripts.training.batchnorm import BatchNormArguments
from scripts.training.networks import reference_network

HELD_OUT = 0.5  # of the digits' training pictures


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training run's folder: a network with the statistics of a batch, and its configuration."""
    keras.utils.set_random_seed(0)
    folder = tmp_path_factory.mktemp("run")
    model = reference_network((28, 28, 1), 10, BatchNormArguments(momentum=0.0), name="digits")
    model(load("digits").x_train[:200].astype(np.float32), training=True)
    model.save(folder / "model.keras")
    (folder / "config.json").write_text(json.dumps({"dataset": "digits", "validation_split": HELD_OUT}))
    (folder / "results.json").write_text("{}")
    return folder


def export(run: Path, models: Path, *arguments: str) -> Bundle:
    assert main([str(run / "model.keras"), "--name", "d", "--models", str(models), *arguments]) == 0
    return open_bundle(models / "d" / "1")


@pytest.fixture(scope="module")
def bundle(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return export(run, tmp_path_factory.mktemp("models"))


def test_the_thresholds_are_in_the_manifest(bundle: Bundle) -> None:
    drift = bundle.manifest.drift
    assert drift is not None
    validation = int(len(load("digits").x_train) * HELD_OUT)
    assert drift.held_out == validation // 2
    assert drift.images == (32, 64, 128, 256, 512, 1024, 2048, 4096)
    assert list(drift.limit) == sorted(drift.limit, reverse=True)  # the larger the window, the less is chance
    assert all(limit > expected for limit, expected in zip(drift.limit, drift.expected, strict=True))
    assert set(drift.measured) == {32, 64}  # windows of more than a quarter of the other half are not fresh
    assert np.mean(list(drift.measured.values())) <= 0.02
    assert "| 32 | " in bundle.path("README.md").read_text(encoding="utf-8").partition("## Drift")[2]


def test_what_is_expected_is_what_keras_sees_on_held_out_pictures(bundle: Bundle) -> None:
    dataset = load("digits")
    found = read_reference(bundle)
    assert found is not None
    reference, _ = found
    assert reference.expected is not None
    everything = dataset.x_train[len(dataset.x_train) - int(len(dataset.x_train) * HELD_OUT) :]
    moments = picture_moments(bundle.path("probe.onnx").read_bytes(), reference.layout, {"image": everything})
    order = np.random.default_rng(0).permutation(len(everything))[: reference.expected.images]
    np.testing.assert_allclose(reference.expected.values, moments[order].sum(0), rtol=1e-9)

    model = keras.models.load_model(bundle.path("model.keras"), compile=False)
    for name in reference.layout.layers:
        inputs = keras.Model(model.inputs, model.get_layer(name).input).predict(everything[order], verbose=0)
        values = inputs.reshape(-1, inputs.shape[-1]).astype(np.float64)
        mean, variance = reference.live(reference.expected.values, name)
        sigma = np.sqrt(reference.layers[name].variance + reference.layers[name].epsilon)
        assert (np.abs(mean - values.mean(0)) / sigma).max() <= 1e-4
        assert (np.abs(variance - values.var(0)) / (values.var(0) + 0.1 * sigma**2)).max() <= 1e-3


@pytest.mark.slow
def test_an_export_of_the_bundles_network_says_the_same(bundle: Bundle, tmp_path: Path) -> None:
    """Its configuration is found in the bundle, and nothing depends on the moment."""
    again = export(bundle.folder, tmp_path).manifest
    assert again.drift == bundle.manifest.drift
    assert again.files["drift.safetensors"] == bundle.manifest.files["drift.safetensors"]


def test_without_held_out_pictures_there_are_no_thresholds(run: Path, tmp_path: Path) -> None:
    none = export(run, tmp_path / "none", "--dataset", "none")
    assert none.manifest.drift is None
    assert "drift.safetensors" not in none.manifest.files
    found = read_reference(none)
    assert found is not None
    assert found[1] is None
    assert found[0].expected is None
    np.savez(tmp_path / "few.npz", images=load("digits").x_test[:20], held_out=load("digits").x_train[:199])
    assert export(run, tmp_path / "few", "--samples", str(tmp_path / "few.npz")).manifest.drift is None


def test_held_out_pictures_may_come_with_the_samples(run: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "own.npz", images=load("digits").x_test[:20], held_out=load("digits").x_train[-260:])
    drift = export(run, tmp_path, "--samples", str(tmp_path / "own.npz")).manifest.drift
    assert drift is not None
    assert drift.held_out == 130


def test_the_references_have_the_layers_own_statistics(bundle: Bundle) -> None:
    model = keras.models.load_model(bundle.path("model.keras"), compile=False)
    for name, layer in layer_references(read_statistics(bundle)).items():
        np.testing.assert_array_equal(layer.mean, np.asarray(model.get_layer(name).moving_mean))
        np.testing.assert_array_equal(layer.variance, np.asarray(model.get_layer(name).moving_variance))
        assert layer.epsilon == model.get_layer(name).epsilon
