"""The operators of an ONNX file, in their order, read without the onnx package, which serving does not have.

Protocol buffers' wire format (https://protobuf.dev/programming-guides/encoding) and the field numbers of onnx.proto:
a model's graph is its field 7, a graph's nodes are its field 1, a node's name and operator are its fields 3 and 4.
"""

from collections.abc import Iterator
from pathlib import Path

_GRAPH, _NODE, _NAME, _OPERATOR = 7, 1, 3, 4
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def read_nodes(path: Path) -> list[dict[str, str]]:
    """Operator and name of every node.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not an ONNX file.
    """
    data = memoryview(path.read_bytes())
    nodes = []
    try:
        for graph in _messages(data, _GRAPH):
            for node in _messages(graph, _NODE):
                texts = {
                    number: bytes(value).decode() for number, value in _fields(node) if number in {_NAME, _OPERATOR}
                }
                nodes.append({"operator": texts.get(_OPERATOR, ""), "name": texts.get(_NAME, "")})
    except (IndexError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not an ONNX file") from error
    return nodes


def _messages(data: memoryview, wanted: int) -> Iterator[memoryview]:
    return (value for number, value in _fields(data) if number == wanted)


def _fields(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Number and content of the fields that have a length; the others are stepped over."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == _BYTES:
            length, at = _varint(data, at)
            if at + length > len(data):
                raise IndexError
            yield key >> 3, data[at : at + length]
            at += length
        elif kind == _VARINT:
            _, at = _varint(data, at)
        elif kind in {_FIXED64, _FIXED32}:
            at += 8 if kind == _FIXED64 else 4
        else:
            raise IndexError


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
