"""What the passes of one compilation share."""

from __future__ import annotations

from dataclasses import dataclass, field

import onnx_ir as ir

from bnfold.affine import Affine
from bnfold.graph import Names
from bnfold.ledger import Ledger, Record
from bnfold.target import Target

DOMAIN = "bnfold"
"""Domain of the compiler's own operator, `Affine`, which exists only between lifting and lowering."""


@dataclass(eq=False)
class Context:
    """Target, names and books of one compilation."""

    target: Target
    names: Names
    ledger: Ledger = field(default_factory=Ledger)


@dataclass(frozen=True)
class Original:
    """An operator that was lifted."""

    op_type: str
    operands: tuple[ir.Value | None, ...]
    """Its constants; None stands for the data."""
    attributes: tuple[ir.Attr, ...]
    name: str
    output: str

    def node(self, source: ir.Value) -> ir.Node:
        """The operator again, on `source` as its data."""
        inputs = [source if operand is None else operand for operand in self.operands]
        node = ir.Node("", self.op_type, inputs, attributes=self.attributes, name=self.name)
        node.outputs[0].name, node.outputs[0].shape, node.outputs[0].type = self.output, source.shape, source.type
        return node


@dataclass(eq=False)
class Pending:
    """What an `Affine` node stands for."""

    affine: Affine
    origins: tuple[Record, ...]
    originals: tuple[Original, ...] = ()
    """The operators that it was lifted from, while it is still exactly that: what is not moved is put back."""

    @property
    def lone(self) -> bool:
        """Whether it is one arithmetic operator of the given graph, as cheap as any form of it."""
        return len(self.originals) == 1 and self.originals[0].op_type != "BatchNormalization"

    def absorb(self, inner: Affine, origins: tuple[Record, ...]) -> None:
        """Takes in an affine that stood before this one."""
        self._merge(self.affine.compose(inner).compressed(), origins)

    def extend(self, outer: Affine, origins: tuple[Record, ...]) -> None:
        """Takes in an affine that stood after this one."""
        self._merge(outer.compose(self.affine).compressed(), origins)

    def _merge(self, affine: Affine, origins: tuple[Record, ...]) -> None:
        self.affine = affine
        self.origins = tuple(dict.fromkeys((*origins, *self.origins)))
        self.originals = ()


def pending(node: ir.Node | None) -> Pending | None:
    """What an `Affine` node stands for; None for every other node."""
    if node is None or node.domain != DOMAIN:
        return None
    found = node.meta["pending"]
    assert isinstance(found, Pending)
    return found


def affine_node(source: ir.Value, what: Pending, name: str, output: str) -> ir.Node:
    """A new `Affine` node on `source`, not yet in a graph."""
    node = ir.node("Affine", inputs=[source], domain=DOMAIN, name=name)
    node.meta["pending"] = what
    result = node.outputs[0]
    result.name, result.shape, result.type = output, source.shape, source.type
    return node


def insert_after(value: ir.Value, node: ir.Node) -> None:
    """Places `node`, which reads `value`, as early as it can stand."""
    producer = value.producer()
    if producer is not None and producer.graph is not None:
        producer.graph.insert_after(producer, node)
        return
    graph = value.graph
    assert isinstance(graph, ir.Graph)
    first = next(iter(graph), None)
    if first is None:
        graph.append(node)
    else:
        graph.insert_before(first, node)
