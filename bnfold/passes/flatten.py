"""Removes the Transpose in front of a Flatten by permuting the rows of the matrix behind it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from bnfold.graph import add_lazy_constant, constant_shape, dims, ints, is_op, sole_use
from bnfold.passes.base import FoldPass
from bnfold.rules.base import label
from bnfold.weights import exact, permuted


class PermuteDense(FoldPass):
    """Transpose, Reshape to rows, Gemm: the Gemm's rows are permuted and the Transpose goes.

    1. The Transpose keeps the batch axis first, and every other size is known.
    2. The Reshape makes one row of each example by a constant shape that copies no size but the batch's; nobody else
       reads its result or the Transpose's.
    3. The Gemm reads it as data, untransposed, and its weights are constant.
    """

    def _rewrite(self, graph: ir.Graph) -> bool:
        modified = False
        for node in reversed(tuple(graph)):  # the last of several comes first, the next then stands before the Reshape
            modified |= is_op(node, "Transpose") and self._permute(graph, node)
        return modified

    def _permute(self, graph: ir.Graph, transpose: ir.Node) -> bool:
        source, target = dims(transpose.inputs[0]), dims(transpose.outputs[0])
        use = sole_use(transpose.outputs[0])
        if source is None or target is None or None in source[1:] or use is None:
            return False
        order = tuple(transpose.attributes.get_ints("perm", tuple(reversed(range(len(source))))))
        width = int(np.prod([size for size in source[1:] if size is not None], dtype=np.int64))
        rows = dims(use.node.outputs[0])
        if not is_op(use.node, "Reshape", "Flatten") or use.index != 0 or rows is None or len(rows) != 2:
            return False
        if is_op(use.node, "Reshape") and 0 in (ints(use.node.inputs[1]) or (0, 0))[1:]:
            return False
        reader = sole_use(use.node.outputs[0])
        if order[0] != 0 or rows[1] != width or reader is None or not is_op(reader.node, "Gemm") or reader.index != 0:
            return False
        gemm = reader.node
        value = gemm.inputs[1]
        shape, data_transposed = constant_shape(value), gemm.attributes.get_int("transA", 0)
        if shape is None or value is None or value.dtype is None or data_transposed:
            return False
        # Column j of the transposed row holds element places[j] of the untransposed one.
        places = np.arange(width).reshape([size or 1 for size in source[1:]])
        places = places.transpose([axis - 1 for axis in order[1:]]).reshape(-1)
        back = np.argsort(places)
        values = permuted(exact(value), back, axis=gemm.attributes.get_int("transB", 0))
        name = self._ctx.names.fresh(f"{value.name}_rows")
        gemm.replace_input_with(1, add_lazy_constant(graph, name, values, shape, value.dtype))
        use.node.replace_input_with(0, transpose.inputs[0])
        self._ctx.ledger.notes.append(f"{label(transpose)} went into the rows of {label(gemm)}")
        graph.remove(transpose, safe=True)
        return True
