"""Turns every constant affine of the graph into the compiler's own `Affine` operator."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from bnfold.affine import Affine, Array
from bnfold.context import DOMAIN, Original, Pending, affine_node, pending
from bnfold.graph import dims, float_constant, is_float, is_op, sole_use
from bnfold.ledger import Record
from bnfold.passes.base import FoldPass

DEFAULT_EPSILON = float(np.float32(1e-5))
"""An attribute is a 32-bit float, and so is its default."""

WARN_CANCELLATION = 100.0
"""Relative errors of about 5e-5 follow from a forward fold at this |mean| / sigma (docs/folding.md)."""

STATISTICS = ("scale", "bias", "mean", "variance")


class LiftAffines(FoldPass):
    """Lifts BatchNormalization and constant Mul, Add, Sub, Div and Neg to `Affine`, in float64.

    1. BatchNormalization is in inference mode: `training_mode` is 0 and no further output is read.
    2. Its scale, bias, mean and variance are constant, and variance + epsilon is positive.
    3. The rank of the tensor is known.
    4. A constant operand does not widen the tensor: along every axis it has the size 1 or the tensor's known size. Its
       axes are those that broadcasting gives it, whatever their lengths.
    5. A constant does not vary along the batch axis.
    6. Every number is finite, and no divisor is zero.
    """

    def _rewrite(self, graph: ir.Graph) -> bool:
        modified = False
        for node in tuple(graph):
            if is_op(node, "BatchNormalization"):
                modified |= self._lift_batchnorm(node)
            elif is_op(node, "Mul", "Add", "Sub", "Div", "Neg"):
                modified |= self._lift_arithmetic(node)
                self._note_missing_constant(node)
        for node in tuple(graph):
            if pending(node) is not None:
                _join_pair(node)
        if modified:
            graph.opset_imports[DOMAIN] = 1
        return modified

    def _lift_batchnorm(self, node: ir.Node) -> bool:
        source = node.inputs[0]
        assert source is not None
        record = self._ctx.ledger.open(node.name or "", "BatchNormalization", source)
        found = _batchnorm(node, record, self._ctx.ledger.notes)
        if isinstance(found, str):
            record.kept = found
            record.residual.append(node)
            return False
        self._replace(node, source, found, record)
        return True

    def _lift_arithmetic(self, node: ir.Node) -> bool:
        found = _arithmetic(node)
        if found is None:
            return False
        source, affine = found
        record = self._ctx.ledger.open(node.name or "", "arithmetic", source)
        record.bias = is_op(source.producer(), "MatMul") and not affine.scales
        self._replace(node, source, affine, record)
        return True

    def _note_missing_constant(self, node: ir.Node) -> None:
        """Says which input of the graph could be a constant: exporters lose the values of some."""
        for value, data in (tuple(node.inputs), tuple(reversed(node.inputs))) if len(node.inputs) == 2 else ():
            shape, wide = dims(value), dims(data)
            if value is None or not value.is_graph_input() or not is_float(value) or shape is None or not wide:
                continue
            if None not in shape and len(shape) > 0 and shape != wide and _fits(shape, wide):
                self._ctx.ledger.notes.append(
                    f"{node.name}: its operand {value.name} is an input without a value; as an initializer it would be "
                    "folded (tf2onnx makes inputs of a Normalization layer's statistics)"
                )

    def _replace(self, node: ir.Node, source: ir.Value, affine: Affine, record: Record) -> None:
        output = node.outputs[0]
        operands = tuple(None if value is source else value for value in node.inputs)
        attributes = tuple(node.attributes.values())
        original = Original(node.op_type, operands, attributes, node.name or "", output.name or "")
        lifted = affine_node(source, Pending(affine, (record,), (original,)), node.name or "", "")
        result, name = lifted.outputs[0], output.name
        result.name = self._ctx.names.fresh(f"{name}_affine")
        result.shape, result.type = output.shape, output.type
        graph = node.graph
        assert isinstance(graph, ir.Graph)
        graph.insert_after(node, lifted)
        final = output.is_graph_output()
        if final:
            output.name = self._ctx.names.fresh(f"{name}_before")
        output.replace_all_uses_with(result, replace_graph_outputs=True)
        graph.remove(node, safe=True)
        result.name = name


def _batchnorm(node: ir.Node, record: Record, notes: list[str]) -> Affine | str:
    if node.attributes.get_int("training_mode", 0) or any(o.uses() or o.is_graph_output() for o in node.outputs[1:]):
        return "it is in training mode: it normalises with the statistics of the batch"
    shape = dims(node.inputs[0])
    if shape is None or len(shape) < 2 or not is_float(node.inputs[0]):
        return "the rank or type of its input is not known"
    arrays = [float_constant(value) for value in node.inputs[1:5]]
    for name, array in zip(STATISTICS, arrays, strict=True):
        if array is None:
            return f"its {name} is not constant"
    gamma, beta, mean, variance = (array for array in arrays if array is not None)
    epsilon = node.attributes.get_float("epsilon", DEFAULT_EPSILON)
    with np.errstate(all="ignore"):
        try:
            affine = Affine.of_batchnorm(gamma, beta, mean, variance, epsilon)
        except ValueError as error:
            return f"{error}"
        ratio = np.abs(mean) / np.sqrt(variance + epsilon)
        spread = np.sqrt((gamma**2).sum())
        constant = np.sqrt(((affine.scale * mean) ** 2).sum())
    record.conditioning = float(ratio.max(initial=0.0))
    record.cancellation = float(constant / spread) if spread > 0 else 0.0
    if record.cancellation > WARN_CANCELLATION:
        notes.append(f"{record.name}: |mean| is about {record.cancellation:.0f} sigma: a forward fold loses digits")
    wide = (1, -1) + (1,) * (len(shape) - 2)
    return affine.move(lambda array: array.reshape(wide))


ARITHMETIC: dict[tuple[str, int], Callable[[Array], Affine]] = {
    ("Mul", 0): lambda c: Affine(c, 0.0),
    ("Mul", 1): lambda c: Affine(c, 0.0),
    ("Add", 0): lambda c: Affine(1.0, c),
    ("Add", 1): lambda c: Affine(1.0, c),
    ("Sub", 0): lambda c: Affine(-1.0, c),
    ("Sub", 1): lambda c: Affine(1.0, -c),
    ("Div", 1): lambda c: Affine(1.0 / c, 0.0),
    ("Neg", 1): lambda c: Affine(-1.0, 0.0 * c),
}
"""The affine that an operator is when its operand of this index is the constant c."""


def _arithmetic(node: ir.Node) -> tuple[ir.Value, Affine] | None:
    operands = [float_constant(value) for value in node.inputs]
    if is_op(node, "Neg"):
        operands.append(np.zeros(()))
    places = [index for index, operand in enumerate(operands) if operand is not None]
    of = ARITHMETIC.get((node.op_type, places[0])) if len(places) == 1 else None
    if of is None:
        return None
    constant, source = operands[places[0]], node.inputs[1 - places[0]]
    shape = dims(source)
    if source is None or constant is None or not shape or not is_float(source) or not _fits(constant.shape, shape):
        return None
    with np.errstate(all="ignore"):
        try:
            affine = of(constant.reshape((1,) * (len(shape) - constant.ndim) + constant.shape))
        except ValueError:  # an infinity or a NaN
            return None
    return source, affine.compressed()


def _fits(constant: tuple[int | None, ...], shape: tuple[int | None, ...]) -> bool:
    """Whether a constant of this shape neither widens a tensor nor varies along its batch."""
    if len(constant) > len(shape) or 0 in constant:
        return False
    aligned = (1,) * (len(shape) - len(constant)) + constant
    return aligned[0] == 1 and all(have in (1, size) for have, size in zip(aligned, shape, strict=True))


def _join_pair(node: ir.Node) -> None:
    """A scale and the shift after it are one affine of the input graph: one entry in the report, `mul+add`."""
    first = pending(node)
    use = sole_use(node.outputs[0])
    second = pending(use.node) if use is not None else None
    if first is None or second is None or use is None or node.inputs[0] is None:
        return
    kinds = {record.kind for record in (*first.origins, *second.origins)}
    if kinds != {"arithmetic"} or first.affine.shifts or second.affine.scales or not second.affine.shifts:
        return
    record, other = first.origins[0], second.origins[0]
    record.name = f"{record.name}+{other.name}"
    other.bias = True
    second.affine, second.origins = second.affine.compose(first.affine), (record,)
    second.originals = (*first.originals, *second.originals)
    use.node.replace_input_with(0, node.inputs[0])
    assert isinstance(node.graph, ir.Graph)
    node.graph.remove(node, safe=True)
