"""The statistics that a probe recovers are those that Keras sees at each layer's input, on the same batch."""

import keras
import numpy as np
import onnx
import onnxruntime
import pytest

import bnfold
from bnfold.probe import probe
from scripts.converting.canonical import canonicalise
from scripts.converting.trace import trace
from scripts.datasets import load
from scripts.training.batchnorm import BatchNormArguments
from scripts.training.networks import reference_network

SEED = 0  # Of the weights: a network of unlucky ones has dead channels, whose tiny deviation magnifies any rounding.


def network(signs: str) -> keras.Model:
    """The reference network with statistics of a batch, and gammas that are positive, of both signs, or negative."""
    keras.utils.set_random_seed(SEED)
    model = reference_network((28, 28, 1), 10, BatchNormArguments(momentum=0.0))
    random = np.random.default_rng(4)
    model(load("digits").x_train[:200].astype(np.float32), training=True)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            gamma = random.uniform(0.5, 1.5, layer.gamma.shape)
            negative = random.random(gamma.shape) < {"positive": 0, "mixed": 0.3, "negative": 1}[signs]
            layer.gamma.assign(np.where(negative, -gamma, gamma))
            layer.beta.assign(random.normal(0, 0.3, layer.beta.shape))
    return model


@pytest.mark.parametrize("signs", ["positive", "mixed", "negative"])
def test_recovered_statistics_are_those_of_keras(signs):
    model = network(signs)
    reference = trace(model, {model.inputs[0].name: "image"}, ["probabilities"], True)
    canonicalise(reference, model)
    folded = bnfold.fold(reference)
    graph = probe(reference, folded)
    onnx.checker.check_model(graph, full_check=True)
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    pictures = load("digits").x_test[:64] // 4 * 3 + 20  # less contrast: away from the moving statistics
    names = [output.name for output in session.get_outputs()]
    seen = dict(zip(names, session.run(None, {"image": pictures}), strict=True))
    np.testing.assert_allclose(seen["probabilities"], model.predict(pictures.astype(np.float32), verbose=0), atol=1e-5)

    observable = 0
    for layer in (layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)):
        entry = next(entry for entry in folded.report.entries if entry.name == layer.name)
        if entry.tap is None:
            assert entry.tap_reason
            assert f"{layer.name}/sum" not in seen
            continue
        observable += 1
        inputs = keras.Model(model.inputs, layer.input).predict(pictures.astype(np.float32), verbose=0)
        channels = inputs.reshape(-1, inputs.shape[-1]).astype(np.float64)
        assert seen[f"{layer.name}/count"] == len(channels)
        shown = np.array([scale is not None for scale in entry.tap.scale])
        sigma = np.sqrt(np.asarray(layer.moving_variance, np.float64) + layer.epsilon)
        z_mean = seen[f"{layer.name}/sum"] / len(channels)
        z_square = seen[f"{layer.name}/sum_of_squares"] / len(channels)
        mean = np.asarray(layer.moving_mean) + sigma * z_mean
        variance = sigma**2 * (z_square - z_mean**2)
        assert (np.abs(mean - channels.mean(0)) / sigma)[shown].max() <= 1e-4
        # The error of a channel that is constant on this batch is measured by the scale of the layer.
        assert (np.abs(variance - channels.var(0)) / (channels.var(0) + 0.1 * sigma**2))[shown].max() <= 1e-3
    assert observable == 5 or signs != "positive"
    assert observable >= 3
