"""The certificate and what it rests on: the evaluator in float64 and the generated inputs."""

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper

import bnfold
from bnfold.evaluate import Float64Evaluator
from bnfold.samples import samples
from tests.bnfold.graphs import bias, model, statistics, weights


@pytest.mark.parametrize(
    "node",
    [
        "Conv<pads=[1,0,1,2], strides=[2,1], dilations=[1,2]>(x, w, z)",
        'Conv<auto_pad="SAME_UPPER", strides=[2,2]>(x, w, z)',
        'Conv<auto_pad="SAME_LOWER">(x, w)',
        "Conv<group=2>(x, u, z)",
        "ConvTranspose<strides=[2,3], pads=[1,0,0,1], output_padding=[1,0]>(x, t)",
        "ConvTranspose<dilations=[2,1], group=2>(x, t)",
        'ConvTranspose<strides=[2,2], auto_pad="SAME_UPPER">(x, t)',
        'ConvTranspose<strides=[2,2], auto_pad="SAME_LOWER">(x, t)',
        "MaxPool<kernel_shape=[3,2], strides=[2,2], pads=[1,0,1,1]>(x)",
        "MaxPool<kernel_shape=[3,3], strides=[2,2], ceil_mode=1>(x)",
        "MaxPool<kernel_shape=[2,2], dilations=[2,2]>(x)",
        'MaxPool<kernel_shape=[3,3], strides=[2,2], auto_pad="SAME_UPPER">(x)',
        "AveragePool<kernel_shape=[3,3], pads=[1,1,1,1]>(x)",
        "AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=1>(x)",
        "BatchNormalization(x, g, b, m, v)",
    ],
)
def test_the_evaluator_agrees_with_onnx_runtime_to_single_precision(node: str) -> None:
    arrays: dict[str, Any] = {
        "w": weights(6, 4, 3, 3),
        "u": weights(6, 2, 3, 3),
        "t": weights(4, 5, 3, 3),
        "z": bias(6),
    }
    graph = model(f"(float[N,4,9,8] x) => (float[N,C,H,W] y) {{ y = {node} }}", **arrays, **statistics(4))
    x = np.random.default_rng(0).normal(size=(2, 4, 9, 8)).astype(np.float32)
    found = Float64Evaluator(graph)({"x": x})["y"]
    session = ort.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = session.run(None, {"x": x})[0]
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_the_evaluator_really_computes_in_float64() -> None:
    graph = model(
        "(float[N,1] x) => (float[N,1] y) { h = Cast<to=1>(x)  p = Add(h, big)  y = Sub(p, big) }",
        big=np.full(1, 2.0**40),
    )
    assert float(Float64Evaluator(graph)({"x": np.full((1, 1), 0.25, np.float32)})["y"][0, 0]) == 0.25


def pair() -> tuple[onnx.ModelProto, onnx.ModelProto]:
    reference = model(
        """(float[N,3,8,8] x) => (float[N,5] y) {
            c = Conv(x, w, z)  n = BatchNormalization(c, g, b, m, v)
            f = Flatten(n)  d = Gemm(f, k, l)  y = Softmax(d) }""",
        w=weights(4, 3, 3, 3),
        z=bias(4),
        k=weights(144, 5),
        l=bias(5),
        **statistics(4),
    )
    return reference, bnfold.fold(reference).model


def test_the_certificate_of_a_fold() -> None:
    reference, result = pair()
    certificate = bnfold.verify(reference, result)
    assert certificate.holds
    assert certificate.inputs == {"random": 8, "border": 8, "extreme": 8}
    assert certificate.batch_sizes == (1, 8)
    assert 0 < certificate.max_abs_error < 1e-5
    assert certificate.max_abs_error_logits is not None
    mean, sigma = (np.float32(statistics(4)[k]).astype(float) for k in ("m", "v"))
    assert certificate.conditioning == pytest.approx(np.max(np.abs(mean) / np.sqrt(sigma + 1e-5)), rel=1e-6)
    assert bnfold.verify(reference, result) == certificate


def test_an_error_at_the_border_alone_is_found() -> None:
    """Energy at the borders shows a shift folded past zero padding."""
    text = """(float[N,3,8,8] x) => (float[N,4,8,8] y) {{ n = Add(x, {}) y = Conv<pads=[1,1,1,1]>(n, w, {}) }}"""
    w, t = weights(4, 3, 3, 3), bias(3)
    reference = model(text.format("t", "z"), w=w, t=t.reshape(3, 1, 1), z=np.zeros(4))
    moved = (w.sum(axis=(2, 3)) * t).sum(axis=1)
    wrong = model(text.format("t", "z"), w=w, t=np.zeros((3, 1, 1)), z=moved)
    assert not bnfold.verify(reference, wrong).holds


def test_a_shifted_logit_is_found_although_softmax_hides_it() -> None:
    reference, result = pair()
    index = next(i for i, t in enumerate(result.graph.initializer) if t.dims == [5])
    tensor = result.graph.initializer[index]
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) + np.float32(1), tensor.name))
    certificate = bnfold.verify(reference, result)
    assert certificate.max_abs_error < 1e-5
    assert not certificate.holds


def test_differing_signatures_are_refused() -> None:
    reference, result = pair()
    result.graph.output[0].name = result.graph.node[-1].output[0] = "other"
    with pytest.raises(bnfold.InputError, match="the outputs differ: y in the reference, other folded"):
        bnfold.verify(reference, result)


def test_an_unknown_size_asks_for_real_inputs() -> None:
    graph = model("(float[N,3,H,W] x) => (float[N,3,H,W] y) { y = Relu(x) }")
    with pytest.raises(bnfold.InputError, match=r"input x has shape .* give real inputs"):
        bnfold.verify(graph, graph)
    assert bnfold.verify(graph, graph, {"x": np.zeros((2, 3, 5, 4), np.float32)}).holds


def test_the_kinds_of_inputs() -> None:
    graph = model("(uint8[N,6,6,1] x) => (uint8[N,6,6,1] y) { y = Identity(x) }")
    kinds = {kind: batch["x"] for kind, batch in samples(graph).items()}
    assert all(array.dtype == np.uint8 and array.shape == (8, 6, 6, 1) for array in kinds.values())
    assert not kinds["border"][:, 1:-1, 1:-1].any()
    assert kinds["border"][:, 0].any()
    lowest, highest, checkered, inverse = kinds["extreme"][:4, :, :, 0]
    assert (lowest == 0).all()
    assert (highest == 255).all()
    np.testing.assert_array_equal(checkered.astype(int) + inverse, 255)
    assert checkered[0, 0] != checkered[0, 1] != checkered[1, 1]
