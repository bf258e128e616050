"""What is taken for a constant affine, and what is not: `bnfold.passes.lift`."""

from typing import Any

import numpy as np
import pytest

import bnfold
from tests.bnfold.graphs import bias, folded, model, operators, statistics, weights

CONV_BN = """(float[N,3,8,8] x) => (float[N,4,6,6] y) {
    c = Conv(x, w, z)  y = BatchNormalization(c, g, b, m, v) }"""


def conv_bn(**replaced: Any) -> Any:
    return model(CONV_BN, **({"w": weights(4, 3, 3, 3), "z": bias(4), **statistics(4)} | replaced))


def test_lift_rule_1_training_mode_stays() -> None:
    graph = model(
        """(float[4,3,8,8] x) => (float[4,4,6,6] y) {
            c = Conv(x, w, z)  y, mean, var = BatchNormalization<training_mode=1>(c, g, b, m, v) }""",
        w=weights(4, 3, 3, 3),
        z=bias(4),
        **statistics(4),
    )
    result = bnfold.fold(graph)  # onnx's reference evaluator knows batch statistics, but nothing changes here
    assert operators(result.model) == ["Conv", "BatchNormalization"]
    (entry,) = result.report.entries
    assert entry.status == "kept"
    assert "training mode" in entry.rules[0]


@pytest.mark.parametrize("name", ["g", "b", "m", "v"])
def test_lift_rule_2_statistics_must_be_constant(name: str) -> None:
    arrays = {"w": weights(4, 3, 3, 3), "z": bias(4), **statistics(4)}
    given = arrays.pop(name)
    text = CONV_BN.replace("] x)", f"] x, float[4] {name})")
    inputs = {"x": weights(2, 3, 8, 8).astype(np.float32), name: given.astype(np.float32)}
    graph = model(text, **arrays)
    result = bnfold.fold(graph)
    assert operators(result.model) == ["Conv", "BatchNormalization"]
    assert "is not constant" in result.report.entries[0].rules[0]
    assert set(inputs) == {i.name for i in result.model.graph.input}


def test_lift_rule_2_variance_and_epsilon_must_be_positive() -> None:
    result = bnfold.fold(conv_bn(v=np.array([1, 1, -1, 1.0])))
    assert operators(result.model) == ["Conv", "BatchNormalization"]
    assert "positive" in result.report.entries[0].rules[0]


def test_lift_rule_4_a_constant_that_widens_the_tensor_stays() -> None:
    graph = model(
        "(float[N,3,8,8] x) => (float[N,4,6,6] y) { c = Conv(x, w, z)  y = Mul(c, k) }",
        w=weights(1, 3, 3, 3),
        z=bias(1),
        k=bias(4).reshape(1, 4, 1, 1),
    )
    assert operators(folded(graph).model) == ["Conv", "Mul"]


def test_lift_rule_5_a_constant_along_the_batch_stays() -> None:
    """As long as the channel: only the axis tells them apart."""
    graph = model(
        "(float[4,3,8,8] x) => (float[4,4,6,6] y) { c = Conv(x, w, z)  y = Mul(c, k) }",
        w=weights(4, 3, 3, 3),
        z=bias(4),
        k=bias(4).reshape(4, 1, 1, 1),
    )
    assert operators(folded(graph).model) == ["Conv", "Mul"]


def test_lift_rule_5_a_constant_along_the_batch_is_no_affine_of_the_report() -> None:
    graph = model("(float[4,3] x) => (float[4,3] y) { s = Sigmoid(x)  y = Mul(s, k) }", k=bias(4).reshape(4, 1))
    assert bnfold.fold(graph).report.entries == ()


@pytest.mark.parametrize("node", ["y = Div(c, zero)", "y = Add(c, inf)", "y = Div(one, c)"])
def test_lift_rule_6_only_finite_affines(node: str) -> None:
    graph = model(
        f"(float[N,3,8,8] x) => (float[N,4,6,6] y) {{ c = Conv(x, w, z)  {node} }}",
        w=weights(4, 3, 3, 3),
        z=bias(4),
        zero=np.zeros(1),
        inf=np.array([-np.inf]),
        one=np.ones(1),
    )
    assert len(operators(bnfold.fold(graph).model)) == 2


@pytest.mark.parametrize(
    "node", ["Mul(c, k)", "Mul(k, c)", "Add(c, k)", "Add(k, c)", "Sub(c, k)", "Sub(k, c)", "Div(c, k)", "Neg(c)"]
)
@pytest.mark.parametrize("shape", [(1, 4, 1, 1), (4, 1, 1), (1,), ()])
def test_every_arithmetic_operator_is_lifted_with_its_operands_in_order(node: str, shape: tuple[int, ...]) -> None:
    graph = model(
        f"(float[N,3,8,8] x) => (float[N,4,6,6] y) {{ c = Conv(x, w, z)  y = {node} }}",
        w=weights(4, 3, 3, 3),
        z=bias(4),
        k=(np.abs(bias(int(np.prod(shape)))) + 0.5).reshape(shape),
    )
    assert operators(folded(graph).model) == ["Conv"]


def test_an_integer_multiplication_is_left_alone() -> None:
    graph = model(
        "(int64[N,3] x) => (int64[N,3] y) { y = Mul(x, k) }",
        k=np.array([2, 3, 4]),
    )
    assert operators(bnfold.fold(graph).model) == ["Mul"]


def test_epsilon_enters_the_scale() -> None:
    for epsilon in (0.1, 1.0):
        text = CONV_BN.replace("BatchNormalization", f"BatchNormalization<epsilon={epsilon}>")
        graph = model(text, w=weights(4, 3, 3, 3), z=bias(4), **statistics(4))
        assert operators(folded(graph).model) == ["Conv"]


@pytest.mark.parametrize("gamma", [0.0, 1e-30, -1e-8, 1e6])
@pytest.mark.parametrize("variance", [0.0, 1e-12, 1e10])
def test_degenerate_statistics_fold_exactly(gamma: float, variance: float) -> None:
    graph = conv_bn(g=np.array([gamma, 1, -1, 0.5]), v=np.array([variance, 1, 0, 2.0]))
    assert operators(folded(graph).model) == ["Conv"]


NORMALIZATION = """(float[N,8,8,3] x{more}) => (float[N,4,6,6] y) {{
    d = Sub(x, mean)  n = {scaling}  t = Transpose<perm=[0,3,1,2]>(n)  y = Conv(t, w, z) }}"""
MEAN, DEVIATION = np.array([0.5, -0.4, 0.3]).reshape(1, 1, 1, 3), np.array([0.2, 0.3, 0.5]).reshape(1, 1, 1, 3)


@pytest.mark.parametrize("scaling", ["Mul(d, reciprocal)", "Div(d, deviation)"])
def test_a_normalization_layer_goes_into_the_convolution(scaling: str) -> None:
    constants = {"reciprocal": 1 / DEVIATION} if "Mul" in scaling else {"deviation": DEVIATION}
    text = NORMALIZATION.format(scaling=scaling, more="")
    graph = model(text, mean=MEAN, w=weights(4, 3, 3, 3), z=bias(4), **constants)
    result = folded(graph)
    assert operators(result.model) == ["Transpose", "Conv"]
    assert result.report.notes == ()


def test_a_mean_that_the_exporter_made_an_input_is_named() -> None:
    """As tf2onnx writes a Normalization layer."""
    text = NORMALIZATION.format(scaling="Mul(d, reciprocal)", more=", float[1,1,1,3] mean")
    graph = model(text, reciprocal=1 / DEVIATION, w=weights(4, 3, 3, 3), z=bias(4))
    result = bnfold.fold(graph)
    assert operators(result.model) == ["Sub", "Transpose", "Conv"]
    (note,) = result.report.notes
    assert note.startswith("Sub_d: its operand mean is an input without a value; as an initializer it would be folded")


def test_two_inputs_of_one_shape_are_no_missing_constant() -> None:
    graph = model("(float[N,4] x, float[N,4] x2) => (float[N,4] y) { y = Sub(x, x2) }")
    assert bnfold.fold(graph).report.notes == ()
