"""Count, sum and sum of squares at every layer: all that drift is computed from, and additive over everything.

For each layer the probe gives how many values it saw in each channel, their sum and the sum of their squares, of
z = (input - moving mean)/sqrt(moving variance + epsilon). Here all layers stand behind each other in one float64 vector
that begins with the number of images, so that adding batches, minutes, processes and hosts is one vector addition.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
SUFFIXES = ("count", "sum", "sum_of_squares")  # of the probe's outputs, behind the layer's name and a slash


class LayerSums(NamedTuple):
    """What was summed at one layer; `...` are leading dimensions, none for a single window.

    Attributes:
        number: [...] values in each channel.
        total: [..., channels] sum of z.
        squares: [..., channels] sum of the squares of z.
    """

    number: Array
    total: Array
    squares: Array


@dataclass(frozen=True)
class Layout:
    """Which layer stands where in a vector of moments.

    Attributes:
        channels: how many channels each layer has, by name, in the order of the network.
    """

    channels: tuple[tuple[str, int], ...]

    @classmethod
    def of(cls, channels: Mapping[str, int] | Iterable[tuple[str, int]]) -> "Layout":
        """A layout from names and numbers of channels."""
        return cls(tuple(channels.items() if isinstance(channels, Mapping) else channels))

    @property
    def layers(self) -> tuple[str, ...]:
        """The names, in order."""
        return tuple(name for name, _ in self.channels)

    @cached_property
    def starts(self) -> dict[str, int]:
        """Where each layer's count stands; its sums and its sums of squares follow."""
        starts, at = {}, 1
        for name, channels in self.channels:
            starts[name] = at
            at += 1 + 2 * channels
        return starts

    @property
    def length(self) -> int:
        """Numbers in a vector."""
        return 1 + sum(1 + 2 * channels for _, channels in self.channels)

    @property
    def outputs(self) -> list[str]:
        """The names of the probe's outputs, in the order of the vector."""
        return [f"{name}/{suffix}" for name in self.layers for suffix in SUFFIXES]

    def sums(self, values: Array, layer: str) -> LayerSums:
        """One layer's part of vectors [..., length].

        Raises:
            KeyError: there is no such layer.
        """
        start, channels = self.starts[layer], dict(self.channels)[layer]
        middle = start + 1 + channels
        return LayerSums(values[..., start], values[..., start + 1 : middle], values[..., middle : middle + channels])


class Moments:
    """The moments of one window: a batch, a minute, or whatever was added up.

    Args:
        layout: of the vector.
        values: float64 [length]; zeros by default. It is not copied.

    Raises:
        ValueError: the vector has another length.
    """

    __slots__ = ("layout", "values")

    def __init__(self, layout: Layout, values: Array | None = None) -> None:
        self.layout = layout
        self.values = np.zeros(layout.length) if values is None else np.asarray(values, np.float64)
        if self.values.shape != (layout.length,):
            raise ValueError(f"moments of these layers are {layout.length} numbers, not {list(self.values.shape)}")

    @classmethod
    def of(cls, layout: Layout, outputs: Mapping[str, Any], images: int) -> "Moments":
        """From the probe's outputs for a batch of `images`.

        Raises:
            KeyError: an output is missing.
            ValueError: an output has another shape than the layout says.
        """
        parts = [np.ravel(np.asarray(outputs[name], np.float64)) for name in layout.outputs]
        return cls(layout, np.concatenate([[float(images)], *parts]))

    def __add__(self, other: "Moments") -> "Moments":
        if self.layout != other.layout:
            raise ValueError("moments of other layers cannot be added")
        return Moments(self.layout, self.values + other.values)

    @property
    def images(self) -> int:
        """How many images were seen."""
        return int(self.values[0])

    def layer(self, name: str) -> LayerSums:
        """What was summed at one layer.

        Raises:
            KeyError: there is no such layer.
        """
        return self.layout.sums(self.values, name)

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """By the names of the probe's outputs, and `images`; for `numpy.savez` and the like."""
        arrays: dict[str, NDArray[Any]] = {"images": np.asarray(self.images)}
        for name in self.layout.layers:
            arrays |= {f"{name}/{suffix}": part for suffix, part in zip(SUFFIXES, self.layer(name), strict=True)}
        return arrays

    @classmethod
    def from_arrays(cls, layout: Layout, arrays: Mapping[str, Any]) -> "Moments":
        """The inverse of `to_arrays`.

        Raises:
            KeyError: an array is missing.
            ValueError: an array has another shape than the layout says.
        """
        return cls.of(layout, arrays, int(arrays["images"]))
