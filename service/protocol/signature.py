"""What a model takes and gives."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from service.protocol.datatypes import Datatype


@dataclass(frozen=True, slots=True)
class Tensor:
    """An input or output: its name, datatype and shape, the batch included; -1 is a dimension that may vary."""

    name: str
    datatype: Datatype
    shape: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        """As the protocol's model metadata lists it."""
        return {"name": self.name, "datatype": self.datatype.name, "shape": list(self.shape)}


@dataclass(frozen=True, slots=True)
class Signature:
    """Inputs and outputs, in the order of the graph.

    Attributes:
        model: the model's name, for messages.
        inputs, outputs: the tensors.
        batched: whether the first dimension of every one of them is a batch that may vary.
        max_batch_size: most rows of one request, where `batched`.
    """

    model: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    max_batch_size: int
    batched: bool = field(init=False)
    input_names: dict[str, int] = field(init=False, repr=False)
    output_names: dict[str, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        every: Sequence[Tensor] = self.inputs + self.outputs
        object.__setattr__(self, "batched", all(t.shape and t.shape[0] == -1 for t in every))
        object.__setattr__(self, "input_names", {t.name: i for i, t in enumerate(self.inputs)})
        object.__setattr__(self, "output_names", {t.name: i for i, t in enumerate(self.outputs)})
