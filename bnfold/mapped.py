"""Reads a model and leaves its large weights in the file, from where a fold reads them when it needs them.

A model in memory has to hold them, and protobuf copies them again whenever they are read. The file is in protobuf's
wire format (see `wire.py`): a scan of the keys and lengths finds the data without reading them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import onnx_ir as ir

from bnfold.files import load
from bnfold.graph import FLOATS
from bnfold.wire import GRAPH, INITIALIZER, RAW_DATA, field_key

LEAST = 1 << 16
"""Bytes; smaller weights are read with the model."""
VARINT, EIGHT, MESSAGE, FOUR = 0, 1, 2, 5
"""Wire types; bytes and strings are of the same type as messages."""
PLAIN = frozenset(onnx.TensorProto.DESCRIPTOR.fields_by_name[name].number for name in ("dims", "data_type", "name"))


class Mapped(NamedTuple):
    """A model without the data of its large weights, and these by name."""

    model: onnx.ModelProto
    weights: dict[str, ir.TensorProtocol]


class Field(NamedTuple):
    """A field of a message: its number, its wire type, and where it, its value and what follows it begin."""

    number: int
    kind: int
    begin: int
    value: int
    end: int


def load_mapped(path: Path) -> Mapped:
    """Reads a model without its large weights; with them, if they are in other files or the file is not as expected.

    Raises:
        InputError: the file is missing, is no ONNX model, or its external data cannot be read.
    """
    weights: dict[str, ir.TensorProtocol] = {}
    try:
        with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as content:
            model = onnx.load_model_from_string(b"".join(_light_model(content, path, weights)))
    except Exception:  # `load` says what is wrong; protobuf's own error class has no types.
        return Mapped(load(path), {})
    external = any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in model.graph.initializer)
    return Mapped(load(path), {}) if external else Mapped(model, weights)


def _light_model(content: mmap, path: Path, weights: dict[str, ir.TensorProtocol]) -> Iterator[bytes]:
    """The file without the data that it adds to `weights`."""
    for field in _fields(content, 0, len(content)):
        if (field.number, field.kind) != (GRAPH, MESSAGE):
            yield content[field.begin : field.end]
            continue
        parts = []
        for part in _fields(content, field.value, field.end):
            light = _light_tensor(content, part, path, weights)
            parts.append(
                content[part.begin : part.end] if light is None else field_key(INITIALIZER, len(light)) + light
            )
        yield field_key(GRAPH, sum(map(len, parts)))
        yield from parts


def _light_tensor(content: mmap, part: Field, path: Path, weights: dict[str, ir.TensorProtocol]) -> bytes | None:
    """A field of a graph without its data, if it is a large initializer of plain numbers; None if it is not."""
    if (part.number, part.kind) != (INITIALIZER, MESSAGE) or part.end - part.value < LEAST:
        return None
    fields = tuple(_fields(content, part.value, part.end))
    data = [field for field in fields if (field.number, field.kind) == (RAW_DATA, MESSAGE)]
    rest = [field for field in fields if field not in data]
    if len(data) != 1 or any(field.number not in PLAIN for field in rest):
        return None
    light = b"".join(content[field.begin : field.end] for field in rest)
    tensor = onnx.TensorProto.FromString(light)
    if tensor.name in weights or tensor.data_type not in FLOATS:
        return None
    dtype, shape = ir.DataType(tensor.data_type), tuple(tensor.dims)
    if math.prod(shape) * dtype.itemsize != data[0].end - data[0].value:
        return None
    weights[tensor.name] = _tensor(path, data[0].value, dtype, shape, tensor.name)
    return light


def _tensor(path: Path, place: int, dtype: ir.DataType, shape: tuple[int, ...], name: str) -> ir.LazyTensor:
    """A tensor in a file: mapped into memory as long as somebody holds its array."""

    def read() -> ir.TensorProtocol:
        mapped = np.memmap(path, dtype.numpy().newbyteorder("<"), "r", place, shape)
        return ir.tensor(np.asarray(mapped), dtype=dtype, name=name)

    return ir.LazyTensor(read, dtype, ir.Shape(shape), name=name)


def _fields(content: mmap, place: int, end: int) -> Iterator[Field]:
    """The fields of the message between two places."""
    while place < end:
        tag, value = _varint(content, place)
        number, kind = tag >> 3, tag & 7
        if kind == VARINT:
            after = _varint(content, value)[1]
        elif kind == MESSAGE:
            size, value = _varint(content, value)
            after = value + size
        elif kind in (EIGHT, FOUR):
            after = value + (8 if kind == EIGHT else 4)
        else:
            raise ValueError(f"wire type {kind}")
        if after > end:
            raise ValueError("a field is longer than its message")
        yield Field(number, kind, place, value, after)
        place = after


def _varint(content: mmap, place: int) -> tuple[int, int]:
    """A number, seven bits a byte, the lowest first; and where it ends."""
    number = shift = 0
    while True:
        byte = content[place]
        number |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return number, place
