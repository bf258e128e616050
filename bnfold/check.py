"""Asks onnx's checker whether a model is valid, without handing it a copy of the weights."""

from __future__ import annotations

import math
from collections.abc import Container

import onnx
import onnx_ir as ir
from onnx import TensorProto, helper

from bnfold.wire import without_weights

SMALL = 1024
"""Elements; smaller tensors may say something about shapes, which the full check infers."""


def graph_fault(model: onnx.ModelProto, *, full: bool) -> str:
    """What onnx's checker has against a graph, in one line; empty if it is valid.

    Large initializers stand as inputs of their type and shape in what is checked: the checker serialises what it is
    given and parses it again.

    Args:
        model: with its weights inside.
        full: whether every inferred type and shape must agree with the stated ones (`full_check` of onnx.checker).
    """
    light = without_weights(model)
    listed = {info.name for info in light.graph.input}
    for tensor in model.graph.initializer:
        if math.prod(tensor.dims) < SMALL:
            light.graph.initializer.append(tensor)
        elif tensor.name not in listed:
            light.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
            listed.add(tensor.name)
    try:
        onnx.checker.check_model(light, full_check=full)
    except Exception as error:  # The checker's, and those of shape inference, which have no common class.
        return _line(error)
    return ""


def weights_fault(model: onnx.ModelProto, elsewhere: Container[str] = ()) -> str:
    """What is wrong with the data of an initializer, in one line; empty if all have what type and shape ask for.

    Args:
        model: with its weights inside.
        elsewhere: names of initializers whose data are not, and are not looked at.
    """
    for tensor in model.graph.initializer:
        if tensor.name in elsewhere:
            continue
        if tensor.data_location == TensorProto.EXTERNAL:
            return f"the data of initializer {tensor.name} are in another file, which was not loaded"
        if not tensor.HasField("raw_data"):
            try:
                onnx.checker.check_tensor(tensor)
            except onnx.checker.ValidationError as error:
                return _line(error)
            continue
        found = len(tensor.raw_data)
        wanted = -(-math.prod(tensor.dims) * ir.DataType(tensor.data_type).bitwidth // 8)
        if found != wanted:
            return f"initializer {tensor.name} has {found} bytes, its type and shape ask for {wanted}"
    return ""


def _line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
