"""Preparing and writing back: `bnfold.passes.prepare` and `bnfold.passes.lower`."""

from typing import Any

import numpy as np
import pytest

import bnfold
from tests.bnfold.graphs import bias, folded, model, operators, statistics, weights

DENSE = {"w": weights(4, 5), "z": bias(5)}


def test_identities_rule_1_between_an_input_and_an_output_stay() -> None:
    graph = model("(float[N,4] x) => (float[N,4] y) { y = Identity(x) }")
    assert operators(folded(graph).model) == ["Identity"]


def test_identities_go_and_an_output_keeps_its_name() -> None:
    graph = model("(float[N,4] x) => (float[N,5] y) { d = Gemm(x, w, z)  i = Identity(d)  y = Dropout(i) }", **DENSE)
    result = folded(graph).model
    assert operators(result) == ["Gemm"]
    assert [value.name for value in result.graph.output] == ["y"]


@pytest.mark.parametrize(
    "nodes", ["d, mask = Dropout(x)  y = Gemm(d, w, z)", "d = Dropout(x, r, t)  y = Gemm(d, w, z)"]
)
def test_identities_rule_2_a_dropout_in_training_or_with_its_mask_read_stays(nodes: str) -> None:
    outputs = "float[N,5] y, bool[N,4] mask" if "mask" in nodes else "float[N,5] y"
    extra: dict[str, Any] = {} if "mask" in nodes else {"r": np.array(0.5, np.float32), "t": np.array(True)}
    graph = model(f"(float[N,4] x) => ({outputs}) {{ {nodes} }}", **DENSE, **extra)
    assert operators(bnfold.fold(graph).model) == ["Dropout", "Gemm"]


CHAIN = """(float[N,4,3,3] x) => (float[N,5] y) {
    n = BatchNormalization(x, g, b, m, v)  t = Transpose<perm=[0,2,3,1]>(n)  s = Shape(t)  i = Cast<to=6>(s)
    h = Slice(i, zero, one)  c = Concat<axis=0>(h, rest)  k = Cast<to=7>(c)  f = Reshape(t, k)
    d = MatMul(f, w)  y = Add(d, z) }"""


def test_reshape_rule_1_the_chain_of_a_flatten_becomes_one_constant_shape() -> None:
    graph = model(
        CHAIN,
        w=weights(36, 5),
        z=bias(5),
        zero=np.array([0]),
        one=np.array([1]),
        rest=np.array([36], np.int32),
        **statistics(4, "mixed"),
    )
    assert operators(folded(graph).model) == ["Reshape", "Gemm"]


def test_reshape_rule_1_a_shape_that_only_the_caller_knows_stays() -> None:
    graph = model("(float[N,4] x, int64[2] s) => (float[A,B] y) { y = Reshape(x, s) }")
    assert operators(bnfold.fold(graph).model) == ["Reshape"]


def test_gemm_rule_1_data_of_rank_three_stay_a_matmul() -> None:
    graph = model("(float[N,3,4] x) => (float[N,3,5] y) { d = MatMul(x, w)  y = Add(d, z) }", **DENSE)
    assert operators(folded(graph).model) == ["MatMul", "Add"]


def test_gemm_rule_2_a_bias_along_the_batch_is_added_behind() -> None:
    graph = model(
        "(float[5,4] x) => (float[5,5] y) { d = MatMul(x, w)  y = Add(d, z) }", w=weights(4, 5), z=bias(5).reshape(5, 1)
    )
    assert operators(folded(graph).model) == ["Gemm", "Add"]


def test_gemm_rule_3_a_product_that_is_an_output_keeps_its_values() -> None:
    graph = model("(float[N,4] x) => (float[N,5] d, float[N,5] y) { d = MatMul(x, w)  y = Add(d, z) }", **DENSE)
    result = folded(graph).model
    assert operators(result) == ["Gemm", "Add"]
    assert [value.name for value in result.graph.output] == ["d", "y"]


def test_lower_rule_1_what_did_not_move_is_put_back_as_it_was() -> None:
    graph = model(
        """(float[N,4,3,3] x) => (float[N,4,3,3] y) {
            n = BatchNormalization<epsilon=0.25>(x, g, b, m, v)  s = Sigmoid(n)  h = Add(s, three)  y = Clip(h) }""",
        three=np.array(3.0),
        **statistics(4),
    )
    result = folded(graph).model
    for before, after in zip(graph.graph.node, result.graph.node, strict=True):
        assert (before.op_type, before.input, before.output) == (after.op_type, after.input, after.output)
        assert sorted(map(str, before.attribute)) == sorted(map(str, after.attribute))


def test_lower_rules_2_to_4_choose_the_fewest_operators() -> None:
    text = "(float[N,4,6,6] x) => (float[N,4,6,6] y) { a = Mul(x, s)  b = Add(a, t)  y = Sigmoid(b) }"
    channel, row = (1, 4, 1, 1), (1, 1, 6, 1)
    for shape, expected in ((channel, ["BatchNormalization"]), (row, ["Mul", "Add"])):
        size = int(np.prod(shape))
        graph = model(text, s=bias(size).reshape(shape), t=bias(size, 9).reshape(shape))
        assert operators(folded(graph).model) == [*expected, "Sigmoid"]
    graph = model(text, s=bias(4).reshape(channel), t=np.zeros(channel))
    assert operators(folded(graph).model) == ["Mul", "Sigmoid"]


def test_lower_rule_2_rounding_may_leave_a_map_along_the_channels_alone() -> None:
    """Found by a random graph: what varies along the rows is lost in float32, so one operator suffices."""
    graph = model(
        """(float[N,1,6,6] x) => (float[N,1,6,6] y) {
            a = Mul(x, k)  c = Add(a, l)  n = BatchNormalization(c, g, b, m, v)  y = Sigmoid(n) }""",
        k=np.array([0.5]),
        l=bias(6).reshape(6, 1),
        **(statistics(1) | {"g": np.array([9e-9])}),
    )
    assert operators(folded(graph).model) == ["BatchNormalization", "Sigmoid"]
