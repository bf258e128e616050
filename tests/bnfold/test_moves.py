"""Backward, forward, signs, clamps, several readers, ones-channels: `bnfold.passes`."""

import re
from typing import Any

import numpy as np
import pytest

import bnfold
from tests.bnfold.graphs import bias, folded, model, operators, residuals, statistics, weights

NET = {"w": weights(4, 3, 3, 3), "z": bias(4), "k": weights(5, 4, 3, 3), "l": bias(5)}


def net(nodes: str, outputs: str = "float[N,C,H,W] y", sign: str = "positive", **arrays: Any) -> Any:
    """`nodes` on x of shape (N, 3, 12, 12), with two convolutions' weights and one layer's statistics at hand."""
    found = NET | statistics(4, sign) | arrays
    used = {name: array for name, array in found.items() if re.search(rf"[ (]{name}[,)]", nodes)}
    return model(f"(float[N,3,12,12] x) => ({outputs}) {{ {nodes} }}", **used)


BN = "BatchNormalization({}, g, b, m, v)"


def test_backward_rule_1_another_reader_keeps_the_affine() -> None:
    graph = net(
        f"c = Conv(x, w, z)  n = {BN.format('c')}  s = Sigmoid(c)  t = Sigmoid(n)  y = Add(s, t)",
    )
    assert residuals(folded(graph).model) == 1


def test_backward_rule_1_a_graph_output_before_it_keeps_the_affine() -> None:
    graph = net(f"c = Conv(x, w, z)  n = {BN.format('c')}  y = Sigmoid(n)", "float[N,4,10,10] c, float[N,4,10,10] y")
    assert residuals(folded(graph).model) == 1


def test_backward_rule_2_all_branches_or_none() -> None:
    both = net(f"c = Conv(x, w, z)  d = Conv(x, w)  a = Add(c, d)  n = {BN.format('a')}  y = Relu(n)")
    assert operators(folded(both).model) == ["Conv", "Conv", "Add", "Relu"]
    one = net(f"c = Conv(x, w, z)  d = Conv(x, w)  e = Sigmoid(d)  a = Add(c, e)  n = {BN.format('a')}  y = Relu(n)")
    assert operators(folded(one).model) == ["Conv", "Conv", "Sigmoid", "Add", "BatchNormalization", "Relu"]


def test_backward_through_a_subtraction_and_a_concat() -> None:
    difference = net(
        f"c = Conv(x, w, z)  d = Conv(x, w)  a = Sub(c, d)  n = {BN.format('a')}  y = Relu(n)", sign="mixed"
    )
    assert residuals(folded(difference).model) == 0
    joined = net(
        f"c = Conv(x, w, z)  d = Conv(x, w)  a = Concat<axis=1>(c, d)  n = {BN.format('a')}  y = Relu(n)",
        **statistics(8, "mixed"),
    )
    assert operators(folded(joined).model) == ["Conv", "Conv", "Concat", "Relu"]


def test_forward_rule_1_one_reader_that_refuses_keeps_the_affine_whole() -> None:
    graph = net(
        f"c = Conv(x, w, z)  r = Relu(c)  n = {BN.format('r')}  y = Conv(n, k, l)  s = Sigmoid(n)",
        "float[N,C,H,W] y, float[N,D,I,J] s",
    )
    assert operators(folded(graph).model) == ["Conv", "Relu", "BatchNormalization", "Conv", "Sigmoid"]


def test_forward_rule_2_a_graph_output_keeps_its_values_and_name() -> None:
    graph = net(
        f"c = Conv(x, w, z)  r = Sigmoid(c)  y = {BN.format('r')}  u = Conv(y, k, l)",
        "float[N,C,H,W] y, float[N,D,I,J] u",
    )
    result = folded(graph).model
    assert [value.name for value in result.graph.output] == ["y", "u"]
    assert residuals(result) == 1


def test_forward_rule_3_two_affines_compose() -> None:
    graph = net(
        "s = Sigmoid(x)  a = Mul(s, p)  d = Add(a, q)  e = Sub(d, p)  y = Conv(e, w, z)",
        p=bias(3).reshape(3, 1, 1),
        q=bias(1),
    )
    assert operators(folded(graph).model) == ["Sigmoid", "Conv"]


def test_forward_rule_4_what_stays_sinks_behind_the_pool_as_one_operator() -> None:
    graph = net(
        f"""c = Conv(x, w, z)  r = Relu(c)  n = {BN.format("r")}  p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(n)
            a = Mul(p, s)  d = Add(a, t)  y = Conv<pads=[1,1,1,1]>(d, k, l)""",
        s=np.abs(bias(4)).reshape(4, 1, 1) + 0.5,
        t=bias(4, 9).reshape(4, 1, 1),
    )
    assert operators(folded(graph).model) == ["Conv", "Relu", "MaxPool", "BatchNormalization", "Conv"]


def test_ways_that_part_and_meet_again_fold_once_each() -> None:
    """Found by a random graph: both ways lead into the same weights, which must take in both."""
    graph = net(
        f"""c = Conv(x, w, z)  s = Sigmoid(c)  n = {BN.format("s")}  p = Mul(n, q)  e = Concat<axis=1>(p, s)
            f = Concat<axis=1>(e, n)  y = Conv<group=12>(f, d)""",
        sign="mixed",
        q=bias(4).reshape(4, 1, 1),
        d=weights(12, 1, 1, 1),
    )
    assert operators(folded(graph).model) == ["Conv", "Sigmoid", "Concat", "Concat", "Conv"]
    pools = net(
        f"""c = Conv(x, w, z)  s = Sigmoid(c)  n = {BN.format("s")}  p = MaxPool<kernel_shape=[2,2]>(n)
            q = AveragePool<kernel_shape=[2,2]>(n)  e = Concat<axis=1>(p, q)  f = Sub(p, q)
            h = Concat<axis=1>(e, f)  y = Conv(h, o)""",
        o=weights(5, 12, 2, 2),
    )
    assert residuals(folded(pools).model) <= 1


POOLED = f"""c = Conv(x, w, z)  r = {{act}}(c)  n = {BN.format("r")}
    p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(n)  y = Conv(p, k, l)"""


@pytest.mark.parametrize("act", ["Relu", "LeakyRelu", "Sigmoid", "Tanh", "Elu", "HardSigmoid"])
def test_signs_move_behind_the_pool_for_any_nondecreasing_activation(act: str) -> None:
    graph = net(POOLED.format(act=act), sign="mixed")
    assert operators(folded(graph).model) == ["Conv", "MaxPool", "Mul", act, "Conv"]


def test_signs_all_negative_need_no_operator_behind_a_relu() -> None:
    assert operators(folded(net(POOLED.format(act="Relu"), sign="negative")).model) == [
        "Conv",
        "Clip",
        "MaxPool",
        "Conv",
    ]


def test_signs_rule_1_only_a_nondecreasing_activation() -> None:
    for act in ("Abs", "LeakyRelu<alpha=-0.5>"):
        graph = net(POOLED.format(act=act), sign="mixed")
        assert operators(folded(graph).model)[:3] == ["Conv", act.split("<")[0], "BatchNormalization"]


def test_signs_rule_1_another_reader_of_the_activation_keeps_it() -> None:
    nodes = POOLED.format(act="Relu") + "  u = Sigmoid(r)"
    graph = net(nodes, "float[N,C,H,W] y, float[N,D,I,J] u", sign="mixed")
    assert "BatchNormalization" in operators(folded(graph).model)


def test_signs_rule_2_without_weights_before_it_the_affine_stays() -> None:
    nodes = f"r = Relu(x)  n = {BN.format('r')}  p = MaxPool<kernel_shape=[2,2]>(n)  y = Conv(p, w, z)"
    graph = net(nodes, **statistics(3, "mixed"))
    assert operators(folded(graph).model) == ["Relu", "BatchNormalization", "MaxPool", "Conv"]


def test_signs_rule_3_another_reader_of_the_affine_keeps_it() -> None:
    nodes = POOLED.format(act="Relu") + "  u = Conv(n, k, l)"
    graph = net(nodes, "float[N,C,H,W] y, float[N,D,I,J] u", sign="mixed")
    assert residuals(folded(graph).model) == 1


def test_signs_rule_4_nothing_is_gained_when_the_affine_would_stay_behind_the_pool() -> None:
    nodes = POOLED.format(act="Relu").replace("y = Conv(p", "y = Conv<pads=[1,1,1,1]>(p")
    assert operators(folded(net(nodes, sign="mixed")).model) == [
        "Conv",
        "Relu",
        "BatchNormalization",
        "MaxPool",
        "Conv",
    ]


def test_signs_rule_5_a_zero_scale_counts_as_positive() -> None:
    gamma = statistics(4)["g"] * np.array([-1, 0, -1, 0])
    assert operators(folded(net(POOLED.format(act="Relu"), g=gamma)).model) == ["Conv", "Clip", "MaxPool", "Conv"]


ENDING = f"c = Conv(x, w, z)  r = Relu(c)  y = {BN.format('r')}"


@pytest.mark.parametrize(("sign", "op"), [("positive", "Max"), ("negative", "Min")])
def test_clamp_takes_the_place_of_relu_and_affine(sign: str, op: str) -> None:
    assert operators(folded(net(ENDING, sign=sign), "fewest-ops").model) == ["Conv", op]


def test_clamp_rule_1_both_signs_stay() -> None:
    assert operators(folded(net(ENDING, sign="mixed"), "fewest-ops").model) == ["Conv", "Relu", "BatchNormalization"]


def test_clamp_rule_2_another_reader_of_the_relu_keeps_it() -> None:
    graph = net(ENDING + "  u = Sigmoid(r)", "float[N,C,H,W] y, float[N,D,I,J] u")
    assert "Relu" in operators(folded(graph, "fewest-ops").model)


def test_clamp_rule_4_the_default_target_keeps_the_blocked_layout() -> None:
    assert operators(folded(net(ENDING)).model) == ["Conv", "Relu", "BatchNormalization"]


PREACTIVATION = f"s = Sigmoid(x)  n = {BN.format('s')}  r = Relu(n)  y = Conv{{}}(r, k, l)  u = Tanh(s)"
THREE = {"k": weights(5, 3, 3, 3)}


@pytest.mark.parametrize(("sign", "op"), [("positive", "Max"), ("negative", "Min")])
def test_clamp_before_weights_takes_the_place_of_affine_and_relu(sign: str, op: str) -> None:
    graph = net(PREACTIVATION.format(""), "float[N,C,H,W] y, float[N,D,I,J] u", **THREE, **statistics(3, sign))
    assert operators(folded(graph, "fewest-ops").model) == ["Sigmoid", op, "Conv", "Tanh"]
    assert "BatchNormalization" in operators(folded(graph).model)


def test_clamp_before_weights_rule_1_both_signs_stay_and_zero_is_a_constant() -> None:
    outputs = "float[N,C,H,W] y, float[N,D,I,J] u"
    mixed = net(PREACTIVATION.format(""), outputs, **THREE, **statistics(3, "mixed"))
    assert residuals(folded(mixed, "fewest-ops").model) == 1
    for beta in (0.5, -0.5):
        still = statistics(3) | {"g": np.array([1.0, 0.0, 0.7]), "b": np.full(3, beta)}
        graph = net(PREACTIVATION.format(""), outputs, **THREE, **still)
        assert residuals(folded(graph, "fewest-ops").model) == 0


def test_clamp_before_weights_rule_2_another_reader_of_the_affine_keeps_it() -> None:
    nodes = PREACTIVATION.format("").replace("Tanh(s)", "Tanh(n)")
    graph = net(nodes, "float[N,C,H,W] y, float[N,D,I,J] u", **THREE, **statistics(3))
    assert residuals(folded(graph, "fewest-ops").model) == 1


def test_clamp_before_weights_rule_3_padding_keeps_the_affine() -> None:
    nodes = PREACTIVATION.format("<pads=[1,1,1,1]>")
    graph = net(nodes, "float[N,C,H,W] y, float[N,D,I,J] u", **THREE, **statistics(3))
    assert residuals(folded(graph, "fewest-ops").model) == 1


def test_clamp_before_weights_rule_4_a_tiny_scale_keeps_the_affine() -> None:
    still = statistics(3) | {"g": np.array([1.0, 1e-5, 0.7])}
    graph = net(PREACTIVATION.format(""), "float[N,C,H,W] y, float[N,D,I,J] u", **THREE, **still)
    assert residuals(folded(graph, "fewest-ops").model) == 1


READ_TWICE = f"c = Conv(x, w, z)  n = {BN.format('c')}  r = Relu(n)  d = Conv{{}}(c, k, l)"
BOTH = "float[N,C,H,W] r, float[N,D,I,J] d"


@pytest.mark.parametrize("target", ["ort-cpu", "fewest-ops"])
def test_other_readers_are_given_the_inverse(target: str) -> None:
    result = folded(net(READ_TWICE.format(""), BOTH, sign="mixed"), target)
    assert operators(result.model) == ["Conv", "Relu", "Conv"]
    assert any("inverse" in rule for rule in result.report.entries[0].rules)


def test_other_readers_rule_2_a_zero_or_tiny_scale_has_no_useful_inverse() -> None:
    for gamma in (np.array([1, 0, 1, 1.0]), np.array([1, 1e-6, 1, 1.0])):
        assert residuals(folded(net(READ_TWICE.format(""), BOTH, g=gamma)).model) == 1


def test_other_readers_rule_3_a_reader_that_cannot_take_the_inverse_keeps_the_affine() -> None:
    graph = net(READ_TWICE.format("<pads=[1,1,1,1]>"), BOTH)
    assert residuals(folded(graph).model) == 1
    assert operators(folded(graph, "fewest-ops").model).count("Conv") == 3


@pytest.mark.parametrize(
    "reader",
    [
        "y = Conv<pads=[1,1,1,1]>(n, k, l)",
        "p = Pad(n, q)  y = Conv(p, k, l)",
        "p = MaxPool<kernel_shape=[2,2]>(n)  y = Conv<pads=[1,1,1,1]>(p, k, l)",
        "p = AveragePool<kernel_shape=[2,2]>(n)  y = Conv<pads=[2,2,2,2], strides=[2,2]>(p, k, l)",
        "y = ConvTranspose<strides=[2,2]>(n, o)",
    ],
)
def test_a_channel_of_ones_carries_the_shift_past_padding(reader: str) -> None:
    nodes = f"c = Conv(x, w, z)  r = Relu(c)  n = {BN.format('r')}  {reader}"
    graph = net(
        nodes,
        sign="positive" if "MaxPool" in reader else "mixed",
        q=np.array([0, 0, 1, 2, 0, 0, 1, 0]),
        o=weights(4, 5, 3, 3),
    )
    assert residuals(folded(graph, "fewest-ops").model) == 0
    assert residuals(folded(graph, "ort-cpu").model) == 1


@pytest.mark.parametrize(
    "nodes",
    [
        f"c = Conv(x, w, z)  r = Relu(c)  n = {BN.format('r')}  y = Conv<group=2, pads=[1,1,1,1]>(n, d)",  # rule 1
        f"c = Conv(x, w, z)  r = Elu(c)  n = {BN.format('r')}  y = Conv<pads=[1,1,1,1]>(n, k, l)",  # rule 2
        f"c = Conv(x, w, z)  r = Relu(c)  n = {BN.format('r')}  y = Conv<pads=[1,1,1,1]>(n, k, l)  u = Abs(r)",
    ],
)
def test_ones_channel_rules_1_and_2_else_the_affine_stays(nodes: str) -> None:
    outputs = "float[N,C,H,W] y, float[N,D,I,J] u" if " u =" in nodes else "float[N,C,H,W] y"
    assert residuals(folded(net(nodes, outputs, "mixed", d=weights(6, 2, 3, 3)), "fewest-ops").model) == 1


def test_rows_of_a_dense_layer_take_a_transpose_in() -> None:
    graph = model(
        "(float[N,4,3,2] x) => (float[N,5] y) { t = Transpose<perm=[0,3,1,2]>(x)  f = Flatten(t)  y = Gemm(f, w, z) }",
        w=weights(24, 5),
        z=bias(5),
    )
    assert operators(folded(graph).model) == ["Flatten", "Gemm"]


def test_rows_of_a_dense_layer_rule_2_another_reader_keeps_the_transpose() -> None:
    graph = model(
        """(float[N,4,3,2] x) => (float[N,5] y, float[N,24] f) {
            t = Transpose<perm=[0,3,1,2]>(x)  f = Flatten(t)  y = Gemm(f, w, z) }""",
        w=weights(24, 5),
        z=bias(5),
    )
    assert operators(folded(graph).model) == ["Transpose", "Flatten", "Gemm"]


def test_one_affine_read_by_the_graph_alone_stays() -> None:
    graph = model("(float[N,3] x) => (float[N,3] y) { y = Mul(x, k) }", k=bias(3))
    result = bnfold.fold(graph)
    assert result.model.graph.node == graph.graph.node or operators(result.model) == ["Mul"]
