"""Conv, ConvTranspose, Gemm and MatMul absorb affines: `bnfold.rules.linear`."""

from typing import Any

import numpy as np
import onnx
import pytest

import bnfold
from tests.bnfold.graphs import bias, folded, model, operators, residuals, statistics, weights


def backward(op: str, w: Any, data: tuple[int, ...], attributes: str = "", with_bias: bool = True) -> onnx.ModelProto:
    """An operator with weights `w` on data of shape (channels, …), then BatchNormalization."""
    operands = "x, w, z" if with_bias else "x, w"
    sizes, unknown = ",".join(map(str, data)), ",".join(f"D{i}" for i in range(len(data)))
    text = f"""(float[N,{sizes}] x) => (float[N,{unknown}] y) {{
        c = {op}<{attributes}>({operands})  y = BatchNormalization(c, g, b, m, v) }}"""
    outputs = w.shape[0] if op == "Conv" else w.shape[1] * groups(attributes)
    return model(text, w=w, **({"z": bias(outputs)} if with_bias else {}), **statistics(outputs, "mixed"))


def groups(attributes: str) -> int:
    """The `group` among attributes in text form."""
    return int(attributes.split("group=")[1].split(",", maxsplit=1)[0]) if "group=" in attributes else 1


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize(
    ("w", "data", "attributes"),
    [
        (weights(4, 3, 3, 3), (3, 8, 8), ""),
        (weights(4, 3, 3, 3), (3, 8, 8), "pads=[1,1,1,1], strides=[2,2]"),
        (weights(4, 3, 3, 3), (3, 9, 9), 'auto_pad="SAME_UPPER"'),
        (weights(4, 3, 2, 2), (3, 8, 8), "dilations=[2,2]"),
        (weights(6, 2, 3, 3), (4, 8, 8), "group=2"),
        (weights(8, 1, 3, 3), (4, 8, 8), "group=4"),
        (weights(4, 3, 3), (3, 9), ""),
        (weights(4, 2, 3, 3, 3), (2, 5, 5, 5), ""),
    ],
)
def test_conv_backward_takes_any_padding_stride_dilation_and_groups(
    w: Any, data: tuple[int, ...], attributes: str, with_bias: bool
) -> None:
    result = folded(backward("Conv", w, data, attributes, with_bias))
    assert operators(result.model) == ["Conv"]


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize(
    ("w", "attributes"),
    [
        (weights(3, 4, 3, 3), "strides=[2,2]"),
        (weights(4, 4, 3, 3), ""),  # square: a swapped axis would go unnoticed by shape alone
        (weights(4, 3, 3, 3), "group=2, pads=[1,1,1,1]"),
    ],
)
def test_conv_transpose_backward_scales_weight_axis_one(w: Any, attributes: str, with_bias: bool) -> None:
    result = folded(backward("ConvTranspose", w, (len(w), 5, 5), attributes, with_bias))
    assert operators(result.model) == ["ConvTranspose"]


def test_conv_backward_rule_1_weights_must_be_constant() -> None:
    graph = model(
        """(float[N,3,8,8] x, float[4,3,3,3] w) => (float[N,4,6,6] y) {
            c = Conv(x, w)  y = BatchNormalization(c, g, b, m, v) }""",
        **statistics(4),
    )
    result = bnfold.fold(graph)
    assert operators(result.model) == ["Conv", "BatchNormalization"]
    assert result.report.entries[0].status == "kept"


@pytest.mark.parametrize("shape", [(4,), (1, 1, 4, 1), (1, 1, 1, 4)])
def test_conv_backward_rule_2_a_constant_along_another_axis_stays(shape: tuple[int, ...]) -> None:
    """The trap of matching a constant by its length: four channels, four rows and four columns."""
    graph = model(
        "(float[N,3,6,6] x) => (float[N,4,4,4] y) { c = Conv(x, w, z)  y = Mul(c, k) }",
        w=weights(4, 3, 3, 3),
        z=bias(4),
        k=bias(4).reshape(shape),
    )
    assert operators(folded(graph).model) == ["Conv", "Mul"]


FORWARD = """(float[N,4,8,8] x) => (float[N,O,H,W] y) {{
    r = Sigmoid(x)  n = BatchNormalization(r, g, b, m, v)  y = {op}<{attributes}>(n, w, z) }}"""


def forward(op: str, w: Any, attributes: str = "", **replaced: Any) -> onnx.ModelProto:
    """Sigmoid, BatchNormalization, then an operator with weights `w`."""
    group = int(attributes.split("group=")[1].split(",", maxsplit=1)[0]) if "group=" in attributes else 1
    outputs = w.shape[0] if op == "Conv" else w.shape[1] * group
    arrays = {"w": w, "z": bias(outputs), **statistics(4, "mixed")} | replaced
    return model(FORWARD.format(op=op, attributes=attributes), **arrays)


@pytest.mark.parametrize(
    ("w", "attributes"),
    [
        (weights(5, 4, 3, 3), ""),
        (weights(5, 4, 3, 3), "strides=[2,2], dilations=[2,2]"),
        (weights(6, 2, 3, 3), "group=2"),
        (weights(8, 1, 3, 3), "group=4"),
        (weights(5, 4, 3, 3), 'auto_pad="VALID"'),
        (weights(5, 4, 1, 1), 'auto_pad="SAME_UPPER"'),
    ],
)
def test_conv_forward_takes_scale_and_shift(w: Any, attributes: str) -> None:
    assert operators(folded(forward("Conv", w, attributes)).model) == ["Sigmoid", "Conv"]


def test_conv_forward_rule_1_an_affine_on_the_weights_stays() -> None:
    graph = model(
        "(float[N,3,8,8] x, float[4,3,3,3] w) => (float[N,4,6,6] y) { k = Mul(w, s)  y = Conv(x, k) }",
        s=bias(3).reshape(1, 3, 1, 1),
    )
    assert operators(bnfold.fold(graph).model) == ["Mul", "Conv"]


def test_conv_forward_rule_2_weights_must_be_constant() -> None:
    graph = model(
        """(float[N,4,8,8] x) => (float[N,4,H,W] y) {
            r = Sigmoid(x)  n = BatchNormalization(r, g, b, m, v)  k = Abs(w)  y = Conv(n, k) }""",
        w=weights(4, 4, 3, 3),
        **statistics(4),
    )
    assert "BatchNormalization" in operators(folded(graph).model)


def test_conv_forward_rule_3_a_map_over_rows_stays() -> None:
    graph = model(
        "(float[N,4,6,6] x) => (float[N,5,4,4] y) { r = Sigmoid(x)  s = Mul(r, k)  y = Conv(s, w, z) }",
        k=bias(6).reshape(1, 1, 6, 1),
        w=weights(5, 4, 3, 3),
        z=bias(5),
    )
    assert operators(folded(graph).model) == ["Sigmoid", "Mul", "Conv"]


@pytest.mark.parametrize(
    "attributes", ["pads=[1,1,1,1]", "pads=[0,0,1,0]", 'auto_pad="SAME_UPPER"', 'auto_pad="SAME_LOWER"']
)
def test_conv_forward_rule_4_a_shift_does_not_pass_padding_but_a_scale_does(attributes: str) -> None:
    w = weights(5, 4, 3, 3)
    assert operators(folded(forward("Conv", w, attributes)).model) == ["Sigmoid", "BatchNormalization", "Conv"]
    centred = {"b": np.zeros(4), "m": np.zeros(4)}
    assert operators(folded(forward("Conv", w, attributes, **centred)).model) == ["Sigmoid", "Conv"]


@pytest.mark.parametrize("attributes", ["", "strides=[2,2]", "group=2"])
def test_conv_transpose_forward_rule_4_takes_a_scale_only(attributes: str) -> None:
    w = weights(4, 5, 3, 3)
    assert "BatchNormalization" in operators(folded(forward("ConvTranspose", w, attributes)).model)
    centred = {"b": np.zeros(4), "m": np.zeros(4)}
    assert operators(folded(forward("ConvTranspose", w, attributes, **centred)).model) == ["Sigmoid", "ConvTranspose"]


GEMM_ATTRIBUTES = ["", "alpha=2.0, beta=0.5", "transB=1", "transB=1, alpha=0.5, beta=3.0"]


@pytest.mark.parametrize("attributes", GEMM_ATTRIBUTES)
@pytest.mark.parametrize("z", [bias(5), bias(5).reshape(1, 5), bias(1), np.array(0.3), None])
def test_gemm_backward_multiplies_alpha_and_beta_in(attributes: str, z: Any) -> None:
    w = weights(5, 5)
    names = "x, w" if z is None else "x, w, z"
    graph = model(
        f"""(float[N,5] x) => (float[N,5] y) {{
            c = Gemm<{attributes}>({names})  y = BatchNormalization(c, g, b, m, v) }}""",
        w=w,
        **({} if z is None else {"z": z}),
        **statistics(5, "mixed"),
    )
    assert operators(folded(graph).model) == ["Gemm"]


@pytest.mark.parametrize("attributes", GEMM_ATTRIBUTES)
def test_gemm_forward_multiplies_alpha_and_beta_in(attributes: str) -> None:
    graph = model(
        f"""(float[N,5] x) => (float[N,5] y) {{
            r = Sigmoid(x)  n = BatchNormalization(r, g, b, m, v)  y = Gemm<{attributes}>(n, w, z) }}""",
        w=weights(5, 5),
        z=bias(5),
        **statistics(5, "mixed"),
    )
    assert operators(folded(graph).model) == ["Sigmoid", "Gemm"]


def test_gemm_forward_rule_1_transposed_data_stay() -> None:
    graph = model(
        """(float[4,4] x) => (float[4,5] y) {
            r = Sigmoid(x)  n = BatchNormalization(r, g, b, m, v)  y = Gemm<transA=1>(n, w, z) }""",
        w=weights(4, 5),
        z=bias(5),
        **statistics(4),
    )
    assert "BatchNormalization" in operators(folded(graph).model)


def test_gemm_rule_2_a_bias_along_the_batch_stays() -> None:
    graph = model(
        "(float[3,4] x) => (float[3,5] y) { c = Gemm(x, w, z)  y = BatchNormalization(c, g, b, m, v) }",
        w=weights(4, 5),
        z=bias(15).reshape(3, 5),
        **statistics(5),
    )
    assert operators(folded(graph).model) == ["Gemm", "BatchNormalization"]


def test_matmul_of_rank_three_keeps_its_bias_and_nothing_else() -> None:
    graph = model(
        """(float[N,6,4] x) => (float[N,6,3] y) {
            p = MatMul(x, w)  a = Add(p, z)  s = Mul(a, k)  t = Add(s, l)  r = Relu(t)
            s2 = Mul(r, k)  t2 = Add(s2, l)  p2 = MatMul(t2, w2)  y = Add(p2, z2) }""",
        w=weights(4, 5),
        z=bias(5),
        k=np.abs(bias(5, 3)) + 0.5,
        l=bias(5, 4),
        w2=weights(5, 3),
        z2=bias(3),
    )
    assert operators(folded(graph).model) == ["MatMul", "Add", "Relu", "MatMul", "Add"]


def test_matmul_rule_2_batchnorm_over_axis_one_of_rank_three_stays() -> None:
    """A square product: the lengths agree, the axes do not."""
    graph = model(
        "(float[N,4,4] x) => (float[N,4,4] y) { p = MatMul(x, w)  y = BatchNormalization(p, g, b, m, v) }",
        w=weights(4, 4),
        **statistics(4),
    )
    assert operators(folded(graph).model) == ["MatMul", "BatchNormalization"]


def test_matmul_with_the_weights_on_the_left_stays() -> None:
    graph = model(
        "(float[4,4] x) => (float[4,4] y) { s = Sigmoid(x)  n = Mul(s, k)  y = MatMul(w, n) }",
        w=weights(4, 4),
        k=bias(4),
    )
    assert operators(folded(graph).model) == ["Sigmoid", "Mul", "MatMul"]


def test_shared_weights_are_copied_not_changed() -> None:
    graph = model(
        """(float[N,3,8,8] x) => (float[N,4,6,6] y, float[N,4,6,6] u) {
            c = Conv(x, w, z)  y = BatchNormalization(c, g, b, m, v)  r = Relu(x)  u = Conv(r, w, z) }""",
        w=weights(4, 3, 3, 3),
        z=bias(4),
        **statistics(4),
    )
    assert residuals(folded(graph).model) == 0


def test_a_chain_of_folds_rounds_once() -> None:
    """Two affines into one convolution give the weights that float64 gives, rounded at the end."""
    w, first, second = weights(4, 4, 3, 3), np.float32(1 / 3), np.float32(1 / 7)
    graph = model(
        "(float[N,4,8,8] x) => (float[N,4,6,6] y) { a = Mul(x, p)  c = Conv(a, w)  y = Mul(c, q) }",
        w=w,
        p=np.full((1,), first),
        q=np.full((1,), second),
    )
    result = folded(graph).model
    exact = w.astype(np.float32).astype(np.float64) * np.float64(first) * np.float64(second)
    (written,) = (onnx.numpy_helper.to_array(t) for t in result.graph.initializer)
    np.testing.assert_array_equal(written, exact.astype(np.float32))
