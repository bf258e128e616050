"""The evaluation counts by the graph alone, sees a wrong fold, and says what it cannot do."""

import json

import keras
import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

import bnfold
from scripts import benchmark_fold, evaluate_fold
from scripts.evaluation.exactness import distance, error, evaluate, truth
from scripts.evaluation.graphs import batchnorm_export, keras_export
from scripts.evaluation.networks import NETWORKS
from scripts.evaluation.operators import Count, count
from scripts.evaluation.tools import TOOLS
from scripts.evaluation.topologies import TOPOLOGIES, without_batchnorm
from scripts.evaluation.weights import pictures, randomise


def graph(body, outputs="float[N,2,4,4] y"):
    return parser.parse_model(f"""<ir_version: 10, opset_import: ["": 18]>
        net (float[N,2,4,4] x) => ({outputs})
        <float[2,1,1] a = {{1, 2}}, float[2,1,1] b = {{3, 4}}, float[2] c = {{1, 2}},
         float[2,1,1,1] depthwise = {{1, 2}}, float[2,2,1,1] dense = {{1, 2, 3, 4}}>
        {{ {body} }}""")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("y = BatchNormalization(x, c, c, c, c)", Count(1, 0)),
        ("s = Mul(x, a) y = Add(b, s)", Count(2, 0)),
        ("y = Add(x, x)", Count(0, 0)),
        ("s = Mul(a, b) y = Mul(x, s)", Count(1, 0)),
        ("y = Conv<group=2>(x, depthwise)", Count(1, 0)),
        ("y = Conv(x, dense)", Count(0, 0, 1)),
        ("s = Relu(x) y = Max(s, a)", Count(0, 2)),
        ('y = com.microsoft.FusedGemm<activation = "Relu">(x, dense)', Count(0, 1, 1)),
    ],
)
def test_counts_what_batch_normalisation_may_have_brought(body, expected):
    assert count(graph(body)) == expected


def test_a_clamp_in_place_of_a_relu_is_free_and_one_beside_it_or_a_second_convolution_is_not():
    twin = Count(0, 1, 3)
    left = (Count(0, 1, 3), Count(0, 2, 3), Count(2, 1, 3), Count(0, 1, 4), Count(0, 0, 3))

    assert [count.beyond(twin) for count in left] == [0, 1, 2, 1, 0]


@pytest.fixture(scope="module")
def reference():
    network = NETWORKS["reference"]
    model = network.build()
    randomise(model, negative=0.3, low=network.low, high=network.high)
    return network, model


@pytest.mark.slow
def test_the_truth_is_closer_than_float32_and_a_wrong_weight_is_seen(reference):
    network, model = reference
    batch = pictures((28, 28, 1), network.low, network.high)
    expected = truth(network.build, model, batch)
    exported = batchnorm_export(model)
    wrong = onnx.ModelProto()
    wrong.CopyFrom(exported)
    kernel = next(tensor for tensor in wrong.graph.initializer if tensor.name == "conv2/kernel")
    kernel.CopyFrom(numpy_helper.from_array(np.abs(numpy_helper.to_array(kernel)), kernel.name))

    assert np.abs(expected - expected.astype(np.float32)).max() > 0
    assert np.asarray(model(batch)) == pytest.approx(expected, abs=1e-4)
    assert error(exported, batch, expected) < 1e-5
    assert error(wrong, batch, expected) > 1e-2
    assert keras.config.floatx() == "float32"
    assert distance(evaluate(exported, batch), expected) < 1e-7
    assert distance(evaluate(wrong, batch), expected) > 1e-2


def test_the_weights_make_every_layer_count(reference):
    _, model = reference
    gammas = np.concatenate([layer.gamma for layer in model.layers if hasattr(layer, "gamma")])
    hidden = keras.Model(model.inputs[0], [layer.output for layer in model.layers if layer.name.startswith("bn")])
    scales = [np.asarray(output).std() for output in hidden(pictures((28, 28, 1), 0, 255, seed=2))]

    assert 0.2 < np.mean(gammas < 0) < 0.4
    assert all(0.3 < scale < 3 for scale in scales), scales


@pytest.mark.slow
@pytest.mark.parametrize("name", TOPOLOGIES)
def test_a_twin_is_the_same_network_without_batch_normalisation(name):
    model = TOPOLOGIES[name].build()
    twin = without_batchnorm(model)

    kinds = [[type(layer).__name__ for layer in network.layers] for network in (model, twin)]
    assert "BatchNormalization" in kinds[0]
    assert kinds[1] == ["_Nothing" if kind == "BatchNormalization" else kind for kind in kinds[0]]


@pytest.mark.slow
def test_the_tools_are_compared_and_the_missing_ones_named(tmp_path, capsys):
    written = tmp_path / "tools.json"

    status = evaluate_fold.main(["tools", "BN, Conv", "--json", str(written)])

    printed = capsys.readouterr().out
    records = {(r["tool"], r["form"]): r["residual"] for r in json.loads(written.read_text())}
    assert status == 0
    assert records["as exported", "Keras export"] == 2
    assert records["as exported", "BatchNormalization nodes"] == 1
    assert records["bnfold ort-cpu", "Keras export"] == records["bnfold fewest-ops", "BatchNormalization nodes"] == 0
    assert all((tool.package in printed) for tool in TOOLS.values())


@pytest.mark.slow
def test_a_network_is_evaluated(tmp_path, capsys):
    written = tmp_path / "networks.json"

    status = evaluate_fold.main(["networks", "reference", "--negative", "0", "--json", str(written)])

    records = json.loads(written.read_text())
    assert status == 0
    assert capsys.readouterr().out.startswith("| network ")
    assert [record["layers"] for record in records[:2]] == [5, 5]
    assert all(record["stayed"] == {} and record["affines_after"] == 0 for record in records)
    assert all(record["error_folded"] < 1e-5 for record in records)
    assert all(0 < record["error_of_the_fold"] < 1e-6 for record in records)
    assert records[0]["seconds"] > 0


@pytest.mark.slow
def test_the_benchmark_has_a_ratio_for_every_batch_size(tmp_path, capsys):
    written = tmp_path / "speed.json"

    status = benchmark_fold.main(["--batches", "1", "3", "--seconds", "0.01", "--json", str(written)])

    records = json.loads(written.read_text())
    assert status == 0
    assert [record["batch"] for record in records] == [1, 3]
    assert all(ratio > 0 for record in records for ratio in record["ratios"].values())
    assert capsys.readouterr().out.count("x |") == 8


@pytest.mark.slow
def test_the_benchmark_shows_where_the_time_goes(tmp_path, capsys):
    written = tmp_path / "speed.json"

    assert benchmark_fold.main(["--batches", "2", "--seconds", "0.01", "--operators", "--json", str(written)]) == 0

    (record,) = json.loads(written.read_text())
    unfolded, _, folded, cropped = record["operators"].values()
    affines = {"Conv 1x1 depthwise", "Mul", "Add"}
    assert affines <= set(unfolded)
    assert affines.isdisjoint(folded)
    assert "Slice" in cropped
    assert "| **sum** |" in capsys.readouterr().out


@pytest.mark.slow
def test_small_networks_are_timed_and_a_run_is_resumed(tmp_path, capsys):
    written = tmp_path / "speed.json"
    command = ["speed", "--batches", "1", "2", "--seconds", "0.01", "--json", str(written), "--resume"]

    first = evaluate_fold.main([*command, "bn bn conv"])
    before = json.loads(written.read_text())
    second = evaluate_fold.main([*command, "bn bn conv", "conv bn sigmoid"])

    records = json.loads(written.read_text())
    assert first == second == 0
    assert [(r["network"], r["batch"]) for r in records] == [
        (n, b) for n in ("conv bn sigmoid", "bn bn conv") for b in (1, 2)
    ]
    assert records[2:] == before
    assert all(value > 0 for record in records for value in record["milliseconds"].values())
    rows = capsys.readouterr().out.splitlines()[-3:]
    assert [row.split(" | ")[0] for row in rows] == ["| conv bn sigmoid", "| bn bn conv", "| **lowest**"]


def test_a_run_is_resumed_from_a_file_only(capsys):
    with pytest.raises(SystemExit) as refused:
        evaluate_fold.main(["speed", "--resume"])

    assert refused.value.code == 2
    assert "--resume: needs --json FILE" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["networks", "tools", "speed"])
def test_an_unknown_name_is_refused_with_the_known_ones(command, capsys):
    assert evaluate_fold.main([command, "ResNet51"]) == 2

    message = capsys.readouterr().err
    assert "'ResNet51' is not known" in message
    assert {"networks": "ResNet50", "tools": "BN, Conv", "speed": "bn bn conv"}[command] in message


@pytest.mark.slow
def test_the_statistics_that_the_converter_makes_inputs_get_their_values_back():
    layers = keras.layers
    inputs = keras.Input((8, 8, 3))
    norm = layers.Normalization(mean=(1.0, 2.0, 3.0), variance=(4.0, 5.0, 6.0), name="norm")
    model = keras.Model(inputs, layers.Conv2D(4, 3)(norm(inputs)))
    batch = np.random.default_rng(0).normal(0, 3, (2, 8, 8, 3)).astype(np.float32)
    expected = np.asarray(model(batch), np.float64)

    for export in (keras_export, batchnorm_export):
        proto = export(model)
        folded = bnfold.fold(proto).model

        assert len(proto.graph.input) == 1
        assert error(proto, batch, expected) < 1e-6
        assert error(folded, batch, expected) < 1e-6
        assert count(folded).affines == 0


@pytest.mark.parametrize("arguments", [["--networks", "ResNet51"], ["--targets", "fastest"], ["--batches", "0"]])
def test_the_benchmark_refuses_wrong_arguments(arguments, capsys):
    with pytest.raises(SystemExit) as refused:
        benchmark_fold.main(arguments)

    assert refused.value.code == 2
    assert arguments[0] in capsys.readouterr().err
