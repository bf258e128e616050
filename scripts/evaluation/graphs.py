"""A Keras network as ONNX graphs: as Keras writes it, and with BatchNormalization nodes."""

import contextlib
import io
import logging
import re
import tempfile
import warnings
from pathlib import Path

import keras
import numpy as np
import onnx
from onnx import numpy_helper

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
        return give_statistics(onnx.load(path), model)


def batchnorm_export(model: keras.Model) -> onnx.ModelProto:
    """The project's own export: a BatchNormalization node per layer, under its name."""
    proto = trace(model, {tensor.name: tensor.name for tensor in model.inputs}, ["logits"], pixels=False)
    canonicalise(proto, model)
    return give_statistics(proto, model)


def give_statistics(proto: onnx.ModelProto, model: keras.Model) -> onnx.ModelProto:
    """Gives the statistics of Normalization layers their values back: tf2onnx makes inputs of them.

    The mean is `LAYER/Sub/y:0`, perhaps with a counter behind the name; `LAYER/Sqrt/x:0` is read no more.
    """
    layers = {layer.name: layer for layer in model._flatten_layers() if isinstance(layer, keras.layers.Normalization)}
    for info in tuple(proto.graph.input):
        found = re.search(r"(?:^|/)([^/]+?)(?:_\d+)?/(Sub/y|Sqrt/x):0$", info.name)
        if found is None or found[1] not in layers:
            continue
        if found[2] == "Sub/y":
            mean = np.asarray(layers[found[1]].mean, np.float32)
            proto.graph.initializer.append(numpy_helper.from_array(mean, info.name))
        proto.graph.input.remove(info)
    return proto
