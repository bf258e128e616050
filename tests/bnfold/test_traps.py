"""Graphs that other tools fold wrongly: here each is folded exactly or left alone."""

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import bnfold
from tests.bnfold.graphs import TARGETS, bias, folded, model, operators, residuals, statistics, weights

CONV = {"w": weights(4, 3, 3, 3), "z": bias(4)}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("op", ["Mul", "Add"])
@pytest.mark.parametrize("shape", [(4, 1), (1, 4), (4, 1, 1, 1)])
def test_a_constant_as_long_as_the_channel_on_another_axis(shape: tuple[int, ...], op: str, target: str) -> None:
    text = f"(float[4,3,6,6] x) => (float[4,4,4,4] y) {{ c = Conv(x, w, z)  y = {op}(c, k) }}"
    graph = model(text, k=bias(4).reshape(shape), **CONV)
    assert operators(folded(graph, target).model) == ["Conv", op]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER"])
def test_auto_pad_is_padding_although_pads_is_absent(auto_pad: str, target: str) -> None:
    graph = model(
        f"""(float[N,4,8,8] x) => (float[N,5,8,8] y) {{
            n = BatchNormalization(x, g, b, m, v)  y = Conv<auto_pad="{auto_pad}">(n, w, z) }}""",
        w=weights(5, 4, 3, 3),
        z=bias(5),
        **statistics(4),
    )
    assert residuals(folded(graph, target).model) == 1


def test_gemm_with_alpha_and_beta() -> None:
    graph = model(
        """(float[N,5] x) => (float[N,5] y) {
            c = Gemm<alpha=2.0, beta=0.5>(x, w, z)  y = BatchNormalization(c, g, b, m, v) }""",
        w=weights(5, 5),
        z=bias(5),
        **statistics(5),
    )
    assert operators(folded(graph).model) == ["Gemm"]


@pytest.mark.parametrize("target", TARGETS)
def test_a_reshape_that_puts_channels_on_rows(target: str) -> None:
    graph = model(
        """(float[2,4,3,3] x) => (float[8,5] y) {
            n = BatchNormalization(x, g, b, m, v)  p = Reshape(n, s)  y = Gemm(p, w, z) }""",
        w=weights(9, 5),
        z=bias(5),
        s=np.array([8, 9]),
        **statistics(4),
    )
    assert residuals(folded(graph, target).model) == 1


@pytest.mark.parametrize("target", TARGETS)
def test_outputs_of_the_graph_in_between_keep_their_values(target: str) -> None:
    graph = model(
        """(float[N,3,8,8] x) => (float[N,4,6,6] c, float[N,4,6,6] n, float[N,5,4,4] y) {
            c = Conv(x, w, z)  n = BatchNormalization(c, g, b, m, v)  y = Conv(n, k, l) }""",
        k=weights(5, 4, 3, 3),
        l=bias(5),
        **CONV,
        **statistics(4),
    )
    result = folded(graph, target).model
    assert [value.name for value in result.graph.output] == ["c", "n", "y"]


def test_training_mode_is_not_inference() -> None:
    graph = model(
        """(float[4,3,8,8] x) => (float[4,4,6,6] y, float[4] p, float[4] q) {
            c = Conv(x, w, z)  y, p, q = BatchNormalization<training_mode=1>(c, g, b, m, v) }""",
        **CONV,
        **statistics(4),
    )
    assert operators(bnfold.fold(graph).model) == ["Conv", "BatchNormalization"]


def test_half_precision_weights_stay_half_precision() -> None:
    """Since opset 15 the statistics may be wider than the data; the convolution must not become of mixed types."""
    half = {name: array.astype(np.float16) for name, array in CONV.items()}
    wide = {name: array.astype(np.float32) for name, array in statistics(4).items()}
    graph = model(
        """(float16[N,3,8,8] x) => (float16[N,4,6,6] y) {
            c = Conv(x, w, z)  n = BatchNormalization(c, g, b, m, v)  y = Relu(n) }""",
        **half,
        **wide,
    )
    result = folded(graph, tolerance=5e-3).model
    assert operators(result) == ["Conv", "Relu"]
    assert {tensor.data_type for tensor in result.graph.initializer} == {onnx.TensorProto.FLOAT16}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("reader", ["p = MaxPool<kernel_shape=[2,2]>(n)", "p = Relu(n)"])
@pytest.mark.parametrize("gamma", [0.0, 1e-30, -1e-30])
def test_gamma_of_zero_or_nearly_is_never_divided_by(gamma: float, reader: str, target: str) -> None:
    graph = model(
        f"""(float[N,3,8,8] x) => (float[N,5,H,W] y) {{
            c = Conv(x, w, z)  r = Relu(c)  n = BatchNormalization(r, g, b, m, v)  {reader}  y = Conv(p, k, l) }}""",
        k=weights(5, 4, 3, 3),
        l=bias(5),
        **CONV,
        **(statistics(4) | {"g": np.array([gamma, 1.0, 0.5, gamma])}),
    )
    result = folded(graph, target).model
    for tensor in result.graph.initializer:
        assert np.isfinite(numpy_helper.to_array(tensor)).all()


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("sign", ["mixed", "negative"])
def test_the_sign_is_not_ignored_before_a_maximum(sign: str, target: str) -> None:
    graph = model(
        """(float[N,3,10,10] x) => (float[N,5,H,W] y) {
            c = Conv(x, w, z)  r = Relu(c)  n = BatchNormalization(r, g, b, m, v)
            p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(n)  y = Conv(p, k, l) }""",
        k=weights(5, 4, 3, 3),
        l=bias(5),
        **CONV,
        **statistics(4, sign),
    )
    assert residuals(folded(graph, target).model) == (1 if sign == "mixed" else 0)


@pytest.mark.parametrize("target", TARGETS)
def test_a_square_transpose_between_is_followed(target: str) -> None:
    """Channels, rows and columns are equally many: only tracking the axis tells them apart."""
    for perm in ([0, 2, 1, 3], [0, 3, 2, 1], [0, 2, 3, 1], [0, 1, 3, 2]):
        graph = model(
            f"""(float[N,4,4,4] x) => (float[N,5,2,2] y) {{
                n = BatchNormalization(x, g, b, m, v)  t = Transpose<perm={perm}>(n)  y = Conv(t, w, z) }}""",
            w=weights(5, 4, 3, 3),
            z=bias(5),
            **statistics(4),
        )
        assert residuals(folded(graph, target).model) == (0 if perm == [0, 1, 3, 2] else 1)


@pytest.mark.parametrize("target", TARGETS)
def test_weights_shared_by_two_convolutions_are_folded_once_each(target: str) -> None:
    graph = model(
        """(float[N,3,8,8] x) => (float[N,4,6,6] y, float[N,4,6,6] u) {
            c = Conv(x, w, z)  y = BatchNormalization(c, g, b, m, v)
            r = Relu(x)  d = Conv(r, w, z)  u = Mul(d, k) }""",
        k=bias(4).reshape(1, 4, 1, 1),
        **CONV,
        **statistics(4),
    )
    assert operators(folded(graph, target).model) == ["Conv", "Relu", "Conv"]


def test_an_expanding_multiplication_is_not_folded() -> None:
    graph = model(
        "(float[N,3,8,8] x) => (float[N,4,6,6] y) { c = Conv(x, w)  y = Mul(c, k) }",
        w=weights(1, 3, 3, 3),
        k=bias(4).reshape(4, 1, 1),
    )
    assert operators(folded(graph).model) == ["Conv", "Mul"]


@pytest.mark.parametrize("value", [0.0, 1.5])
def test_a_pad_with_a_value_before_a_convolution(value: float) -> None:
    graph = model(
        """(float[N,4,6,6] x) => (float[N,5,6,6] y) {
            n = BatchNormalization(x, g, b, m, v)  p = Pad(n, q, c)  y = Conv(p, w, z) }""",
        w=weights(5, 4, 3, 3),
        z=bias(5),
        q=np.array([0, 0, 1, 1, 0, 0, 1, 1]),
        c=np.array(value, np.float32),
        **statistics(4),
    )
    assert residuals(folded(graph).model) == 1


@pytest.mark.parametrize("target", TARGETS)
def test_read_by_a_convolution_and_by_a_relu(target: str) -> None:
    graph = model(
        """(float[N,3,8,8] x) => (float[N,5,6,6] y, float[N,3,8,8] u) {
            n = BatchNormalization(x, g, b, m, v)  y = Conv(n, w, z)  u = Relu(n) }""",
        w=weights(5, 3, 3, 3),
        z=bias(5),
        **statistics(3),
    )
    assert residuals(folded(graph, target).model) == 1


def test_transposed_weights_and_a_permuted_flatten() -> None:
    graph = model(
        """(float[N,3,2,4] x) => (float[N,5] y) {
            n = BatchNormalization(x, g, b, m, v)  t = Transpose<perm=[0,2,3,1]>(n)  f = Reshape(t, s)
            d = Gemm<transB=1>(f, w, z)  y = BatchNormalization(d, g5, b5, m5, v5) }""",
        w=weights(5, 24),
        z=bias(5),
        s=np.array([-1, 24]),
        **statistics(3, "mixed"),
        **{f"{name}5": array for name, array in statistics(5, "mixed").items()},
    )
    assert operators(folded(graph).model) == ["Reshape", "Gemm"]


@pytest.mark.parametrize("sigma", [1e-2, 1e-5])
def test_an_ill_conditioned_layer_is_kept_with_its_estimate(sigma: float) -> None:
    arrays: dict[str, Any] = statistics(4) | {"m": np.full(4, 50.0), "v": np.full(4, sigma**2)}
    graph = model(
        """(float[N,4,8,8] x) => (float[N,5,6,6] y) {
            n = BatchNormalization<epsilon=0.0>(x, g, b, m, v)  y = Conv(n, w, z) }""",
        w=weights(5, 4, 3, 3),
        z=bias(5),
        **arrays,
    )
    result = bnfold.fold(graph)
    (entry,) = result.report.entries
    assert operators(result.model) == ["BatchNormalization", "Conv"]
    assert entry.status == "kept"
    assert "ill-conditioned" in entry.rules[-1]
    assert entry.conditioning == pytest.approx(50 / sigma, rel=1e-4)
