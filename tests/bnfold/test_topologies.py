"""Every kind of place where batch normalisation stands, exported from Keras, folded to its minimum in both forms."""

import onnx
import pytest

import bnfold
from scripts.evaluation.places import TOPOLOGIES, Topology, exported, with_batchnorm_nodes, without_batchnorm
from tests.bnfold.graphs import folded, residuals

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # TensorFlow's and tf2onnx's own
]

_cache: dict[str, onnx.ModelProto] = {}


def _graph(topology: Topology) -> onnx.ModelProto:
    if topology.name not in _cache:
        _cache[topology.name] = exported(topology)
    return _cache[topology.name]


@pytest.mark.parametrize("form", ["arithmetic", "batchnorm"])
@pytest.mark.parametrize("topology", TOPOLOGIES, ids=lambda topology: topology.name)
def test_fewest_ops_reaches_the_minimum(topology: Topology, form: str) -> None:
    reference = _graph(topology)
    twin = bnfold.fold(without_batchnorm(reference), target="fewest-ops").model
    if form == "batchnorm":
        reference = with_batchnorm_nodes(reference)
    result = folded(reference, "fewest-ops").model
    assert residuals(result) - residuals(twin) == topology.minimum
    assert len(result.graph.node) - len(twin.graph.node) <= topology.minimum + topology.extra_nodes


@pytest.mark.parametrize("topology", TOPOLOGIES, ids=lambda topology: topology.name)
def test_ort_cpu_is_exact_and_never_larger(topology: Topology) -> None:
    reference = _graph(topology)
    result = folded(reference, "ort-cpu").model
    assert len(result.graph.node) <= len(reference.graph.node)
    assert residuals(result) <= residuals(with_batchnorm_nodes(reference))


def test_the_batchnorm_form_has_a_node_for_every_layer() -> None:
    by_name = {topology.name: topology for topology in TOPOLOGIES}
    nodes = with_batchnorm_nodes(_graph(by_name["reference"])).graph.node
    assert sum(node.op_type == "BatchNormalization" for node in nodes) == 5
