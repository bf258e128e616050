"""Weights that stay in the file: the same fold, byte for byte, and the same errors."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import bnfold
from bnfold.files import load
from bnfold.mapped import LEAST, load_mapped
from tests.bnfold.graphs import bias, model, statistics, weights

WIDTH = 160
"""A matrix of 100 kB."""
TEXT = """(float[N,160] x) => (float[N,160] y) {
    n = BatchNormalization(x, g, b, m, v)  d = Gemm(n, w, z)  r = Relu(d)  e = MatMul(r, k)  y = Sigmoid(e) }"""


def network() -> onnx.ModelProto:
    """A fold reads w and leaves k; further initializers, read by nobody, are of every kind."""
    graph = model(TEXT, w=weights(WIDTH, WIDTH), k=weights(WIDTH, WIDTH, seed=1), z=bias(WIDTH), **statistics(WIDTH))
    helper.set_model_props(graph, {"author": "someone"})
    graph.graph.doc_string = "a network"
    return graph


def assert_same_fold(path: Path, mapped: set[str]) -> None:
    source = load_mapped(path)
    assert set(source.weights) == mapped
    assert all(not tensor.raw_data for tensor in source.model.graph.initializer if tensor.name in mapped)
    found, expected = bnfold.fold(source.model, weights=source.weights), bnfold.fold(load(path))
    assert found.model.SerializeToString(deterministic=True) == expected.model.SerializeToString(deterministic=True)
    assert found.report == expected.report


def test_large_weights_stay_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(network(), path)
    assert_same_fold(path, {"w", "k"})
    assert len(load_mapped(path).model.SerializeToString()) < LEAST


def test_an_array_of_the_file_has_its_values_and_type(tmp_path: Path) -> None:
    arrays = {
        "half": weights(200, 200).astype(np.float16),
        "double": weights(3, 100, 100),
        "whole": np.arange(40_000),
        "short": bias(40).astype(np.float32),
    }
    graph, path = network(), tmp_path / "net.onnx"
    graph.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in arrays.items())
    onnx.save(graph, path)
    found = load_mapped(path).weights
    assert set(found) == {"w", "k", "half", "double"}
    for name in ("half", "double"):
        assert found[name].numpy().dtype == arrays[name].dtype
        np.testing.assert_array_equal(found[name].numpy(), arrays[name])


def test_a_tensor_that_says_more_than_its_type_and_shape_is_read_with_the_model(tmp_path: Path) -> None:
    graph, path = network(), tmp_path / "net.onnx"
    graph.graph.initializer[0].doc_string = "of some layer"
    numbers = numpy_helper.to_array(graph.graph.initializer[1]).reshape(-1)
    graph.graph.initializer[1].CopyFrom(helper.make_tensor("k", onnx.TensorProto.FLOAT, [WIDTH, WIDTH], numbers))
    onnx.save(graph, path)
    assert_same_fold(path, set())


def test_weights_in_a_second_file_are_read_with_the_model(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(network(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert_same_fold(path, set())


@pytest.mark.parametrize("size", [0, 1, 50, 5000, 150_000, -1])
def test_a_damaged_file_is_refused_as_always(size: int, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(network().SerializeToString()[:size])
    with pytest.raises(bnfold.InputError) as expected:
        bnfold.fold(load(path))
    with pytest.raises(bnfold.InputError) as found:
        bnfold.fold(load_mapped(path).model)
    assert str(found.value) == str(expected.value)


def test_too_little_data_for_the_shape_is_refused(tmp_path: Path) -> None:
    graph, path = network(), tmp_path / "net.onnx"
    graph.graph.initializer[0].raw_data = graph.graph.initializer[0].raw_data[:-4]
    onnx.save(graph, path)
    source = load_mapped(path)
    with pytest.raises(bnfold.InputError, match="initializer w has"):
        bnfold.fold(source.model, weights=source.weights)


def test_the_result_may_take_the_place_of_the_source(tmp_path: Path) -> None:
    from bnfold.__main__ import main

    path, other = tmp_path / "net.onnx", tmp_path / "other.onnx"
    onnx.save(network(), path)
    assert main(["fold", str(path), str(other)]) == 0
    assert main(["fold", str(path), str(path)]) == 0
    assert path.read_bytes() == other.read_bytes()
