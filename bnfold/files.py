"""Reads and writes ONNX files; nothing is ever half-written."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import onnx
from onnx import TensorProto

from bnfold.errors import InputError
from bnfold.wire import wire, wire_size, without_weights

LARGEST_FILE = 2_000_000_000
"""Bytes; protobuf reads no file of 2 GiB or more. The weights of a larger model go into a second file."""
SMALL = 1024
"""Bytes; smaller tensors, such as shapes, stay in the model's own file."""
PAGE = 4096
"""Tensors in the second file begin at pages, so that a runtime can map them into memory."""


def load(path: Path) -> onnx.ModelProto:
    """Reads a model with its external data.

    Raises:
        InputError: the file is missing, is no ONNX model, or its external data cannot be read.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from error
    try:
        model = onnx.load_model_from_string(content)
    except Exception as error:  # protobuf's own error class has no types
        raise InputError(f"{path}: not an ONNX model") from error
    del content  # The weights that follow need the room.
    try:
        onnx.load_external_data_for_model(model, str(path.parent))
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        raise InputError(f"{path}: its external data cannot be read ({str(error).splitlines()[0]})") from error
    return model


def write(path: Path, content: bytes | Iterable[bytes]) -> None:
    """Writes a file, in one piece or several, under a temporary name beside its place and renames it."""
    with _temporary(path) as (file, temporary):
        file.writelines([content] if isinstance(content, bytes) else content)
        _publish(file, temporary, path)


def save(model: onnx.ModelProto, path: Path) -> None:
    """Writes a model: the same bytes for the same model, without a second copy of it in memory.

    A model that does not fit into one file gets a second one for its weights, `NAME.<first digits of its sha256>.data`,
    which is in place before the model that names it.
    """
    write(path, wire(_outsourced(model, path) if wire_size(model) > LARGEST_FILE else model))


def _outsourced(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """Writes the weights and returns the model that refers to them (onnx/docs/ExternalData.md)."""
    light = without_weights(model)
    outside: list[tuple[TensorProto, int, int]] = []
    digest = hashlib.sha256()
    with _temporary(path) as (file, temporary):
        for tensor in model.graph.initializer:
            if not tensor.HasField("raw_data") or tensor.ByteSize() < SMALL:
                light.graph.initializer.append(tensor)
                continue
            filler, data = bytes(-file.tell() % PAGE), tensor.raw_data
            for piece in (filler, data):
                digest.update(piece)
                file.write(piece)
            stub = light.graph.initializer.add(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
            outside.append((stub, file.tell() - len(data), len(data)))
        data_path = path.with_name(f"{path.name}.{digest.hexdigest()[:12]}.data")
        _publish(file, temporary, data_path)
    for stub, offset, length in outside:
        stub.data_location = TensorProto.EXTERNAL
        for key, value in (("location", data_path.name), ("offset", offset), ("length", length)):
            stub.external_data.add(key=key, value=str(value))
    return light


@contextmanager
def _temporary(path: Path) -> Iterator[tuple[BinaryIO, Path]]:
    """A new file beside its future place; it is removed unless it was published."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file, temporary
    finally:
        temporary.unlink(missing_ok=True)


def _publish(file: BinaryIO, temporary: Path, path: Path) -> None:
    file.flush()
    temporary.chmod(0o644)
    temporary.replace(path)
