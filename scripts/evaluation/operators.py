"""Counts what batch normalisation costs in a graph, without asking the compiler."""

from typing import NamedTuple

import onnx

AFFINES = ("Mul", "Add", "Sub", "Div")
WEIGHTS = ("Conv", "FusedConv", "ConvTranspose", "Gemm", "FusedGemm", "MatMul", "FusedMatMul")
CLAMPS = ("Relu", "Max", "Min", "Clip", "LeakyRelu")


class Count(NamedTuple):
    """Operators of a graph that batch normalisation may have brought about."""

    affines: int
    """BatchNormalization, arithmetic with a constant, and the depthwise 1x1 convolutions that are made of them."""
    clamps: int
    """ReLUs and what may stand for one: a maximum or minimum, or an activation fused into another operator."""
    layers: int = 0
    """Convolutions and matrix products: one that is computed twice to take an affine in is no gain."""

    def beyond(self, twin: "Count") -> int:
        """Operators that are there only because of batch normalisation.

        Args:
            twin: what the same tool leaves of the same network built without batch normalisation.
        """
        return sum(max(0, mine - its) for mine, its in zip(self, twin, strict=True))


def count(model: onnx.ModelProto) -> Count:
    """Counts the main graph, without what is computed from constants alone."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    affines = clamps = layers = 0
    for node in model.graph.node:
        given = [name for name in node.input if name]
        if all(name in shapes for name in given):  # Runs once, when the graph is loaded.
            shapes |= dict.fromkeys(node.output, ())
            continue
        affine = _is_affine(node, shapes)
        affines += affine
        layers += node.op_type in WEIGHTS and not affine
        clamps += node.op_type in CLAMPS or any(a.name == "activation" and bool(a.s) for a in node.attribute)
    return Count(affines, clamps, layers)


def _is_affine(node: onnx.NodeProto, shapes: dict[str, tuple[int, ...]]) -> bool:
    if node.op_type == "BatchNormalization":
        return True
    if node.op_type in AFFINES:
        return any(name in shapes for name in node.input)
    weight = shapes.get(node.input[1], ()) if node.op_type in ("Conv", "FusedConv") else ()
    group = next((a.i for a in node.attribute if a.name == "group"), 1)
    return len(weight) > 2 and group > 1 and set(weight[1:]) == {1}
