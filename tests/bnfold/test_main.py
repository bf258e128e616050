"""The command line: what it prints, writes and returns."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from bnfold.__main__ import main
from tests.bnfold.graphs import bias, model, operators, statistics, weights

TEXT = """(float[N,3,8,8] x) => (float[N,5] y) {
    c = Conv(x, w, z)  r = Relu(c)  [middle] n = BatchNormalization(r, g, b, m, v)
    f = Flatten(n)  d = Gemm(f, k, l)  y = Softmax(d) }"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A small network in a file."""
    arrays = {"w": weights(4, 3, 3, 3), "z": bias(4), "k": weights(144, 5), "l": bias(5), **statistics(4)}
    path = tmp_path / "net.onnx"
    onnx.save(model(TEXT, **arrays), path)
    return path


def test_fold_writes_the_model_and_the_report(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result, report = tmp_path / "new" / "folded.onnx", tmp_path / "report.json"
    assert main(["fold", str(source), str(result), "--report", str(report), "--verify"]) == 0
    assert operators(onnx.load(result)) == ["Conv", "Relu", "Flatten", "Gemm", "Softmax"]
    (entry,) = json.loads(report.read_text())["entries"]
    assert (entry["name"], entry["status"], entry["into"]) == ("middle", "folded", ["Gemm_d"])
    assert entry["tap"]["scale"] == [1.0, 1.0, 1.0, 1.0]
    printed = capsys.readouterr().out
    assert "middle" in printed
    assert "BatchNormalization  1       0" in printed
    assert not list(tmp_path.glob("**/.*"))


def test_a_target_can_save_arithmetic_at_the_price_of_taps(source: Path, tmp_path: Path) -> None:
    text = """(float[N,32,13,13] x) => (float[N,64,5,5] y) {
        c = Conv(x, w, z)  r = Relu(c)  n = BatchNormalization(r, g, b, m, v)
        y = MaxPool<kernel_shape=[2,2], strides=[2,2]>(n) }"""
    result, report = tmp_path / "folded.onnx", tmp_path / "report.json"
    onnx.save(model(text, w=weights(64, 32, 3, 3), z=bias(64), **statistics(64)), source)
    for target, tap in (("ort-cpu", {"tensor": "r", "axis": 1}), ("ort-cpu-winograd", None)):
        command = ["fold", str(source), str(result), "--report", str(report), "--verify", "--target", target]

        assert main(command) == 0

        (entry,) = json.loads(report.read_text())["entries"]
        assert bool(entry["tap_reason"]) == (tap is None)
        assert tap is None or tap.items() <= entry["tap"].items()
        assert ("Slice" in operators(onnx.load(result))) == (tap is None)


def test_verify_accepts_the_fold_and_writes_a_certificate(source: Path, tmp_path: Path) -> None:
    result, certificate = tmp_path / "folded.onnx", tmp_path / "certificate.json"
    real = tmp_path / "real.npz"
    np.savez(real, x=weights(6, 3, 8, 8).astype(np.float32))
    assert main(["fold", str(source), str(result)]) == 0
    command = ["verify", str(source), str(result), "--inputs", str(real), "--certificate", str(certificate)]
    assert main(command) == 0
    written = json.loads(certificate.read_text())
    assert written["inputs"] == {"real": 6, "random": 8, "border": 8, "extreme": 8}
    assert written["batch_sizes"] == [1, 6, 8]
    assert written["max_abs_error_logits"] < 1e-5
    assert written["argmax_agreement"] == 1.0
    assert 0 < written["smallest_margin"] < 1


def test_verify_rejects_another_function_with_status_3(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = onnx.load(source)
    changed = numpy_helper.to_array(wrong.graph.initializer[0]).copy()
    changed[0, 0, 0, 0] += 0.01
    wrong.graph.initializer[0].CopyFrom(numpy_helper.from_array(changed, wrong.graph.initializer[0].name))
    other = tmp_path / "other.onnx"
    onnx.save(wrong, other)
    assert main(["verify", str(source), str(other)]) == 3
    assert "not the same function: relative error" in capsys.readouterr().err


def test_a_failed_verification_writes_nothing(source: Path, tmp_path: Path) -> None:
    result, report = tmp_path / "folded.onnx", tmp_path / "report.json"
    command = ["fold", str(source), str(result), "--report", str(report), "--verify", "--tolerance", "0"]
    assert main(command) == 3
    assert {path.name for path in tmp_path.iterdir()} == {"net.onnx"}


def test_inspect_prints_the_table_and_writes_nothing(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(source)]) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[0].split() == ["LAYER", "STATUS", "INTO", "STAYS", "|MEAN|/SIGMA", "HOW"]
    assert "forward into Gemm Gemm_d" in printed
    assert {path.name for path in tmp_path.iterdir()} == {"net.onnx"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file"),
        (b"this is no model", "not an ONNX model"),
        (b"", "opset 0; 11 or newer is needed"),
    ],
)
def test_bad_input_is_one_clear_line_and_status_2(
    content: bytes | None, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.onnx"
    if content is not None:
        path.write_bytes(content)
    assert main(["fold", str(path), str(tmp_path / "out.onnx")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("bnfold: ")
    assert message in line
    assert not (tmp_path / "out.onnx").exists()


def test_inputs_of_other_names_are_refused(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    real = tmp_path / "real.npz"
    np.savez(real, image=np.zeros((1, 3, 8, 8), np.float32))
    assert main(["verify", str(source), str(source), "--inputs", str(real)]) == 2
    assert "inputs must be given for exactly x" in capsys.readouterr().err
