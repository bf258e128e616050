"""Networks of keras.applications: what can be folded does not stay; the result is what Keras computes in float64."""

import onnx
import pytest

import bnfold

SIZE = 32
# name -> ends of the names of the layers that stay when the target is ONNX Runtime: batch normalisation before the ReLU
# of a tensor that others read too, where one BatchNormalization is faster than the exact form without it.
STAY: dict[str, tuple[str, ...]] = {"MobileNetV3Small": (), "ResNet50V2": ("_preact_bn", "post_bn")}


BAR = 1e-5
"""Of the largest logit: how far the folded weights may be from the given ones, both computed in float64."""


def allowed(unfolded: float) -> float:
    """In ONNX Runtime, whose own float32 arithmetic deep networks magnify: the bar, or twice its unfolded error."""
    return max(BAR, 2 * unfolded)


@pytest.mark.slow
@pytest.mark.parametrize("name", STAY)
def test_what_stays_of_a_network_and_how_exact_it_is(name):
    from scripts.evaluation.exactness import distance, error, evaluate, truth
    from scripts.evaluation.graphs import batchnorm_export, keras_export
    from scripts.evaluation.networks import NETWORKS
    from scripts.evaluation.weights import pictures, randomise

    network = NETWORKS[name]
    model = network.build(SIZE)
    randomise(model, low=network.low, high=network.high)
    batch = pictures(model.inputs[0].shape[1:], network.low, network.high)
    expected = truth(lambda: network.build(SIZE), model, batch)
    nodes = batchnorm_export(model)
    layers = {node.name for node in nodes.graph.node if node.op_type == "BatchNormalization"}

    for graph in (nodes, keras_export(model)) if name == "MobileNetV3Small" else (nodes,):
        folded = bnfold.fold(graph)

        onnx.checker.check_model(folded.model, full_check=True)
        assert distance(evaluate(folded.model, batch), evaluate(graph, batch)) <= BAR
        assert error(folded.model, batch, expected) <= allowed(error(graph, batch, expected))
        if graph is nodes:
            stayed = {entry.name for entry in folded.report.entries if entry.name in layers and entry.residual}
            assert stayed == {layer for layer in layers if layer.endswith(STAY[name])}


@pytest.mark.slow
def test_fewest_operators_leave_none_before_the_relu_of_a_pre_activated_network():
    from scripts.evaluation.exactness import distance, error, evaluate, truth
    from scripts.evaluation.graphs import batchnorm_export
    from scripts.evaluation.networks import NETWORKS
    from scripts.evaluation.weights import pictures, randomise

    network = NETWORKS["ResNet50V2"]
    model = network.build(SIZE)
    randomise(model, negative=0)
    batch = pictures(model.inputs[0].shape[1:], network.low, network.high)
    expected = truth(lambda: network.build(SIZE), model, batch)
    nodes = batchnorm_export(model)

    folded = bnfold.fold(nodes, target="fewest-ops")

    assert folded.report.residual == ()
    assert distance(evaluate(folded.model, batch), evaluate(nodes, batch)) <= BAR
    assert error(folded.model, batch, expected) <= allowed(error(nodes, batch, expected))
