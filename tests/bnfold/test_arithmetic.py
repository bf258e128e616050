"""The target that saves arithmetic: the same function. Whole numbers as weights and inputs make even float32 exact."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator

import bnfold
from bnfold.samples import samples
from scripts.evaluation.runtime import session
from tests.bnfold.graphs import assert_taps, bias, model, operators, statistics, weights

TARGET = "ort-cpu-winograd"
INPUT, OUTPUT = 32, 64
"""Channels."""
SPLIT = ["Conv", "Conv", "Conv", "Conv", "Add", "Conv", "Add", "Conv", "Conv", "Add", "Conv", "Conv", "Add"]
"""What a convolution becomes: rows and product of b and c, their sum and difference, rows and product of a and d."""


def whole(*shape: int, seed: int = 0) -> Any:
    """Whole numbers, small enough that their sums stay exact in float32."""
    return np.random.default_rng((seed, *shape)).integers(-4, 5, shape).astype(np.float32)


def network(
    body: str, size: tuple[int, int] = (13, 13), outputs: str = "float[N,64,h,w] y", **arrays: Any
) -> onnx.ModelProto:
    """A graph of 32 channels, with the weights of one convolution to 64 as w and z."""
    given = {"w": whole(OUTPUT, INPUT, 3, 3), "z": whole(OUTPUT), **arrays}
    used = {name: array for name, array in given.items() if any(f"{name}{end}" in body for end in (",", ")"))}
    return model(f"(float[N,{INPUT},{size[0]},{size[1]}] x) => ({outputs}) {{ {body} }}", **used)


def assert_same(reference: onnx.ModelProto, result: onnx.ModelProto) -> None:
    """Equal to the last bit, at ONNX Runtime's highest and lowest level."""
    onnx.checker.check_model(result, full_check=True)
    height, width = (d.dim_value for d in reference.graph.input[0].type.tensor_type.shape.dim[2:])
    batch = {"x": whole(2, INPUT, height, width, seed=1)}
    expected = session(reference, "basic").run(None, batch)
    for level in ("basic", "all"):
        for found, wanted in zip(session(result, level).run(None, batch), expected, strict=True):
            np.testing.assert_array_equal(found, wanted)


def rewritten(reference: onnx.ModelProto, target: str = TARGET) -> bnfold.Folded:
    """Folds, and checks: the same function, the given model untouched, nothing left to do."""
    before = reference.SerializeToString(deterministic=True)
    result = bnfold.fold(reference, target=target)
    assert reference.SerializeToString(deterministic=True) == before
    assert_same(reference, result.model)
    again = bnfold.fold(result.model, target=target).model
    assert again.SerializeToString(deterministic=True) == result.model.SerializeToString(deterministic=True)
    return result


@pytest.mark.parametrize(
    ("body", "size", "kept"),
    [
        ("c = Conv(x, w, z)  r = Relu(c)  y = AveragePool<kernel_shape=[2,2], strides=[2,2]>(r)", (13, 16), [12, 16]),
        ("c = Conv<strides=[2,2]>(x, w)  y = MaxPool<kernel_shape=[3,3], strides=[3,2]>(c)", (33, 29), [31, 27]),
        (
            "c = Conv(x, w, z)  p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(c)  s = Mul(k, p)  r = Relu(s)"
            "d = Conv<dilations=[2,2]>(r, v)  y = MaxPool<kernel_shape=[2,2], strides=[2,2]>(d)",
            (24, 24),
            [22, 22],
        ),
    ],
)
def test_what_no_pool_reads_is_not_computed(body: str, size: tuple[int, int], kept: list[int]) -> None:
    reference = network(body, size, v=whole(OUTPUT, OUTPUT, 3, 3), k=whole(OUTPUT, 1, 1))
    result = rewritten(reference)

    graph = onnx.shape_inference.infer_shapes(result.model).graph
    cut = next(node.output[0] for node in graph.node if node.op_type == "Slice")
    (shape,) = (info.type.tensor_type.shape.dim for info in graph.value_info if info.name == cut)
    assert [size.dim_value for size in shape[2:]] == kept
    assert "the rest is read by no pool" in result.report.notes[0]


@pytest.mark.parametrize(
    "body",
    [
        "c = Conv<pads=[1,1,1,1]>(x, w, z)  y = AveragePool<kernel_shape=[2,2], strides=[2,2]>(c)",
        'c = Conv<auto_pad="SAME_UPPER">(x, w, z)  y = AveragePool<kernel_shape=[2,2], strides=[2,2]>(c)',
        "c = Conv(x, w, z)  y = AveragePool<kernel_shape=[2,2], strides=[2,2], ceil_mode=1>(c)",
        "c = Conv(x, w, z)  y = AveragePool<kernel_shape=[2,2], strides=[2,2], pads=[0,0,1,1]>(c)",
        "c = Conv(x, w, z)  y = AveragePool<kernel_shape=[2,2]>(c)",
    ],
)
def test_rule_1_only_windows_without_padding_leave_an_end_unread(body: str) -> None:
    assert rewritten(network(body)).report.notes == ()


def test_rule_2_a_tensor_that_others_read_is_not_cut() -> None:
    pool = "c = Conv(x, w, z)  y = AveragePool<kernel_shape=[2,2], strides=[2,2]>(c)"
    read = network(f"{pool}  o = Sigmoid(c)", outputs="float[N,64,h,w] y, float[N,64,a,b] o")
    final = network(pool, outputs="float[N,64,h,w] y, float[N,64,a,b] c")
    assert rewritten(read).report.notes == rewritten(final).report.notes == ()


def test_rule_3_no_cut_behind_a_convolution() -> None:
    body = "u = Conv<pads=[1,1,1,1]>(x, v)  c = Conv(u, w, z)  y = AveragePool<kernel_shape=[2,2], strides=[2,2]>(c)"
    assert rewritten(network(body, v=whole(INPUT, INPUT, 3, 3))).report.notes == ()


@pytest.mark.parametrize("pool", ["MaxPool", "AveragePool"])
def test_rule_4_little_is_left_as_it_is(pool: str) -> None:
    body = f"c = Conv(x, w, z)  y = {pool}<kernel_shape=[2,2], strides=[2,2]>(c)"
    assert rewritten(network(body, (5, 5))).report.notes == ()
    for target in set(bnfold.TARGETS) - {TARGET}:
        assert rewritten(network(body, (14, 13)), target).report.notes == ()


@pytest.mark.parametrize(
    ("conv", "relu", "pool"),
    [
        ("<>(x, w, z)", True, "kernel_shape=[2,2], strides=[2,2]"),
        ("<>(x, w)", False, "kernel_shape=[2,3], strides=[2,1], pads=[0,1,0,1]"),
        ("<pads=[1,1,1,1]>(x, w, z)", True, "kernel_shape=[2,2], strides=[2,2]"),
        ("<pads=[2,0,0,1], strides=[1,2]>(x, w, z)", False, "kernel_shape=[2,2], strides=[2,2]"),
        ("<pads=[0,2,2,2], dilations=[1,2]>(x, w, z)", True, "kernel_shape=[2,2], strides=[2,2], dilations=[1,2]"),
    ],
)
def test_two_rows_take_four_products(conv: str, relu: bool, pool: str) -> None:
    rest = f"r = Relu(c)  y = MaxPool<{pool}>(r)" if relu else f"y = MaxPool<{pool}>(c)"
    result = rewritten(network(f"c = Conv{conv}  {rest}", (14, 15)))
    pooled = ["Relu", "MaxPool"] if relu else ["MaxPool"]
    assert operators(result.model) == [*SPLIT, *pooled, *pooled, "Max"]
    assert result.model.graph.output[0].name == "y"


REFUSED = {
    "1 group": ("c = Conv<group=2>(x, w2, z)  y = MaxPool<kernel_shape=[2,2], strides=[2,2]>(c)", 14),
    "1 height of the kernel": ("c = Conv(x, w5)  y = MaxPool<kernel_shape=[2,2], strides=[2,2]>(c)", 14),
    "1 dilation": ("c = Conv<dilations=[2,1]>(x, w)  y = MaxPool<kernel_shape=[2,2], strides=[2,2]>(c)", 14),
    "1 stride": ("c = Conv<strides=[2,1]>(x, w)  y = MaxPool<kernel_shape=[2,2], strides=[2,2]>(c)", 25),
    "1 auto_pad": (
        'c = Conv<auto_pad="SAME_LOWER">(x, w)  y = MaxPool<kernel_shape=[2,2], strides=[2,2]>(c)',
        14,
    ),
    "1 odd": ("c = Conv<pads=[1,1,1,1]>(x, w)  y = MaxPool<kernel_shape=[2,2], strides=[2,2]>(c)", 13),
    "2 outputs": ("c = Conv(x, w60)  y = MaxPool<kernel_shape=[2,2], strides=[2,2]>(c)", 14),
    "3 another reader": (
        "c = Conv(x, w)  p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(c) m = Neg(c) y = Conv(m, v)",
        14,
    ),
    "3 another pool": ("c = Conv(x, w)  y = AveragePool<kernel_shape=[2,2], strides=[2,2]>(c)", 14),
    "3 another activation": ("c = Conv(x, w)  r = Tanh(c)  y = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r)", 14),
    "4 three rows": ("c = Conv(x, w)  y = MaxPool<kernel_shape=[3,2], strides=[2,2]>(c)", 15),
    "4 overlap": ("c = Conv(x, w)  y = MaxPool<kernel_shape=[2,2], strides=[1,2]>(c)", 14),
    "4 padding": ("c = Conv(x, w)  y = MaxPool<kernel_shape=[2,2], strides=[2,2], pads=[1,0,1,0]>(c)", 14),
    "4 dilation": ("c = Conv(x, w)  y = MaxPool<kernel_shape=[2,2], strides=[2,2], dilations=[2,1]>(c)", 15),
    "4 ceil_mode": ("c = Conv(x, w)  y = MaxPool<kernel_shape=[2,2], strides=[2,2], ceil_mode=1>(c)", 14),
    "4 indices": ("c = Conv(x, w)  y, i = MaxPool<kernel_shape=[2,2], strides=[2,2]>(c)  j = Neg(i)", 14),
}


@pytest.mark.parametrize("rule", REFUSED)
def test_rows_are_not_split_against_a_rule(rule: str) -> None:
    body, size = REFUSED[rule]
    arrays = {
        "w2": whole(64, 16, 3, 3),
        "w5": whole(64, 32, 5, 3),
        "w60": whole(60, 32, 3, 3),
        "v": whole(64, 64, 1, 1),
    }
    channels = 60 if "w60" in body else 64
    further = {"p = ": ", float[N,64,a,b] p", "j = ": ", int64[N,64,a,b] j"}
    outputs = "".join(output for sign, output in further.items() if sign in body)
    reference = network(body, (size, size), f"float[N,{channels},h,w] y{outputs}", **arrays)
    assert "Max" not in operators(rewritten(reference).model)


@st.composite
def places(draw: st.DrawFn) -> tuple[str, dict[str, Any], tuple[int, ...]]:
    """A convolution of any size before a pool, perhaps behind another one, its weights and a shape for x."""
    channels, outputs, width = (draw(st.sampled_from(choice)) for choice in ((16, 32), (16, 48), (1, 2, 3)))
    padded = 2 if draw(st.booleans()) else 0
    top, left, bottom, right = (draw(st.integers(0, padded)) for _ in range(4))
    stride, step, reach = (draw(st.integers(1, 2)) for _ in range(3))
    arrays = {"w": whole(outputs, channels, 3, width), "z": whole(outputs)}
    body, size, data = "", [draw(st.integers(6, 12)), draw(st.integers(6, 12))], "x"
    if draw(st.booleans()):
        arrays["v"] = whole(channels, 2, 2, 3, seed=2)
        body, data, channels = "u = Conv(x, v)  a = Relu(u)  ", "a", 2
    bias = draw(st.sampled_from(["", ", z"]))
    body += f"c = Conv<pads=[{top},{left},{bottom},{right}], strides=[1,{stride}]>({data}, w{bias})  "
    pooled = draw(st.sampled_from(["c", "r"]))
    body += "r = Relu(c)  " if pooled == "r" else ""
    body += f"y = MaxPool<kernel_shape=[2,{reach}], strides=[2,{step}]>({pooled})"
    return body, {name: array for name, array in arrays.items() if f", {name}" in body}, (2, channels, *size)


@settings(max_examples=int(os.environ.get("FOLDSERVE_FOLD_EXAMPLES", "60")), deadline=None)
@given(place=places())
def test_places_of_any_size_and_padding_are_computed_exactly(
    place: tuple[str, dict[str, Any], tuple[int, ...]],
) -> None:
    body, arrays, shape = place
    sizes = ",".join(map(str, shape[1:]))
    reference = model(f"(float[N,{sizes}] x) => (float[N,{len(arrays['w'])},h,w] y) {{ {body} }}", **arrays)
    batch = {"x": whole(*shape, seed=1)}
    eager = replace(bnfold.TARGETS[TARGET], least_saving=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(bnfold.TARGETS, TARGET, eager)
        result = bnfold.fold(reference, target=TARGET).model

    (expected,) = ReferenceEvaluator(reference).run(None, batch)

    event(" ".join(sorted({"Max", "Slice"} & set(operators(result)))))
    np.testing.assert_array_equal(session(result).run(None, batch)[0], expected)


@pytest.mark.parametrize("signs", ["positive", "mixed"])
def test_the_reference_network_is_cropped_and_split_whatever_its_signs(signs: str) -> None:
    reference = _reference(signs)

    result = bnfold.fold(reference, target=TARGET)

    assert [note.split()[1] for note in result.report.notes] == ["Conv_c1", "Conv_c2"]
    assert bnfold.verify(reference, result.model).holds
    assert_taps(reference, result, samples(reference, None, 2)["random"])
    assert [entry.tap for entry in result.report.entries if entry.kind == "BatchNormalization"] == [None, None]
    assert all(entry.tap_reason for entry in result.report.entries)
    if signs == "positive":
        assert all(entry.tap for entry in bnfold.fold(reference).report.entries)


def _reference(signs: str) -> onnx.ModelProto:
    text = """(float[N,1,28,28] x) => (float[N,10] y) {
        c1 = Conv(x, w1, z1)  r1 = Relu(c1)  n1 = BatchNormalization(r1, g1, b1, m1, v1)
        p1 = MaxPool<kernel_shape=[2,2], strides=[2,2]>(n1)
        c2 = Conv(p1, w2, z2)  r2 = Relu(c2)  n2 = BatchNormalization(r2, g2, b2, m2, v2)
        p2 = MaxPool<kernel_shape=[2,2], strides=[2,2]>(n2)  f = Flatten(p2)  y = Gemm(f, w3, z3) }"""
    arrays = {"w1": weights(32, 1, 3, 3), "w2": weights(64, 32, 3, 3), "w3": weights(1600, 10)}
    for layer, channels in ((1, 32), (2, 64)):
        arrays |= {f"{name}{layer}": values for name, values in statistics(channels, signs).items()}
    return model(text, **arrays, z1=bias(32), z2=bias(64), z3=bias(10))
