"""Turns what is left of the compiler's own operator back into standard ONNX."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from bnfold.affine import Affine, Array
from bnfold.context import DOMAIN, Pending, pending
from bnfold.graph import add_constant, dims, is_op
from bnfold.passes.base import FoldPass


class LowerAffines(FoldPass):
    """Writes each remaining `Affine` as standard operators, one where one can express it.

    1. An affine that still stands where it was lifted, unchanged, is put back as it was.
    2. A map along axis 1 alone becomes one BatchNormalization with mean 0, variance 1 and epsilon 0.
    3. A scale alone becomes a Mul, a shift alone an Add, unless the target says otherwise.
    4. Every other map becomes a Mul and an Add.
    """

    def _rewrite(self, graph: ir.Graph) -> bool:
        modified = False
        for node in tuple(graph):
            what = pending(node)
            if what is not None:
                self._lower(graph, node, what)
                modified = True
        graph.opset_imports.pop(DOMAIN, None)
        return modified

    def _lower(self, graph: ir.Graph, node: ir.Node, what: Pending) -> None:
        source, output = node.inputs[0], node.outputs[0]
        assert source is not None
        written = self._nodes(graph, node, source, what)
        name, final = output.name, output.is_graph_output()
        result = written[-1].outputs[0]
        output.name = self._ctx.names.fresh(f"{name}_lowered")
        result.name, result.shape, result.type = name, output.shape, output.type
        graph.insert_after(node, written)
        for record in self._ctx.ledger.records:
            if record.watch.value is output:
                record.watch.value = result
        output.replace_all_uses_with(result, replace_graph_outputs=final)
        graph.remove(node, safe=True)
        bias = not what.affine.scales and is_op(source.producer(), "MatMul")
        for record in what.origins:
            record.residual.extend([] if bias else written)

    def _nodes(self, graph: ir.Graph, node: ir.Node, source: ir.Value, what: Pending) -> list[ir.Node]:
        base = node.name or "affine"
        if len(what.originals) == 1:
            return [what.originals[0].node(source)]
        affine = _rounded(what.affine, source)
        shape = dims(source) or ()
        feature_map = len(shape) > 2
        channels = shape[1] if len(shape) > 1 else None
        both = affine.scales and affine.shifts
        preferred = both or (affine.shifts and feature_map and self._ctx.target.bare_shift == "BatchNormalization")
        vectors = affine.vectors(1, channels) if channels is not None and preferred else None
        if vectors is not None:
            return [self._batchnorm(graph, base, source, *vectors)]
        if what.originals:
            first, second = what.originals
            before = first.node(source)
            return [before, second.node(before.outputs[0])]
        return self._arithmetic(graph, base, source, affine)

    def _arithmetic(self, graph: ir.Graph, base: str, source: ir.Value, affine: Affine) -> list[ir.Node]:
        written: list[ir.Node] = []
        both = affine.scales and affine.shifts
        for op_type, present, array in (
            ("Mul", affine.scales or not affine.shifts, affine.scale),
            ("Add", affine.shifts, affine.shift),
        ):
            if present:
                constant = self._constant(graph, f"{base}_{op_type.lower()}", source, _short(array))
                last = written[-1].outputs[0] if written else source
                name = self._ctx.names.fresh(f"{base}_{op_type.lower()}") if both else base
                written.append(ir.node(op_type, [last, constant], name=name))
                written[-1].outputs[0].type, written[-1].outputs[0].shape = source.type, source.shape
                written[-1].outputs[0].name = self._ctx.names.fresh(f"{name}_output")
        return written

    def _batchnorm(self, graph: ir.Graph, base: str, source: ir.Value, scale: Array, shift: Array) -> ir.Node:
        operands = {"scale": scale, "shift": shift, "mean": np.zeros_like(scale), "variance": np.ones_like(scale)}
        constants = [self._constant(graph, f"{base}_{key}", source, array) for key, array in operands.items()]
        return ir.node("BatchNormalization", [source, *constants], attributes={"epsilon": 0.0}, name=base)

    def _constant(self, graph: ir.Graph, base: str, source: ir.Value, array: Array) -> ir.Value:
        assert source.dtype is not None
        return add_constant(graph, self._ctx.names, base, array, source.dtype)


def _rounded(affine: Affine, source: ir.Value) -> Affine:
    """The map as it can be written: rounding may take away the last variation along an axis."""
    assert source.dtype is not None
    dtype = source.dtype.numpy()
    with np.errstate(over="ignore", under="ignore"):
        scale, shift = (array.astype(dtype).astype(np.float64) for array in (affine.scale, affine.shift))
    finite = np.isfinite(scale).all() and np.isfinite(shift).all()
    return Affine(scale, shift).compressed() if finite else affine


def _short(array: Array) -> Array:
    """Without leading axes of size 1, which broadcasting adds again."""
    while array.ndim > 1 and array.shape[0] == 1:
        array = array[0]
    return array
