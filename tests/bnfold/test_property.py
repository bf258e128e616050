"""Random small graphs with random statistics: folding changes the graph alone, and folding twice changes nothing."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import onnx
import onnx.printer
import onnxruntime as ort
import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import bnfold
from bnfold.evaluate import Float64Evaluator
from bnfold.samples import samples
from tests.bnfold.graphs import assert_taps

EXAMPLES = int(os.environ.get("FOLDSERVE_FOLD_EXAMPLES", "150"))
"""2,000 for a release, 20,000 at night; tests/bnfold alone must stay quick."""


class Drawn:
    """A graph under construction from hypothesis' choices."""

    def __init__(self, draw: Any) -> None:
        self.draw = draw
        self.rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.sizes: dict[str, tuple[int, int]] = {"x": (draw(st.integers(1, 4)), draw(st.integers(6, 9)))}
        """Channels and side of every tensor so far; all are square feature maps."""

    def constant(self, array: Any) -> str:
        name = f"k{len(self.constants)}"
        array = np.asarray(array)
        wide = array.astype(np.float32) if array.dtype.kind == "f" else array
        self.constants.append(numpy_helper.from_array(wide, name))
        return name

    def add(self, op: str, inputs: list[str], size: tuple[int, int], **attributes: Any) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], **attributes))
        self.sizes[name] = size
        return name

    def pick(self) -> str:
        """A tensor, most often the newest."""
        names = list(self.sizes)
        back: int = self.draw(st.sampled_from([0, 0, 0, 0, 1, 2]))
        return names[-1 - back % len(names)]

    def step(self) -> None:
        x = self.pick()
        kind = self.draw(st.sampled_from(STEPS))
        getattr(self, kind)(x, *self.sizes[x])

    def conv(self, x: str, channels: int, side: int) -> None:
        kernel = self.draw(st.sampled_from([1, 2, 3]))
        pad = self.draw(st.sampled_from([0, 0, 1]))
        if side + 2 * pad < kernel:
            return
        group = channels if self.draw(st.integers(0, 3)) == 0 else 1
        outputs = channels if group > 1 else self.draw(st.integers(1, 4))
        fan = channels // group * kernel**2
        w = self.constant(self.rng.normal(0, 1 / np.sqrt(fan), (outputs, channels // group, kernel, kernel)))
        inputs = [x, w] + ([self.constant(self.rng.normal(0, 0.5, outputs))] if self.draw(st.booleans()) else [])
        self.add("Conv", inputs, (outputs, side + 2 * pad - kernel + 1), pads=[pad] * 4, group=group)

    def deconv(self, x: str, channels: int, side: int) -> None:
        w = self.constant(self.rng.normal(0, 0.5, (channels, 2, 2, 2)))
        if side < 8:
            self.add("ConvTranspose", [x, w], (2, 2 * side), strides=[2, 2])

    def batchnorm(self, x: str, channels: int, side: int) -> None:
        gamma = self.rng.uniform(0.5, 1.5, channels) * np.array(
            [self.draw(st.sampled_from([1, 1, 1, -1, 0, 1e-8])) for _ in range(channels)]
        )
        variance = self.rng.uniform(0.3, 2, channels) * self.draw(st.sampled_from([1.0, 1.0, 0.0]))
        mean = self.rng.normal(0, 0.5, channels) * self.draw(st.sampled_from([1.0, 1.0, 10.0]))
        beta = self.rng.normal(0, 0.5, channels)
        operands = [self.constant(array) for array in (gamma, beta, mean, variance)]
        epsilon = self.draw(st.sampled_from([1e-2, 1e-1, 1.0]))
        self.add("BatchNormalization", [x, *operands], (channels, side), epsilon=epsilon)

    def arithmetic(self, x: str, channels: int, side: int) -> None:
        op = self.draw(st.sampled_from(["Mul", "Add", "Sub", "Div"]))
        shape = self.draw(st.sampled_from([(), (1, channels, 1, 1), (channels, 1, 1), (side, 1), (1, side)]))
        array = self.rng.uniform(0.5, 1.5, shape) * self.draw(st.sampled_from([1, -1]))
        operands = [x, self.constant(array)]
        if op in ("Add", "Mul", "Sub") and self.draw(st.booleans()):
            operands.reverse()
        self.add(op, operands, (channels, side))

    def activation(self, x: str, channels: int, side: int) -> None:
        op = self.draw(st.sampled_from(["Relu", "Relu", "Relu", "LeakyRelu", "Sigmoid", "Tanh", "Identity"]))
        self.add(op, [x], (channels, side))

    def pool(self, x: str, channels: int, side: int) -> None:
        op = self.draw(st.sampled_from(["MaxPool", "MaxPool", "AveragePool"]))
        pad = self.draw(st.sampled_from([0, 0, 1]))
        attributes = {"count_include_pad": self.draw(st.integers(0, 1))} if op == "AveragePool" else {}
        if side >= 2:
            self.add(op, [x], (channels, side + 2 * pad - 1), kernel_shape=[2, 2], pads=[pad] * 4, **attributes)

    def pad(self, x: str, channels: int, side: int) -> None:
        mode = self.draw(st.sampled_from(["constant", "edge"]))
        inputs = [x, self.constant(np.array([0, 0, 1, 1, 0, 0, 0, 0]))]
        self.add("Pad", inputs, (channels, side + 1), mode=mode)

    def crop(self, x: str, channels: int, side: int) -> None:
        ends = [self.constant(np.array(a)) for a in ([0, 1], [side - 1, side], [2, 3])]
        if side > 2:
            self.add("Slice", [x, *ends], (channels, side - 1))

    def swap(self, x: str, channels: int, side: int) -> None:
        self.add("Transpose", [x], (channels, side), perm=[0, 1, 3, 2])

    def join(self, x: str, channels: int, side: int) -> None:
        others = [name for name, (_, other) in self.sizes.items() if other == side]
        y = self.draw(st.sampled_from(others))
        self.add("Concat", [x, y], (channels + self.sizes[y][0], side), axis=1)

    def combine(self, x: str, channels: int, side: int) -> None:
        y = self.draw(st.sampled_from([name for name, size in self.sizes.items() if size == (channels, side)]))
        self.add(self.draw(st.sampled_from(["Add", "Add", "Sub", "Mul"])), [x, y], (channels, side))

    def finish(self) -> onnx.ModelProto:
        last = list(self.sizes)[-1]
        channels, side = self.sizes[last]
        outputs = [last] if last != "x" else [self.add("Relu", ["x"], self.sizes["x"])]
        if self.draw(st.booleans()):
            flat = self.add("Flatten", [last], (0, 0))
            w = self.constant(self.rng.normal(0, 1 / np.sqrt(channels * side**2), (channels * side**2, 3)))
            outputs = [self.add("Gemm", [flat, w, self.constant(self.rng.normal(0, 0.5, 3))], (0, 0))]
        inner = [name for name, size in self.sizes.items() if name not in ("x", *outputs) and size != (0, 0)]
        if inner and self.draw(st.integers(0, 3)) == 0:
            outputs.append(self.draw(st.sampled_from(inner)))
        channels, side = self.sizes["x"]
        graph = helper.make_graph(
            self.nodes,
            "drawn",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", channels, side, side])],
            [helper.make_empty_tensor_value_info(name) for name in outputs],
            self.constants,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
        inferred = onnx.shape_inference.infer_shapes(model)
        del model.graph.output[:]
        model.graph.output.extend(inferred.graph.output)
        return model


STEPS: tuple[str, ...] = (
    ("conv",) * 5 + ("batchnorm",) * 7 + ("activation",) * 4 + ("pool",) * 3 + ("join", "combine", "arithmetic") * 2
)
STEPS += ("pad", "crop", "swap", "deconv")


@st.composite
def graphs(draw: Any) -> onnx.ModelProto:
    """Random graphs of three to ten operators."""
    drawn = Drawn(draw)
    for _ in range(draw(st.integers(3, 10))):
        drawn.step()
    return drawn.finish()


def _run(model: onnx.ModelProto, batch: dict[str, Any]) -> list[Any]:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, batch))


@pytest.mark.slow
@given(model=graphs(), target=st.sampled_from(sorted(bnfold.TARGETS)))
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), derandomize=EXAMPLES <= 150)
def test_fold_changes_nothing_but_the_graph(model: onnx.ModelProto, target: str) -> None:
    note(onnx.printer.to_text(model))
    onnx.checker.check_model(model, full_check=True)
    outcome = bnfold.fold(model, target=target)
    result = outcome.model
    onnx.checker.check_model(result, full_check=True)
    assert len(result.graph.node) <= len(model.graph.node)
    again = bnfold.fold(result, target=target).model
    assert again.SerializeToString(deterministic=True) == result.SerializeToString(deterministic=True)
    assert_taps(model, outcome, samples(model, count=2)["random"])
    evaluate = Float64Evaluator(model)
    for kind, batch in samples(model, count=2).items():
        truth = evaluate(batch)
        for name, plain, found in zip(truth, _run(model, batch), _run(result, batch), strict=True):
            exact = truth[name]
            scale = max(1.0, float(np.abs(exact).max(initial=0)))
            # Random statistics can make the unfolded graph itself inexact; the fold may not be much worse.
            allowed = 1e-5 * scale + 30 * float(np.abs(plain - exact).max(initial=0))
            error = float(np.abs(found - exact).max(initial=0))
            assert error <= allowed, f"{kind}, output {name}: {error:.3g} > {allowed:.3g}"
