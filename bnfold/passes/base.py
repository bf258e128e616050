"""What every pass of the compiler is: an onnx-ir pass with the compilation's context."""

from __future__ import annotations

from abc import abstractmethod

import onnx_ir as ir

from bnfold.context import Context


class FoldPass(ir.passes.InPlacePass):
    """Rewrites the main graph in place; a subclass lists its legality rules by number in its docstring."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Runs the pass once over the graph, as onnx-ir's pass managers ask for it."""
        return ir.passes.PassResult(model, modified=self._rewrite(model.graph))

    @abstractmethod
    def _rewrite(self, graph: ir.Graph) -> bool:
        """Returns whether anything was changed."""
