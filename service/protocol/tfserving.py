"""TensorFlow Serving's REST format: `instances` by rows or `inputs` by columns, and the answer in the same form.

Specification: https://www.tensorflow.org/tfx/serving/api_rest
"""

import base64
import binascii
from typing import Any

import numpy as np
import orjson

from service.errors import BadRequestError
from service.protocol.request import InferRequest, check_rows, load_json
from service.protocol.signature import Signature, Tensor
from service.protocol.tensors import Array, from_json

SIGNATURE_NAME = "serving_default"


def parse(body: bytes, signature: Signature) -> tuple[InferRequest, bool]:
    """Read a `:predict` body; the request, and whether it came by rows.

    Raises:
        BadRequestError: it says what does not fit.
    """
    document = load_json(body)
    if type(document) is not dict:
        raise BadRequestError("the request must be a JSON object with 'instances' or 'inputs'")
    if document.get("signature_name", SIGNATURE_NAME) != SIGNATURE_NAME:
        raise BadRequestError(f"'signature_name' must be '{SIGNATURE_NAME}', the only one that there is")
    if ("instances" in document) == ("inputs" in document):
        raise BadRequestError("the request must have exactly one of 'instances' (rows) and 'inputs' (columns)")
    by_rows = "instances" in document
    columns = _columns_of_rows(document["instances"], signature) if by_rows else document["inputs"]
    if not isinstance(columns, dict) or (len(signature.inputs) == 1 and signature.inputs[0].name not in columns):
        if len(signature.inputs) != 1:
            raise BadRequestError(f"'inputs' must be an object with {_names(signature)}")
        columns = {signature.inputs[0].name: columns}
    if set(columns) != set(signature.input_names):
        raise BadRequestError(f"model '{signature.model}' takes {_names(signature)} and nothing else")
    arrays = [_array(columns[tensor.name], tensor) for tensor in signature.inputs]
    return InferRequest(None, arrays, check_rows(arrays, signature), []), by_rows


def write(arrays: list[Array], signature: Signature, by_rows: bool) -> bytes:
    """The answer's body.

    Raises:
        BadRequestError: an output holds NaN or Infinity.
    """
    outputs = {t.name: np.ascontiguousarray(a) for t, a in zip(signature.outputs, arrays, strict=True)}
    for name, array in outputs.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise BadRequestError(f"output '{name}' holds NaN or Infinity for this input, which JSON does not carry")
    content: Any = next(iter(outputs.values())) if len(outputs) == 1 else outputs
    if by_rows and len(outputs) > 1:
        content = [dict(zip(outputs, row, strict=True)) for row in zip(*outputs.values(), strict=True)]
    key = "predictions" if by_rows else "outputs"
    return orjson.dumps({key: content}, option=orjson.OPT_SERIALIZE_NUMPY, default=lambda value: value.tolist())


def _columns_of_rows(instances: Any, signature: Signature) -> Any:
    if type(instances) is not list or not instances:
        raise BadRequestError("'instances' must be a list with at least one row")
    named = [type(row) is dict and "b64" not in row for row in instances]
    if not any(named):
        return instances
    if not all(named):
        raise BadRequestError("'instances' must be rows of the same form")
    for row in instances:
        if set(row) != set(signature.input_names):
            raise BadRequestError(f"every one of 'instances' must have {_names(signature)} and nothing else")
    return {name: [row[name] for row in instances] for name in signature.input_names}


def _array(data: Any, tensor: Tensor) -> Array:
    """Values of any nesting as an array of the tensor's shape, which they must have themselves."""
    data = _decoded(data, tensor) if tensor.datatype.name == "BYTES" else data
    shape: list[int] = []
    level = data
    while type(level) is list and len(shape) < len(tensor.shape) + 1:
        shape.append(len(level))
        level = level[0] if level else None
    wanted = ",".join(map(str, tensor.shape))
    if len(shape) != len(tensor.shape) or any(w not in (-1, s) for w, s in zip(tensor.shape, shape, strict=True)):
        raise BadRequestError(f"unexpected shape for input '{tensor.name}'. Expected [{wanted}], got {shape}")
    return from_json(data, tensor, tuple(shape))


def _decoded(data: Any, tensor: Tensor) -> Any:
    if type(data) is list:
        return [_decoded(item, tensor) for item in data]
    if type(data) is dict and set(data) == {"b64"} and type(data["b64"]) is str:
        try:
            return base64.b64decode(data["b64"], validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            raise BadRequestError(f"a value of input '{tensor.name}' is not base64 of UTF-8 text") from None
    return data


def _names(signature: Signature) -> str:
    return " and ".join(f"'{name}'" for name in signature.input_names)
