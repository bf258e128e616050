"""What goes in and comes out is valid: onnx's own checker says so, and the data are those of type and shape."""

from pathlib import Path

import onnx
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper

import bnfold
from bnfold.__main__ import main
from bnfold.check import graph_fault, weights_fault
from tests.bnfold.graphs import bias, model, operators, statistics, weights

TEXT = "(float[N,40] x) => (float[N,30] y) { r = Relu(x)  n = BatchNormalization(r, g, b, m, v)  y = Gemm(n, w, z) }"


def network() -> onnx.ModelProto:
    return model(TEXT, w=weights(40, 30), z=bias(30), **statistics(40))


def test_a_valid_model_has_no_fault() -> None:
    assert graph_fault(network(), full=True) == weights_fault(network()) == ""


def test_weights_are_seen_by_their_type_and_shape() -> None:
    """The matrix stands as an input in what is checked: its shape must still fit."""
    graph = network()
    graph.graph.initializer[0].CopyFrom(numpy_helper.from_array(weights(41, 30).astype("f"), "w"))
    with pytest.raises(onnx.shape_inference.InferenceError):
        onnx.checker.check_model(graph, full_check=True)
    assert "between 41 and 40" in graph_fault(graph, full=True)


@pytest.mark.parametrize("field", ["raw", "float"])
def test_weights_with_too_little_data_are_refused(field: str) -> None:
    graph = network()
    tensor = graph.graph.initializer[0]
    if field == "raw":
        tensor.raw_data = tensor.raw_data[:-4]
    else:
        tensor.CopyFrom(helper.make_tensor("w", onnx.TensorProto.FLOAT, [1200], [1.0] * 1200))
        tensor.dims[:] = [40, 40]
    with pytest.raises(bnfold.InputError, match=r"not a valid ONNX model: .*(4796 bytes|too small)"):
        bnfold.fold(graph)


def test_weights_that_were_not_loaded_are_refused() -> None:
    graph = network()
    tensor = graph.graph.initializer[0]
    onnx.external_data_helper.set_external_data(tensor, "weights.bin")
    tensor.ClearField("raw_data")
    with pytest.raises(bnfold.InputError, match="initializer w are in another file, which was not loaded"):
        bnfold.fold(graph)


def test_an_invalid_result_is_never_returned_or_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistake of a pass: it leaves a node that reads a tensor which is gone."""
    onnx.save(network(), tmp_path / "net.onnx")
    whole = ir.to_proto

    def broken(graph: ir.Model) -> onnx.ModelProto:
        proto: onnx.ModelProto = whole(graph)
        proto.graph.node[-1].input[0] = "gone"
        return proto

    monkeypatch.setattr(ir, "to_proto", broken)
    with pytest.raises(bnfold.VerificationError, match=r"not valid, which is a mistake of the compiler: .*gone"):
        bnfold.fold(network())
    assert main(["fold", str(tmp_path / "net.onnx"), str(tmp_path / "out.onnx")]) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]


def test_a_model_that_fails_the_full_check_itself_comes_back_with_a_note() -> None:
    """Its shapes contradict each other, so none is inferred and nothing can be folded."""
    graph = network()
    graph.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 31
    result = bnfold.fold(graph)
    assert operators(result.model) == operators(graph)
    assert "full check" in result.report.notes[-1]
    onnx.checker.check_model(result.model)
