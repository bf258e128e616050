"""Files: the bytes that protobuf would write, weights in a second file where one is too small, all or nothing."""

import itertools
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

import bnfold
from bnfold import files
from bnfold.files import load, save, write
from bnfold.wire import wire, wire_size
from tests.bnfold.graphs import bias, model, statistics, weights

TEXT = """(float[N,3,8,8] x) => (float[N,6] y) {
    c = Conv(x, w, z)  r = Relu(c)  n = BatchNormalization(r, g, b, m, v)  f = Flatten(n)  y = Gemm(f, k, l) }"""
ARRAYS = {"w": weights(16, 3, 3, 3), "z": bias(16), "k": weights(576, 6), "l": bias(6), **statistics(16)}


def network() -> onnx.ModelProto:
    graph = model(TEXT, **ARRAYS)
    helper.set_model_props(graph, {"author": "someone", "licence": "free"})
    graph.graph.initializer[1].doc_string = "a bias"  # A field behind the data.
    graph.graph.initializer.append(helper.make_tensor("listed", onnx.TensorProto.FLOAT, [2], [1.0, 2.0]))  # Not raw.
    return graph


@pytest.mark.parametrize("graph", [network(), onnx.ModelProto(), onnx.ModelProto(ir_version=300, domain="a" * 200)])
def test_the_bytes_are_those_of_protobuf(graph: onnx.ModelProto) -> None:
    pieces = list(wire(graph))
    assert b"".join(pieces) == graph.SerializeToString(deterministic=True)
    assert wire_size(graph) == pytest.approx(sum(map(len, pieces)), abs=100)
    largest = max((len(tensor.raw_data) for tensor in graph.graph.initializer), default=10**9)
    assert max(map(len, pieces)) <= max(largest, 1000)


def test_a_model_too_large_for_one_file_gets_a_second_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "LARGEST_FILE", 8000)
    graph, path = network(), tmp_path / "new" / "net.onnx"

    save(graph, path)

    model_file, data_file = sorted(path.parent.iterdir(), key=lambda found: len(found.name))
    stubs = {tensor.name: tensor for tensor in onnx.load(path, load_external_data=False).graph.initializer}
    outside = {name for name, tensor in stubs.items() if tensor.data_location == onnx.TensorProto.EXTERNAL}
    assert (model_file, data_file.suffix) == (path, ".data")
    assert outside == {"w", "k"}
    offsets = [int(e.value) for name in outside for e in stubs[name].external_data if e.key == "offset"]
    assert all(offset % 4096 == 0 for offset in offsets)
    arrays = [{t.name: numpy_helper.to_array(t) for t in m.graph.initializer} for m in (graph, load(path))]
    assert list(arrays[0]) == list(arrays[1])
    assert all(np.array_equal(arrays[0][name], arrays[1][name]) for name in arrays[0])
    x = np.float32(weights(2, 3, 8, 8))
    runs = [ort.InferenceSession(m).run(None, {"x": x})[0] for m in (graph.SerializeToString(), str(path))]
    np.testing.assert_array_equal(*runs)
    before = model_file.read_bytes(), data_file.read_bytes()
    save(graph, path)
    assert (model_file.read_bytes(), data_file.read_bytes()) == before
    assert len(list(path.parent.iterdir())) == 2


def test_a_model_too_large_for_one_file_is_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = network()
    result = bnfold.fold(graph).model
    expected = bnfold.verify(graph, result)
    monkeypatch.setattr(sys.modules["bnfold.verify"], "LARGEST_FILE", 100)
    assert bnfold.verify(graph, result) == expected
    assert expected.holds


def test_nothing_is_left_of_a_file_that_could_not_be_written(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(b"old")

    def failing() -> itertools.chain[bytes]:
        return itertools.chain([b"new"], (bytes(1 // zero) for zero in (0,)))

    with pytest.raises(ZeroDivisionError):
        write(path, failing())

    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_tensor_of_values_is_written_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    save(network(), path)
    listed = next(tensor for tensor in load(path).graph.initializer if tensor.name == "listed")
    assert numpy_helper.to_array(listed).tolist() == [1, 2]
    assert path.stat().st_mode & 0o777 == 0o644
