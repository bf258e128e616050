"""Models as exporters write them: versions, Constant nodes, listed initializers, static batches, custom operators."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

import bnfold
from bnfold.files import load
from tests.bnfold.graphs import bias, folded, model, operators, residuals, statistics, weights

TEXT = """({kind}[{batch},3,8,8] x) => ({kind}[{batch},5,H,W] y) {{
    c = Conv(x, w, z)  n = BatchNormalization(c, g, b, m, v)  r = Relu(n)
    p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r)  n2 = BatchNormalization(p, g, b, m, v)  y = Conv(n2, k, l) }}"""
ARRAYS = {"w": weights(4, 3, 3, 3), "z": bias(4), "k": weights(5, 4, 2, 2), "l": bias(5), **statistics(4)}


@pytest.mark.parametrize("opset", [11, 13, 14, 15, 18, 21, 23])
def test_every_opset_from_eleven(opset: int) -> None:
    graph = model(TEXT.format(kind="float", batch="N"), opset, **ARRAYS)
    graph.ir_version = 8 if opset < 21 else 10
    result = folded(graph).model
    assert operators(result) == ["Conv", "Relu", "MaxPool", "Conv"]
    assert result.opset_import == graph.opset_import


def test_an_older_opset_is_refused_with_a_hint() -> None:
    graph = model("(float[N,3] x) => (float[N,3] y) { y = Mul(x, k) }", 10, k=bias(3))
    with pytest.raises(bnfold.InputError, match="opset 10; 11 or newer"):
        bnfold.fold(graph)


def test_an_unknown_target_is_refused_with_the_choices() -> None:
    graph = model("(float[N,3] x) => (float[N,3] y) { y = Mul(x, k) }", k=bias(3))
    with pytest.raises(bnfold.InputError, match="choose one of ort-cpu, ort-cpu-winograd, fewest-ops, generic"):
        bnfold.fold(graph, target="gpu")


def test_an_invalid_model_is_refused() -> None:
    graph = model("(float[N,3] x) => (float[N,3] y) { y = Mul(x, k) }", k=bias(3))
    graph.graph.node[0].input[0] = "nowhere"
    with pytest.raises(bnfold.InputError, match="not a valid ONNX model"):
        bnfold.fold(graph)


@pytest.mark.parametrize("batch", ["1", "3", "N"])
def test_static_and_dynamic_batches(batch: str) -> None:
    graph = model(TEXT.format(kind="float", batch=batch), **ARRAYS)
    result = folded(graph).model
    assert residuals(result) == 0
    assert result.graph.input == graph.graph.input
    assert [value.name for value in result.graph.output] == ["y"]


def test_double_precision_keeps_its_precision() -> None:
    graph = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["": 18]> g (double[N,4] x) => (double[N,3] y) {
            n = BatchNormalization(x, g, b, m, v)  y = Gemm(n, w, z) }"""
    )
    arrays: dict[str, Any] = {"w": weights(4, 3), "z": bias(3), **statistics(4)}
    graph.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in arrays.items())
    assert operators(folded(graph, tolerance=1e-14).model) == ["Gemm"]


def as_constants(graph: onnx.ModelProto) -> onnx.ModelProto:
    """The same model with Constant nodes in place of initializers, as PyTorch writes some."""
    constants = [helper.make_node("Constant", [], [tensor.name], value=tensor) for tensor in graph.graph.initializer]
    nodes = [*constants, *graph.graph.node]
    del graph.graph.node[:], graph.graph.initializer[:]
    graph.graph.node.extend(nodes)
    return graph


def test_constant_nodes() -> None:
    graph = as_constants(model(TEXT.format(kind="float", batch="N"), **ARRAYS))
    assert operators(folded(graph).model) == ["Conv", "Relu", "MaxPool", "Conv"]


def listed(ir_version: int) -> onnx.ModelProto:
    """The model with every initializer listed among the inputs."""
    graph = model(TEXT.format(kind="float", batch="N"), 11, **ARRAYS)
    graph.ir_version = ir_version
    graph.graph.input.extend(
        helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in graph.graph.initializer
    )
    return graph


def test_initializers_listed_as_inputs_by_an_old_format_are_constants() -> None:
    result = bnfold.fold(listed(3)).model
    onnx.checker.check_model(result, full_check=True)
    assert operators(result) == ["Conv", "Relu", "MaxPool", "Conv"]
    assert [value.name for value in result.graph.input] == ["x"]


def test_initializers_that_a_caller_may_replace_are_not_constant() -> None:
    graph = listed(8)
    result = bnfold.fold(graph)
    assert operators(result.model) == operators(graph)
    assert [value.name for value in result.model.graph.input] == [value.name for value in graph.graph.input]
    assert all("not constant" in entry.rules[0] for entry in result.report.entries)


def test_external_data_are_read(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    graph = model(TEXT.format(kind="float", batch="N"), **ARRAYS)
    onnx.save(graph, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    loaded = load(path)
    result = bnfold.fold(loaded).model
    assert residuals(result) == 0
    assert bnfold.verify(loaded, result).holds


def test_missing_external_data_name_the_file(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    graph = model(TEXT.format(kind="float", batch="N"), **ARRAYS)
    onnx.save(graph, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(bnfold.InputError, match=r"model\.onnx: its external data cannot be read"):
        load(path)


def test_metadata_and_names_are_kept() -> None:
    graph = model(TEXT.format(kind="float", batch="N"), **ARRAYS)
    helper.set_model_props(graph, {"author": "someone"})
    graph.producer_name, graph.domain, graph.doc_string = "exporter", "example.org", "a net"
    result = bnfold.fold(graph).model
    for field in ("metadata_props", "producer_name", "domain", "doc_string", "ir_version"):
        assert getattr(result, field) == getattr(graph, field)
    assert result.graph.name == graph.graph.name


def test_an_operator_of_another_domain_stops_the_affine() -> None:
    graph = model(TEXT.format(kind="float", batch="N"), **ARRAYS)
    graph.graph.node[2].domain = "com.example"
    graph.opset_import.append(helper.make_opsetid("com.example", 1))
    result = bnfold.fold(graph).model
    assert operators(result) == ["Conv", "Relu", "MaxPool", "BatchNormalization", "Conv"]


def test_branches_that_read_an_outer_tensor_keep_the_affine() -> None:
    """A subgraph reads the layer's output: it must see the true values."""
    graph = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["": 18]> g (float[N,3,8,8] x, bool flag) => (float[N,4,6,6] y) {
            c = Conv(x, w, z)  s = Sigmoid(c)  n = BatchNormalization(s, g, b, m, v)
            y = If (flag) <
                then_branch = t () => (float[N,4,6,6] o) { o = Relu(n) },
                else_branch = e () => (float[N,4,6,6] q) { q = Sigmoid(n) }>
        }"""
    )
    arrays: dict[str, Any] = {"w": weights(4, 3, 3, 3), "z": bias(4), **statistics(4)}
    graph.graph.initializer.extend(
        numpy_helper.from_array(array.astype(np.float32), name) for name, array in arrays.items()
    )
    result = bnfold.fold(graph).model
    onnx.checker.check_model(result, full_check=True)
    assert operators(result) == ["Conv", "Sigmoid", "BatchNormalization", "If"]
    for flag in (True, False):
        inputs = {"x": np.float32(weights(2, 3, 8, 8)), "flag": np.array(flag)}
        runs = [
            ort.InferenceSession(g.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, inputs)[0]
            for g in (graph, result)
        ]
        np.testing.assert_array_equal(*runs)


def test_the_same_bytes_whatever_the_hash_seed(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(model(TEXT.format(kind="float", batch="N"), **ARRAYS), path)
    outputs = []
    for seed in ("1", "2"):
        target = tmp_path / f"{seed}.onnx"
        command = [sys.executable, "-m", "bnfold", "fold", str(path), str(target)]
        root = Path(__file__).parents[2]
        subprocess.run(command, check=True, cwd=root, env={"PYTHONHASHSEED": seed}, capture_output=True)
        outputs.append(target.read_bytes())
    assert outputs[0] == outputs[1]
