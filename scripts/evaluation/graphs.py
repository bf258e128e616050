"""A Keras network as ONNX graphs: as Keras writes it, and with BatchNormalization nodes."""

import contextlib
import io
import logging
import tempfile
import warnings
from pathlib import Path

import keras
import onnx

from scripts.converting.canonical import canonicalise
from scripts.converting.trace import trace

OPSET = 18


def keras_export(model: keras.Model) -> onnx.ModelProto:
    """What `model.export(path, format="onnx")` writes: batch normalisation as Mul and Add."""
    logging.getLogger("tf2onnx").setLevel(logging.ERROR)
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.redirect_stdout(io.StringIO()),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore", FutureWarning)  # Keras looks for np.object, which numpy announces anew.
        path = Path(folder) / "model.onnx"
        model.export(path, format="onnx", verbose=False, opset_version=OPSET)
        return onnx.load(path)


def batchnorm_export(model: keras.Model) -> onnx.ModelProto:
    """The project's own export: a BatchNormalization node per layer, under its name."""
    proto = trace(model, {tensor.name: tensor.name for tensor in model.inputs}, ["logits"], pixels=False)
    canonicalise(proto, model)
    return proto
