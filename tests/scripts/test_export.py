"""What Keras computes is what the exported graph computes, with every BatchNormalization layer under its name."""

import json
import subprocess
import sys

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
from keras import layers
from onnx import numpy_helper
from PIL import Image
from safetensors.numpy import load_file

from bundle import BundleError, open_bundle
from scripts.converting import parity
from scripts.converting.canonical import canonicalise
from scripts.converting.trace import ExportError, batchnorm_layers, trace
from scripts.export import main
from scripts.training.batchnorm import BatchNormArguments
from scripts.training.networks import reference_network


def randomise(model, seed=0):
    """Unit-scale weights, biases that are not zero, statistics that matter, some negative gammas."""
    random = np.random.default_rng(seed)
    for layer in model._flatten_layers(include_self=False, recursive=True):
        if isinstance(layer, layers.BatchNormalization):
            for name, low, high in (
                ("gamma", -1.5, 1.5),
                ("beta", -1, 1),
                ("moving_mean", -1, 1),
                ("moving_variance", 0.2, 2),
            ):
                if getattr(layer, name) is not None:
                    getattr(layer, name).assign(random.uniform(low, high, getattr(layer, name).shape))
        elif getattr(layer, "bias", None) is not None:
            layer.bias.assign(random.normal(0, 0.3, layer.bias.shape))
    return model


def functional(*stack, shape=(8, 8, 3)):
    inputs = outputs = keras.Input(shape)
    for layer in stack:
        outputs = layer(outputs)
    return randomise(keras.Model(inputs, outputs))


def shared():
    """One BatchNormalization layer read twice."""
    inputs = keras.Input((6, 6, 4))
    norm = layers.BatchNormalization(name="shared")
    return randomise(keras.Model(inputs, layers.add([norm(inputs), norm(layers.ReLU()(inputs))])))


def nested():
    inner_in = keras.Input((8, 8, 3))
    inner = keras.Model(inner_in, layers.BatchNormalization(name="inner")(layers.Conv2D(4, 3)(inner_in)), name="block")
    inputs = keras.Input((8, 8, 3))
    return randomise(keras.Model(inputs, layers.BatchNormalization(name="outer")(inner(inputs))))


# fmt: off
NETWORKS = {
    "reference": lambda: randomise(reference_network((28, 28, 1), 10, BatchNormArguments())),
    "with and without bias": lambda: functional(
        layers.Conv2D(4, 3), layers.BatchNormalization(),
        layers.Conv2D(4, 3, use_bias=False), layers.BatchNormalization(),
    ),
    "no centre, no scale": lambda: functional(
        layers.BatchNormalization(center=False, name="c"), layers.ReLU(),
        layers.BatchNormalization(scale=False, name="s"),
    ),
    "axis 1": lambda: functional(layers.BatchNormalization(axis=1), layers.Conv2D(4, 3)),
    "vectors": lambda: functional(layers.Dense(6), layers.BatchNormalization(), layers.Dense(3), shape=(5,)),
    "sequences": lambda: functional(layers.Conv1D(6, 3), layers.BatchNormalization(), layers.ReLU(), shape=(9, 4)),
    "volumes": lambda: functional(layers.Conv3D(4, 2), layers.BatchNormalization(), shape=(5, 6, 7, 2)),
    "two in a row, other epsilon": lambda: functional(
        layers.BatchNormalization(epsilon=0.5), layers.BatchNormalization(epsilon=1e-6),
        layers.Flatten(), layers.Dense(3),
    ),
    "depthwise and pools": lambda: functional(
        layers.DepthwiseConv2D(3), layers.BatchNormalization(), layers.AveragePooling2D(2), layers.BatchNormalization(),
        layers.GlobalAveragePooling2D(), layers.BatchNormalization(), layers.Dense(3, activation="softmax"),
    ),
    "shared": shared,
    "nested": nested,
    "sequential": lambda: randomise(
        keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(4, 3), layers.BatchNormalization(), layers.Flatten()])
    ),
}
# fmt: on


def traced(model):
    (tensor,) = model.inputs
    proto = trace(model, {tensor.name: "input"}, ["output"], False)
    canonicalise(proto, model)
    onnx.checker.check_model(proto, full_check=True)
    return proto


@pytest.mark.parametrize("name", NETWORKS)
def test_every_layer_is_kept_with_its_very_parameters(name):
    model = NETWORKS[name]()
    proto = traced(model)
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    nodes = [node for node in proto.graph.node if node.op_type == "BatchNormalization"]
    norms = {norm.layer.name: norm.layer for norm in batchnorm_layers(model)}
    # A layer that is used twice has a second node; Keras numbers its layers in the same way.
    names = [node.name if node.name in norms else node.name.removesuffix("_2") for node in nodes]
    assert set(names) == set(norms)
    for node, name in zip(nodes, names, strict=True):
        layer = norms[name]
        for tensor, parameter in zip(node.input[1:], ("gamma", "beta", "moving_mean", "moving_variance"), strict=True):
            if getattr(layer, parameter) is not None:
                np.testing.assert_array_equal(tensors[tensor], np.asarray(getattr(layer, parameter)))
        epsilon = {attribute.name: attribute.f for attribute in node.attribute}["epsilon"]
        assert epsilon == pytest.approx(layer.epsilon)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_graph_is_the_network(name):
    model = NETWORKS[name]()
    graph = onnxruntime.InferenceSession(traced(model).SerializeToString(), providers=["CPUExecutionProvider"])
    x = np.random.default_rng(3).uniform(-1, 1, (5, *model.input_shape[1:])).astype(np.float32)
    expected = model.predict(x, verbose=0)
    np.testing.assert_allclose(graph.run(None, {"input": x})[0], expected, atol=1e-5 * max(1, np.abs(expected).max()))
    np.testing.assert_allclose(
        graph.run(None, {"input": x[:1]})[0], expected[:1], atol=1e-5 * max(1, np.abs(expected).max())
    )
    assert graph.get_inputs()[0].shape[0] == "batch"


def test_no_shape_arithmetic_is_left():
    operators = {node.op_type for node in traced(NETWORKS["reference"]()).graph.node}
    assert operators == {
        "Mul", "Add", "Reshape", "Conv", "Relu", "BatchNormalization", "MaxPool", "Transpose", "MatMul", "Softmax",
    }  # fmt: skip


def test_a_layer_without_equivalent_is_named():
    model = functional(layers.Conv2D(4, 3, groups=1), layers.Conv2D(4, 3, groups=2, name="grouped"))
    with pytest.raises(ExportError, match=r"'grouped'"):
        traced(model)


def test_batch_statistics_are_refused_by_layer_name():
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, layers.BatchNormalization(name="live")(inputs, training=True))
    with pytest.raises(ExportError, match=r"layer 'live': called with training=True"):
        traced(model)


def test_a_subclassed_network_is_refused():
    class Own(keras.Model):  # type: ignore[misc]
        def call(self, x):
            return x

    with pytest.raises(ExportError, match="only Functional and Sequential"):
        trace(Own(), {}, [], False)


def test_parity_notices_another_network():
    one, other = (randomise(reference_network((28, 28, 1), 10, BatchNormArguments()), seed) for seed in (0, 1))
    proto = trace(one, {one.inputs[0].name: "image"}, ["probabilities"], True)
    cases = {"random": parity.random_inputs(one, {one.inputs[0].name: "image"}, True)}
    assert parity.check(one, parity.session(proto), cases) < 1e-5
    with pytest.raises(ExportError, match=r"parity: on random inputs in batches of 1 .* differs from model.predict"):
        parity.check(other, parity.session(proto), cases)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A network with mixed signs of gamma, saved by Keras."""
    keras.utils.set_random_seed(0)  # a module's fixtures come before the seed of each test
    path = tmp_path_factory.mktemp("network") / "model.keras"
    randomise(reference_network((28, 28, 1), 10, BatchNormArguments(), name="digits")).save(path)
    return path


def test_an_export_is_a_verified_bundle(saved, tmp_path, capsys):
    assert main([str(saved), "--name", "digits", "--models", str(tmp_path), "--dataset", "digits"]) == 0
    bundle = open_bundle(tmp_path / "digits" / "1")
    manifest = bundle.manifest
    assert json.loads(capsys.readouterr().out)["bundle"] == str(bundle.folder)
    assert [(spec.name, spec.datatype, spec.shape) for spec in (*manifest.inputs, *manifest.outputs)] == [
        ("image", "UINT8", (-1, 28, 28, 1)),
        ("probabilities", "FP32", (-1, 10)),
    ]
    assert manifest.operators["reference"]["BatchNormalization"] == 5
    assert "BatchNormalization" not in manifest.operators["folded"]
    assert manifest.keras_parity is not None
    assert manifest.keras_parity <= 1e-5
    assert manifest.metrics["same_class_as_keras"] == 1.0
    assert manifest.labels == tuple("0123456789")
    model = keras.models.load_model(saved, compile=False)
    arrays = load_file(bundle.path("batchnorm.safetensors"))
    assert len(arrays) == 20
    for key, values in arrays.items():
        layer, _, parameter = key.partition("/")
        np.testing.assert_array_equal(values, np.asarray(getattr(model.get_layer(layer), parameter)))
    with np.load(bundle.path("golden.npz")) as golden:
        expected = model.predict(golden["image"].astype(np.float32), verbose=0)
        np.testing.assert_allclose(golden["probabilities"], expected, atol=1e-5)
        assert golden["image"].dtype == np.uint8
        probe = onnxruntime.InferenceSession(bundle.path("probe.onnx"), providers=["CPUExecutionProvider"])
        probabilities, count = probe.run(["probabilities", "bn5/count"], {"image": golden["image"]})
        np.testing.assert_allclose(probabilities, expected, atol=1e-5)
        assert count == len(expected)
        with Image.open(bundle.path("example.png")) as picture:
            np.testing.assert_array_equal(np.asarray(picture), golden["image"][0, ..., 0])
    assert "| `bn1` | 32 | folded |" in bundle.path("README.md").read_text()
    assert main([str(saved), "--name", "digits", "--models", str(tmp_path), "--dataset", "none"]) == 0
    second = open_bundle(tmp_path / "digits" / "2").manifest.certificate
    assert second is not None
    assert second.inputs.get("real", 0) == 0
    assert main([str(saved), "--name", "digits", "--models", str(tmp_path), "--version", "2"]) == 2
    assert "exists already" in capsys.readouterr().err


def test_a_sequential_network_is_exported_too(tmp_path, capsys):
    stack = [layers.Rescaling(1 / 255), layers.Conv2D(4, 3), layers.BatchNormalization(), layers.Flatten()]
    randomise(keras.Sequential([keras.Input((8, 8, 1)), *stack, layers.Dense(3)])).save(tmp_path / "stack.keras")
    with pytest.warns(UserWarning, match="not yet been built"):
        keras.Sequential([layers.Flatten()]).save(tmp_path / "unbuilt.keras")
    to = ["--name", "stack", "--models", str(tmp_path)]
    assert main([str(tmp_path / "stack.keras"), *to]) == 0
    manifest = open_bundle(tmp_path / "stack" / "1").manifest
    assert [record.status for record in manifest.batchnorm] == ["folded"]
    assert manifest.keras_parity is not None
    assert manifest.keras_parity <= 1e-5
    assert main([str(tmp_path / "unbuilt.keras"), *to]) == 2
    assert "it was never built; begin it with keras.Input" in capsys.readouterr().err


@pytest.mark.slow
def test_two_exports_in_two_processes_are_the_same_bytes(saved, tmp_path, root):
    for folder in ("one", "two"):
        command = [sys.executable, "-m", "scripts.export", str(saved), "--name", "d", "--dataset", "digits", "--models"]
        subprocess.run([*command, str(tmp_path / folder)], cwd=root, check=True, capture_output=True)
    one, two = (open_bundle(tmp_path / folder / "d" / "1") for folder in ("one", "two"))
    assert one.manifest.files == two.manifest.files
    assert one.digest == two.digest


def test_an_export_that_fails_leaves_nothing(saved, tmp_path, capsys):
    assert main([str(tmp_path / "no.keras"), "--name", "x", "--models", str(tmp_path / "models")]) == 2
    assert "no such file" in capsys.readouterr().err
    (tmp_path / "bad.keras").write_bytes(b"PK")
    assert main([str(tmp_path / "bad.keras"), "--name", "x", "--models", str(tmp_path / "models")]) == 2
    assert "Keras cannot load it" in capsys.readouterr().err
    np.savez(tmp_path / "wrong.npz", images=np.zeros((3, 5, 5, 1), np.uint8))
    samples = ["--samples", str(tmp_path / "wrong.npz")]
    assert main([str(saved), "--name", "x", "--models", str(tmp_path / "models"), *samples]) == 2
    assert "pictures of shape (5, 5, 1), the network takes (28, 28, 1)" in capsys.readouterr().err
    assert not list((tmp_path / "models").glob("*/*"))


def test_a_bundle_is_refused_when_a_byte_changes(saved, tmp_path):
    assert main([str(saved), "--name", "d", "--models", str(tmp_path), "--dataset", "none"]) == 0
    path = tmp_path / "d" / "1" / "model.onnx"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(BundleError, match=r"model.onnx: sha256 is"):
        open_bundle(tmp_path / "d" / "1")
