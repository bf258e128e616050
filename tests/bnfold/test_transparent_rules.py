"""Operators that let an affine through: `bnfold.rules.laws` and `bnfold.rules.movement`."""

from typing import Any

import numpy as np
import pytest

import bnfold
from tests.bnfold.graphs import bias, folded, model, operators, residuals, statistics, weights


def through(nodes: str, last: Any, sign: str = "mixed", data: str = "4,8,8", opset: int = 18, **arrays: Any) -> Any:
    """Sigmoid, BatchNormalization, `nodes` from n to p, then a Conv (or a Gemm where `last` is a matrix)."""
    op = "Conv" if np.ndim(last) > 2 else "Gemm"
    outputs = last.shape[0] if op == "Conv" else last.shape[1]
    unknown = "N,O,H,W" if op == "Conv" else "N,O"
    return model(
        f"""(float[N,{data}] x) => (float[{unknown}] y) {{
            r = Sigmoid(x)  n = BatchNormalization(r, g, b, m, v)  {nodes}  y = {op}(p, w, z) }}""",
        opset,
        w=last,
        z=bias(outputs),
        **(statistics(4, sign) | arrays),
    )


CONV = weights(5, 4, 2, 2)


@pytest.mark.parametrize(
    ("nodes", "last", "arrays"),
    [
        ("p = AveragePool<kernel_shape=[2,2]>(n)", CONV, {}),
        ("p = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1]>(n)", CONV, {}),
        ("p = AveragePool<kernel_shape=[3,3], strides=[2,2], ceil_mode=1>(n)", CONV, {}),
        ("q = GlobalAveragePool(n)  p = Flatten(q)", weights(4, 5), {}),
        ("p = ReduceMean<keepdims=0>(n, a)", weights(4, 5), {"a": np.array([2, 3])}),
        ("q = ReduceMean<keepdims=1>(n, a)  p = Flatten(q)", weights(4, 5), {"a": np.array([-1, -2])}),
        ('p = Resize<mode="nearest">(n, , s)', CONV, {"s": np.array([1, 1, 2, 2], np.float32)}),
        ('p = Resize<mode="linear">(n, , s)', CONV, {"s": np.array([1, 1, 2, 2], np.float32)}),
        ('p = Resize<mode="cubic">(n, , s)', CONV, {"s": np.array([1, 1, 2, 2], np.float32)}),
        ('p = Pad<mode="reflect">(n, q)', CONV, {"q": np.array([0, 0, 1, 1, 0, 0, 1, 1])}),
        ('p = Pad<mode="edge">(n, q)', CONV, {"q": np.array([0, 0, 1, 1, 0, 0, 1, 1])}),
        (
            "p = Slice(n, s, e, a)",
            CONV,
            {"s": np.array([1, 1]), "e": np.array([-1, 9]), "a": np.array([2, 3])},
        ),
        (
            "p = Slice(n, s, e, a, i)",  # the channels, from the last to the first
            CONV,
            {"s": np.array([-1]), "e": np.array([-99]), "a": np.array([1]), "i": np.array([-1])},
        ),
        ("p = Gather<axis=1>(n, i)", CONV, {"i": np.array([2, 0, 3, 1])}),
        ("p = Tile(n, t)", weights(5, 8, 2, 2), {"t": np.array([1, 2, 1, 1])}),
        ("p = Flatten(n)", weights(256, 5), {}),
        ("p = Reshape(n, s)", weights(256, 5), {"s": np.array([-1, 256])}),
        ("p = Reshape(n, s)", weights(256, 5), {"s": np.array([0, -1])}),
        ("q = Transpose<perm=[0,2,3,1]>(n)  p = Flatten(q)", weights(256, 5), {}),
        ("q = Transpose<perm=[0,3,2,1]>(n)  p = Reshape(q, s)", weights(256, 5), {"s": np.array([-1, 256])}),
        ("q = Unsqueeze(n, a)  p = Squeeze(q, a)", CONV, {"a": np.array([2])}),
        ("p = Dropout(n)", CONV, {}),
        ("p = Identity(n)", CONV, {}),
        ("p = Expand(n, s)", CONV, {"s": np.array([1, 4, 8, 8])}),
    ],
)
def test_scale_of_any_sign_and_shift_pass(nodes: str, last: Any, arrays: dict[str, Any]) -> None:
    assert residuals(folded(through(nodes, last, **arrays)).model) == 0


@pytest.mark.parametrize(
    "nodes", ["p = MaxPool<kernel_shape=[2,2]>(n)", "p = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>(n)"]
)
def test_a_maximum_lets_nonnegative_scales_through(nodes: str) -> None:
    assert residuals(folded(through(nodes, CONV, "positive")).model) == 0
    zero = statistics(4)["g"] * [0, 1, 0, 1]
    assert residuals(folded(through(nodes, CONV, "positive", g=zero)).model) == 0
    assert residuals(folded(through(nodes, CONV, "mixed")).model) == 1


@pytest.mark.parametrize(
    ("nodes", "arrays"),
    [
        ("p = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=1>(n)", {}),
        ("p = Pad(n, q)", {"q": np.array([0, 0, 1, 1, 0, 0, 1, 1])}),
        ("p = Relu(n)", {}),
        ("p = LeakyRelu(n)", {}),
    ],
)
def test_only_a_scale_passes(nodes: str, arrays: dict[str, Any]) -> None:
    assert residuals(folded(through(nodes, CONV, "positive", **arrays)).model) == 1
    centred = arrays | {"b": np.zeros(4), "m": np.zeros(4)}
    assert residuals(folded(through(nodes, CONV, "positive", **centred)).model) == 0


@pytest.mark.parametrize("nodes", ["p = Relu(n)", "p = LeakyRelu(n)", "p = PRelu(n, k)"])
def test_a_negative_scale_does_not_pass_an_activation(nodes: str) -> None:
    centred = {"b": np.zeros(4), "m": np.zeros(4), "k": bias(4).reshape(4, 1, 1)}
    assert residuals(folded(through(nodes, CONV, "positive", **centred)).model) == 0
    assert residuals(folded(through(nodes, CONV, "mixed", **centred)).model) == 1


@pytest.mark.parametrize(
    "nodes", ["p = Sigmoid(n)", "p = Tanh(n)", "p = Softmax(n)", "p = Clip(n, lo, hi)", "p = Elu(n)"]
)
def test_nothing_passes_other_functions(nodes: str) -> None:
    arrays: dict[str, Any] = {"lo": np.array(0, np.float32), "hi": np.array(6, np.float32)}
    assert residuals(folded(through(nodes, CONV, "positive", **arrays)).model) == 1


def test_a_pad_with_another_value_lets_nothing_through() -> None:
    arrays: dict[str, Any] = {
        "q": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
        "c": np.array(1, np.float32),
        "b": np.zeros(4),
        "m": np.zeros(4),
    }
    assert residuals(folded(through("p = Pad(n, q, c)", CONV, "positive", **arrays)).model) == 1


def test_indices_of_a_maximum_keep_the_affine() -> None:
    graph = model(
        """(float[N,4,8,8] x) => (float[N,4,4,4] y, int64[N,4,4,4] i) {
            r = Sigmoid(x)  n = BatchNormalization(r, g, b, m, v)
            y, i = MaxPool<kernel_shape=[2,2], strides=[2,2]>(n) }""",
        **statistics(4),
    )
    assert operators(bnfold.fold(graph).model) == ["Sigmoid", "BatchNormalization", "MaxPool"]


def test_a_reduction_over_the_channel_lets_only_uniform_maps_through() -> None:
    arrays: dict[str, Any] = {"a": np.array([1])}
    graph = through("q = ReduceMean<keepdims=1>(n, a)  p = Flatten(q)", weights(64, 5), **arrays)
    assert residuals(folded(graph).model) == 1


def test_channels_on_rows_are_followed_into_the_matrix() -> None:
    """The reshape gives every row one channel: the affine no longer varies along the columns."""
    graph = model(
        """(float[N,4,6,6] x) => (float[M,5] y) {
            r = Sigmoid(x)  n = BatchNormalization(r, g, b, m, v)  p = Reshape(n, s)  y = Gemm(p, w, z) }""",
        w=weights(36, 5),
        z=bias(5),
        s=np.array([-1, 36]),
        **statistics(4),
    )
    assert residuals(folded(graph).model) == 1


def test_a_shift_passes_the_sum_of_two_tensors_and_a_scale_their_product() -> None:
    graph = model(
        """(float[N,4,8,8] x) => (float[N,5,6,6] y) {
            r = Sigmoid(x)  t = Tanh(x)  a = Add(r, k)  s = Add(a, t)  q = Mul(t, l)  o = Mul(s, x)
            d = Mul(q, r)  e = Concat<axis=1>(o, d)  y = Conv(e, w, z) }""",
        w=weights(5, 8, 3, 3),
        z=bias(5),
        k=bias(4).reshape(4, 1, 1),
        l=bias(4, 5).reshape(4, 1, 1),
    )
    # The shift is stopped by the product with x, but it moves behind the sum; the scale reaches the convolution.
    assert operators(folded(graph).model).count("Mul") == 2


def test_concat_gives_the_other_operands_the_identity() -> None:
    graph = model(
        """(float[N,4,8,8] x) => (float[N,5,6,6] y) {
            r = Sigmoid(x)  n = BatchNormalization(r, g, b, m, v)  e = Concat<axis=1>(x, n, r)  y = Conv(e, w, z) }""",
        w=weights(5, 12, 3, 3),
        z=bias(5),
        **statistics(4, "mixed"),
    )
    assert operators(folded(graph).model) == ["Sigmoid", "Concat", "Conv"]


def test_concat_along_rows_stays() -> None:
    graph = model(
        """(float[N,4,4,4] x) => (float[N,5,6,2] y) {
            r = Sigmoid(x)  n = BatchNormalization(r, g, b, m, v)  e = Concat<axis=2>(x, n)  y = Conv(e, w, z) }""",
        w=weights(5, 4, 3, 3),
        z=bias(5),
        **statistics(4),
    )
    assert residuals(folded(graph).model) == 1


def test_a_tensor_read_twice_by_one_operator_stays() -> None:
    graph = model(
        """(float[N,4,8,8] x) => (float[N,5,6,6] y) {
            r = Sigmoid(x)  n = BatchNormalization(r, g, b, m, v)  e = Concat<axis=1>(n, n)  y = Conv(e, w, z) }""",
        w=weights(5, 8, 3, 3),
        z=bias(5),
        **statistics(4),
    )
    assert residuals(folded(graph).model) == 1
