"""A model in protobuf's wire format, piece by piece: serialising it whole would copy all of its weights twice.

Protocol Buffers encode a message as its fields in the order of their numbers, and a message in a field as the field's
key, the length and the message (https://protobuf.dev/programming-guides/encoding).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

import onnx

GRAPH = onnx.ModelProto.DESCRIPTOR.fields_by_name["graph"].number
INITIALIZER = onnx.GraphProto.DESCRIPTOR.fields_by_name["initializer"].number
RAW_DATA = onnx.TensorProto.DESCRIPTOR.fields_by_name["raw_data"].number

MessageT = TypeVar("MessageT", onnx.ModelProto, onnx.GraphProto, onnx.TensorProto)


def without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a model without the initializers of its main graph."""
    light = _fields(model, lambda number: number != GRAPH)
    light.graph.CopyFrom(_fields(model.graph, lambda number: number != INITIALIZER))
    return light


def wire(model: onnx.ModelProto) -> Iterator[bytes]:
    """The bytes of `model.SerializeToString(deterministic=True)`, one initializer at a time.

    No piece is larger than an initializer, and the model may be larger than the 2 GB that protobuf serialises at once.
    """
    before, after = _around(model, GRAPH)
    nodes, rest = _around(model.graph, INITIALIZER)
    sizes = [_tensor_size(tensor) for tensor in model.graph.initializer]
    keys = [field_key(INITIALIZER, size) for size in sizes]
    yield before
    if model.HasField("graph"):
        yield field_key(GRAPH, len(nodes) + sum(sizes) + sum(map(len, keys)) + len(rest)) + nodes
        for key, tensor in zip(keys, model.graph.initializer, strict=True):
            yield key
            yield from _tensor(tensor)
        yield rest
    yield after


def wire_size(model: onnx.ModelProto) -> int:
    """How many bytes `wire` gives, to within the few of its keys."""
    size: int = without_weights(model).ByteSize()
    return size + sum(_tensor_size(tensor) for tensor in model.graph.initializer)


def _tensor(tensor: onnx.TensorProto) -> Iterator[bytes]:
    before, after = _around(tensor, RAW_DATA)
    yield before
    if tensor.HasField("raw_data"):
        data = tensor.raw_data
        yield field_key(RAW_DATA, len(data))
        yield data
    yield after


def _tensor_size(tensor: onnx.TensorProto) -> int:
    return sum(map(len, _tensor(tensor)))


def _around(message: MessageT, field: int) -> tuple[bytes, bytes]:
    """The fields before this one, and those behind it."""
    sides = (_fields(message, lambda number: number < field), _fields(message, lambda number: number > field))
    first, second = (side.SerializeToString(deterministic=True) for side in sides)
    return first, second


def _fields(message: MessageT, keep: Callable[[int], bool]) -> MessageT:
    copy = type(message)()
    for field in message.DESCRIPTOR.fields:  # And not `ListFields`, which copies the data of a tensor to list them.
        if not keep(field.number) or not (field.is_repeated or message.HasField(field.name)):
            continue
        value = getattr(message, field.name)
        if hasattr(value, "MergeFrom"):  # A message, or repeated ones.
            getattr(copy, field.name).MergeFrom(value)
        else:
            setattr(copy, field.name, value)
    return copy


def field_key(field: int, size: int) -> bytes:
    """The key of a field that holds a message, or bytes, of this size."""
    return _varint(field << 3 | 2) + _varint(size)


def _varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first; every byte but the last has its highest bit set."""
    digits = []
    while number > 127:
        digits.append(number & 127 | 128)
        number >>= 7
    return bytes([*digits, number])
