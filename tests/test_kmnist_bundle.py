"""The bundle that ships, measured on the official test set against the network that was trained."""

from pathlib import Path

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
from safetensors.numpy import load_file

from bundle import Bundle, open_bundle
from scripts.datasets import load
from tests.support import fetch, png, serving


@pytest.fixture(scope="module")
def shipped(root: Path) -> Bundle:
    return open_bundle(root / "models" / "kmnist" / "1")


@pytest.fixture(scope="module")
def trained(shipped: Bundle) -> keras.Model:
    return keras.models.load_model(shipped.path("model.keras"), compile=False)


@pytest.mark.kmnist
def test_accuracy_and_sameness_on_the_official_test_set(shipped, trained, kmnist):
    data = load("kmnist", kmnist)
    session = onnxruntime.InferenceSession(shipped.path("model.onnx"), providers=["CPUExecutionProvider"])
    ours = np.concatenate([session.run(None, {"image": part})[0] for part in np.split(data.x_test, 20)])
    theirs = trained.predict(data.x_test.astype(np.float32), batch_size=500, verbose=0)
    assert np.mean(ours.argmax(1) == data.y_test) == shipped.manifest.metrics["accuracy"]
    np.testing.assert_array_equal(ours.argmax(1), theirs.argmax(1))
    assert np.abs(ours - theirs).max() <= 1e-5


def test_accuracy_reaches_the_target(shipped):
    assert shipped.manifest.metrics["accuracy"] >= 0.98


def test_the_reference_graph_has_five_layers_and_the_folded_one_none(shipped):
    reference, folded = (onnx.load(shipped.path(name)) for name in ("reference.onnx", "model.onnx"))
    names = [node.name for node in reference.graph.node if node.op_type == "BatchNormalization"]
    assert names == ["bn1", "bn2", "bn3", "bn4", "bn5"]
    operators = {node.op_type for node in folded.graph.node}
    assert not operators & {"BatchNormalization", "Mul", "Add", "Sub", "Div"}
    assert len(reference.graph.node) - len(folded.graph.node) == 10


def test_the_statistics_are_the_trained_ones_bit_for_bit(shipped, trained):
    arrays = load_file(shipped.path("batchnorm.safetensors"))
    assert len(arrays) == 20
    for key, values in arrays.items():
        layer, parameter = key.split("/")
        assert values.tobytes() == np.asarray(getattr(trained.get_layer(layer), parameter)).tobytes()


@pytest.mark.slow
def test_the_server_reports_these_very_statistics(shipped, trained):
    with serving(shipped.folder.parents[1]) as address:
        layers = fetch(f"{address}/v2/models/kmnist/batchnorm?arrays=true")["layers"]
    assert [layer["name"] for layer in layers] == ["bn1", "bn2", "bn3", "bn4", "bn5"]
    for layer in layers:
        for parameter in ("gamma", "beta", "moving_mean", "moving_variance"):
            expected = np.asarray(getattr(trained.get_layer(layer["name"]), parameter))
            assert np.asarray(layer[parameter], np.float32).tobytes() == expected.tobytes()


@pytest.mark.slow
@pytest.mark.kmnist
def test_real_pictures_sent_as_png_get_their_right_labels(shipped, kmnist):
    data = load("kmnist", kmnist)
    with serving(shipped.folder.parents[1]) as address:
        answers = [fetch(f"{address}/predict", png(picture), "image/png")["label"] for picture in data.x_test[:50]]
    right = [data.labels[number] for number in data.y_test[:50]]
    assert sum(answer == label for answer, label in zip(answers, right, strict=True)) >= 47


def test_the_network_is_the_one_of_the_keras_example(trained):
    assert [layer.__class__.__name__ for layer in trained.layers if layer.weights] == [
        "Conv2D", "BatchNormalization", "BatchNormalization", "Conv2D", "BatchNormalization", "BatchNormalization",
        "Dense", "BatchNormalization", "Dense",
    ]  # fmt: skip


def test_the_card_names_the_data_and_the_figures_of_the_manifest(shipped):
    card, manifest = shipped.path("README.md").read_text(encoding="utf-8"), shipped.manifest
    for text in ("CC BY-SA 4.0", "CODH", "doi:10.20676/00000341", f"{manifest.metrics['accuracy']:.6g}"):
        assert text in card
    assert manifest.training["results"]["recipe"] == "best"
    assert manifest.training["compared_with"]["seed"]["recipe"] == "seed"


def test_the_bundle_is_small(shipped):
    assert sum(path.stat().st_size for path in shipped.folder.rglob("*") if path.is_file()) < 12_000_000


def test_the_results_page_quotes_the_manifest(shipped, root):
    page = (root / "docs" / "results.md").read_text(encoding="utf-8")
    training = shipped.manifest.training
    for run in (training["results"], training["compared_with"]["seed"]):
        for figure in ("test_accuracy", "val_accuracy"):
            assert f"{100 * run[figure]:.2f} %" in page
    assert f"{shipped.manifest.keras_parity:.1e}" in page
