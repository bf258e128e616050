"""Reads and writes ONNX files; nothing is ever half-written."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import onnx

from bnfold.errors import InputError


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
    try:
        onnx.load_external_data_for_model(model, str(path.parent))
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        raise InputError(f"{path}: its external data cannot be read ({str(error).splitlines()[0]})") from error
    return model


def write(path: Path, content: bytes) -> None:
    """Writes a file under a temporary name beside its place and renames it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def save(model: onnx.ModelProto, path: Path) -> None:
    """Writes a model: the same bytes for the same model.

    Raises:
        InputError: the model is larger than the 2 GB that a protobuf file holds.
    """
    try:
        content = model.SerializeToString(deterministic=True)
    except Exception as error:  # protobuf's own error class has no types
        raise InputError(f"{path}: the model is larger than the 2 GB that one file holds") from error
    write(path, content)
