"""Brings a model of any exporter into the few forms that the other passes know."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import (
    LiftConstantsToInitializersPass,
    RemoveInitializersFromInputsPass,
    RemoveUnusedNodesPass,
    ShapeInferencePass,
)

from bnfold.context import Context
from bnfold.graph import (
    add_constant,
    constant,
    constant_shape,
    dims,
    float_constant,
    is_float,
    is_op,
    sole_use,
    take_over,
)
from bnfold.passes.base import FoldPass


class FreezeInitializers(ir.passes.InPlacePass):
    """Takes initializers off the list of graph inputs where the format made it a duty.

    1. Before IR version 4 every initializer had to be listed as an input, so the listing says nothing.
    2. From IR version 4 on, an initializer listed as an input is a default that the caller may replace: it stays, and
       counts as not constant.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Runs the pass once."""
        if model.ir_version >= 4:
            return ir.passes.PassResult(model, modified=False)
        model.ir_version = 4
        return RemoveInitializersFromInputsPass()(model)


class DropIdentities(FoldPass):
    """Removes Identity, and Dropout as it is at inference time.

    1. A graph input is not renamed to a graph output: that Identity stays.
    2. Dropout goes only if its mask is not read and its `training_mode` is absent or constant false.
    """

    def _rewrite(self, graph: ir.Graph) -> bool:
        modified = False
        for node in tuple(graph):
            source = node.inputs[0] if node.inputs else None
            if source is None or not (is_op(node, "Identity") or _is_idle_dropout(node)):
                continue
            output = node.outputs[0]
            if output.is_graph_output() and (source.producer() is None or source.is_graph_output()):
                continue
            take_over(output, source, self._ctx.names)
            graph.remove(node, safe=True)
            modified = True
        return modified


def _is_idle_dropout(node: ir.Node) -> bool:
    if not is_op(node, "Dropout") or any(o.uses() or o.is_graph_output() for o in node.outputs[1:]):
        return False
    mode = node.inputs[2] if len(node.inputs) > 2 else None
    value = constant(mode)
    return mode is None or (value is not None and not value.any())


class StaticReshape(FoldPass):
    """Replaces a computed shape, such as tf2onnx's Shape, Slice, Concat chain of a Flatten, by a constant.

    1. Shape inference knows every size of the result but at most one, which becomes -1.
    2. No known size is 0, which Reshape would read as "copy".
    """

    def _rewrite(self, graph: ir.Graph) -> bool:
        modified = False
        for node in graph:
            if not is_op(node, "Reshape") or constant(node.inputs[1]) is not None:
                continue
            shape = dims(node.outputs[0])
            if shape is None or sum(size is None for size in shape) > 1 or 0 in shape:
                continue
            target = np.array([-1 if size is None else size for size in shape], np.int64)
            name = f"{node.name}_shape"
            node.replace_input_with(1, add_constant(graph, self._ctx.names, name, target, ir.DataType.INT64))
            node.attributes.pop("allowzero", None)
            modified = True
        return modified


class MatMulToGemm(FoldPass):
    """Joins MatMul and the Add of a bias to one Gemm.

    1. The data are a matrix and the weights a constant matrix.
    2. The bias is a constant row: one entry per column, or one for all.
    3. The product is read by that Add alone and is no graph output.
    4. A MatMul without a bias becomes a Gemm too, so that it can be given one.
    """

    def _rewrite(self, graph: ir.Graph) -> bool:
        modified = False
        for node in tuple(graph):
            if not is_op(node, "MatMul") or not is_float(node.inputs[0]):
                continue
            weight, shape = constant_shape(node.inputs[1]), dims(node.inputs[0])
            if weight is None or len(weight) != 2 or shape is None or len(shape) != 2:
                continue
            modified = True
            add, bias = _bias_add(node, weight[1])
            last = node if add is None else add
            gemm = ir.node("Gemm", [*node.inputs, bias] if bias is not None else list(node.inputs), name=node.name)
            result = gemm.outputs[0]
            old = last.outputs[0]
            result.name, result.shape, result.type = self._ctx.names.fresh(f"{old.name}_gemm"), old.shape, old.type
            name, final = old.name, old.is_graph_output()
            graph.insert_after(last, gemm)
            take_over(old, result, self._ctx.names)
            graph.remove([last] if last is node else [last, node], safe=True)
            if not final:
                result.name = name
        return modified


def _bias_add(node: ir.Node, width: int) -> tuple[ir.Node | None, ir.Value | None]:
    use = sole_use(node.outputs[0])
    if use is None or not is_op(use.node, "Add"):
        return None, None
    bias = use.node.inputs[1 - use.index]
    array = float_constant(bias)
    if array is None or bias is None or bias.dtype != node.outputs[0].dtype or array.ndim > 2:
        return None, None
    row = array.shape[-1:] in ((width,), (1,), ()) and all(size == 1 for size in array.shape[:-1])
    return (use.node, bias) if row else (None, None)


class OrderInitializers(FoldPass):
    """Puts the initializers into the order in which the nodes read them, so that equal graphs are equal files."""

    def _rewrite(self, graph: ir.Graph) -> bool:
        read = dict.fromkeys(value for node in graph.all_nodes() for value in node.inputs if value is not None)
        known = dict(graph.initializers)
        ordered = [value for value in read if known.get(value.name or "") is value]
        ordered += [value for value in known.values() if value not in read]
        graph.initializers.clear()
        for value in ordered:
            graph.initializers.add(value)
        return False


class NameNodes(FoldPass):
    """Gives every node without a name its own, so that a report can speak of it."""

    def _rewrite(self, graph: ir.Graph) -> bool:
        for node in graph:
            if not node.name:
                node.name = self._ctx.names.fresh(f"{node.op_type}_{node.outputs[0].name}")
        return False


def preparation(ctx: Context) -> ir.passes.Sequential:
    """All of them, in order."""
    return ir.passes.Sequential(
        FreezeInitializers(),
        NameNodes(ctx),
        LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        ShapeInferencePass(data_prop=True),
        DropIdentities(ctx),
        StaticReshape(ctx),
        RemoveUnusedNodesPass(),
        MatMulToGemm(ctx),
    )
