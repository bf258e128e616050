"""An inference request of the Open Inference Protocol, read and checked against the model's signature.

The order of the checks and the words of the messages are Triton's, so that people find them in its documentation.
Specification: https://github.com/kserve/open-inference-protocol and Triton's `binary_data` extension.
"""

import re
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
import orjson

from service.errors import BadRequestError
from service.protocol.signature import Signature, Tensor
from service.protocol.tensors import Array, flat_numbers, from_binary, from_json

MAX_ELEMENTS = 2**63 - 1
_DATA = re.compile(rb'"data"\s*:\s*\[')
REMEMBERED_HEADERS = 64
REMEMBERED_BYTES = 1024
RESERVED = ("sequence_id", "sequence_start", "sequence_end", "priority", "timeout", "headers", "binary_data_output")


@dataclass(slots=True)
class OutputRequest:
    """One output that the client wants: its index in the signature, and how.

    Attributes:
        index: in the signature's outputs.
        binary: as bytes after the JSON rather than as JSON.
        classes: 0, or how many of the largest values as `value:index:label` strings.
    """

    index: int
    binary: bool
    classes: int = 0


@dataclass(slots=True)
class InferRequest:
    """A request that fits the model.

    Attributes:
        id: the client's own, echoed exactly; None if there was none.
        arrays: one for each input of the signature, in its order.
        rows: the size of the batch; 1 where the model has no batch dimension.
        outputs: what to answer, in that order.
        timeout: seconds that it may wait in the queue; 0 for as long as it takes.
        parameters: the client's own, echoed; None if there were none.
    """

    id: str | None
    arrays: list[Array]
    rows: int
    outputs: list[OutputRequest]
    timeout: float = 0.0
    parameters: dict[str, Any] | None = None


class RequestReader:
    """Reads requests to one model version.

    Clients repeat the same JSON with every request, but for the numbers: the header before binary tensors, or what
    stands around `data`. What it says depends on nothing but its bytes and the signature, so the last ones are
    remembered and not parsed again.

    Args:
        signature: of the model.
    """

    def __init__(self, signature: Signature) -> None:
        self._signature = signature
        self._plans: dict[bytes, _Plan] = {}

    @property
    def remembered(self) -> int:
        """How many are remembered."""
        return len(self._plans)

    def read(self, body: bytes, header_length: bytes | None) -> InferRequest:
        """Read a request body.

        Args:
            body: the whole of it, decompressed.
            header_length: the value of `Inference-Header-Content-Length`: how many of the body's bytes are JSON. None
                means all; `0` means none, the body is the single input's bytes.

        Raises:
            BadRequestError: it says what does not fit.
        """
        if header_length is None:
            return self._read_json(body)
        length = _header_length(header_length, len(body))
        if length == 0:
            return _raw(body, self._signature)
        header, rest = body[:length], body[length:]
        plan = self._plans.get(header)
        if plan is not None and plan.size == len(rest):
            return plan.apply(rest)
        request = _parse(load_json(header), rest, self._signature)
        if len(rest) == request.arrays[0].nbytes:
            self._remember(header, len(rest), request)
        return request

    def _read_json(self, body: bytes) -> InferRequest:
        found = _DATA.search(body)
        if found is None:
            return _parse(load_json(body), b"", self._signature)
        start, end = found.end() - 1, body.find(b"]", found.end()) + 1
        around = body[:start] + body[end:]
        plan = self._plans.get(around)
        if plan is not None:
            values = flat_numbers(body[start:end], self._signature.inputs[0])
            if values is not None and values.nbytes == plan.size:
                return plan.apply(values)
        request = _parse(load_json(body), b"", self._signature)
        if around.count(b'"data"') == 1:  # so it is the input's, and no other's that is called so
            self._remember(around, request.arrays[0].nbytes, request)
        return request

    def _remember(self, header: bytes, size: int, request: InferRequest) -> None:
        tensors = self._signature.inputs
        # One input is the only case in which the order of the bytes is known; strings and booleans must be looked at.
        simple = len(tensors) == 1 and size > 0 and tensors[0].datatype.code
        if simple and len(header) <= REMEMBERED_BYTES:
            if len(self._plans) >= REMEMBERED_HEADERS:
                self._plans.clear()
            self._plans[header] = _Plan(
                size, request.arrays[0].dtype, request.arrays[0].shape, replace(request, arrays=[])
            )


@dataclass(slots=True)
class _Plan:
    """What a header says, once it was found to be right: the only input's bytes, dtype and shape, and the rest."""

    size: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    like: InferRequest

    def apply(self, rest: bytes | Array) -> InferRequest:
        like = self.like
        arrays: list[Array] = [np.frombuffer(rest, self.dtype).reshape(self.shape)]
        return InferRequest(like.id, arrays, like.rows, like.outputs, like.timeout, like.parameters)


def _parse(document: Any, rest: bytes, signature: Signature) -> InferRequest:
    """Read a request from its JSON and the bytes behind it."""
    if type(document) is not dict:
        raise BadRequestError("the request must be a JSON object with 'inputs'")
    request_id = document.get("id")
    if request_id is not None and type(request_id) is not str:
        raise BadRequestError("'id' must be a string")
    parameters = _parameters(document, "the request")
    listed = document.get("inputs")
    if type(listed) is not list:
        raise BadRequestError("the request must have 'inputs', a list of tensors")
    arrays, rows = _inputs(listed, rest, signature)
    outputs = _outputs(document.get("outputs"), bool(parameters.get("binary_data_output", False)), signature)
    if not parameters:
        return InferRequest(request_id, arrays, rows, outputs)
    own = {k: v for k, v in parameters.items() if k not in RESERVED and not k.startswith("triton_")}
    return InferRequest(request_id, arrays, rows, outputs, _timeout(parameters), own or None)


def load_json(raw: bytes) -> Any:
    """Parse JSON; NaN and Infinity are not JSON.

    Raises:
        BadRequestError: it is not JSON, or nested too deeply.
    """
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        if "depth limit" in error.msg:
            raise BadRequestError("JSON nesting depth exceeds maximum allowed limit (1024)") from None
        raise BadRequestError(f"failed to parse the request JSON buffer: {error.msg} at {error.pos}") from None


def _header_length(text: bytes, total: int) -> int:
    if not text.strip().isdigit() or len(text) > 19:
        raise BadRequestError("Unable to parse Inference-Header-Content-Length: it must be a number of bytes")
    length = int(text)
    if length > total:
        raise BadRequestError(f"inference header size should be in range (0, {total}), got: {length}")
    return length


def _parameters(where: dict[str, Any], what: str) -> dict[str, Any]:
    parameters = where.get("parameters")
    if parameters is None:
        return {}
    if type(parameters) is not dict:
        raise BadRequestError(f"'parameters' of {what} must be an object")
    return parameters


def _timeout(parameters: dict[str, Any]) -> float:
    timeout = parameters.get("timeout", 0)
    if type(timeout) is not int or timeout < 0:
        raise BadRequestError("'timeout' must be a number of microseconds, not negative")
    return timeout / 1e6


def _inputs(listed: list[Any], rest: bytes, signature: Signature) -> tuple[list[Array], int]:
    found: list[Array | None] = [None] * len(signature.inputs)
    names: list[str] = []
    offset = 0
    for item in listed:
        if type(item) is not dict or type(item.get("name")) is not str:
            raise BadRequestError("every one of 'inputs' must be an object with a 'name'")
        name = item["name"]
        names.append(name)
        index = signature.input_names.get(name)
        if index is None:
            raise BadRequestError(f"unexpected inference input '{clip(name)}' for model '{signature.model}'")
        if found[index] is not None:
            raise BadRequestError(f"input '{name}' appears twice for model '{signature.model}'")
        tensor = signature.inputs[index]
        shape = _shape(item, tensor, signature)
        size = _parameters(item, f"input '{name}'").get("binary_data_size")
        if size is None:
            if "data" not in item:
                raise BadRequestError(f"input '{name}' must have 'data', or 'binary_data_size' in its 'parameters'")
            found[index] = from_json(item["data"], tensor, shape)
            continue
        if type(size) is not int or size < 0:
            raise BadRequestError(f"'binary_data_size' of input '{name}' must be a number of bytes")
        missing = offset + size - len(rest)
        if missing > 0:
            raise BadRequestError(
                f"unexpected size for input '{name}', expecting {missing} additional bytes for model "
                f"'{signature.model}'"
            )
        found[index] = from_binary(rest[offset : offset + size], tensor, shape, signature.model)
        offset += size
    if offset != len(rest):
        raise BadRequestError(
            f"unexpected additional input data for model '{signature.model}': {len(rest) - offset} bytes too many"
        )
    arrays = [array for array in found if array is not None]
    if len(arrays) != len(found):
        missing_names = [t.name for t, array in zip(signature.inputs, found, strict=True) if array is None]
        raise BadRequestError(
            f"expected {len(found)} inputs but got {len(arrays)} inputs for model '{signature.model}'. Got input(s) "
            f"{names}, but missing required input(s) {missing_names}. Please provide all required input(s)."
        )
    return arrays, check_rows(arrays, signature)


def _shape(item: dict[str, Any], tensor: Tensor, signature: Signature) -> tuple[int, ...]:
    """The declared shape of one input, checked against the model's datatype and dimensions."""
    datatype = item.get("datatype")
    if datatype != tensor.datatype.name:
        raise BadRequestError(
            f"inference input '{tensor.name}' data-type is '{clip(datatype)}', but model '{signature.model}' expects "
            f"'{tensor.datatype.name}'"
        )
    shape = item.get("shape")
    if type(shape) is not list:
        raise BadRequestError(f"input '{tensor.name}' must have a 'shape', a list of integers")
    for size in shape:
        if type(size) is not int or size < 0:
            raise BadRequestError(
                f"Unable to parse 'shape' of input '{tensor.name}': attempt to access JSON non-unsigned-integer"
            )
    if not shape and signature.batched:
        raise BadRequestError(
            f"input '{tensor.name}' has no shape but model requires batch dimension for '{signature.model}'"
        )
    if prod(shape) > MAX_ELEMENTS:
        raise BadRequestError(
            f"invalid shape for input '{tensor.name}': it causes total element count to exceed maximum size of "
            f"{MAX_ELEMENTS}"
        )
    if len(shape) != len(tensor.shape) or any(
        want not in (-1, got) for want, got in zip(tensor.shape, shape, strict=True)
    ):
        raise BadRequestError(
            f"unexpected shape for input '{tensor.name}' for model '{signature.model}'. Expected "
            f"{_brackets(tensor.shape)}, got {_brackets(shape[:16])}"
        )
    return tuple(shape)


def check_rows(arrays: list[Array], signature: Signature) -> int:
    """The size of the batch; 1 where the model has no batch dimension.

    Raises:
        BadRequestError: it is 0, too large, or the inputs disagree.
    """
    if not signature.batched:
        return 1
    rows = arrays[0].shape[0]
    for tensor, array in zip(signature.inputs, arrays, strict=True):
        if array.shape[0] != rows:
            raise BadRequestError(
                f"input '{tensor.name}' batch size does not match other inputs for '{signature.model}'"
            )
    if rows == 0:
        raise BadRequestError(f"inference request batch-size must be at least 1 for '{signature.model}'")
    if rows > signature.max_batch_size:
        raise BadRequestError(
            f"inference request batch-size must be <= {signature.max_batch_size} for '{signature.model}'"
        )
    return int(rows)


def _outputs(listed: Any, binary: bool, signature: Signature) -> list[OutputRequest]:
    if listed is None:
        return [OutputRequest(i, binary) for i in range(len(signature.outputs))]
    if type(listed) is not list:
        raise BadRequestError("'outputs' must be a list of objects with a 'name'")
    wanted: list[OutputRequest] = []
    for item in listed:
        if type(item) is not dict or type(item.get("name")) is not str:
            raise BadRequestError("every one of 'outputs' must be an object with a 'name'")
        index = signature.output_names.get(item["name"])
        if index is None:
            raise BadRequestError(f"unexpected inference output '{clip(item['name'])}' for model '{signature.model}'")
        if any(index == other.index for other in wanted):
            raise BadRequestError(f"output '{item['name']}' is requested twice for model '{signature.model}'")
        parameters = _parameters(item, f"output '{item['name']}'")
        classes = parameters.get("classification", 0)
        if type(classes) is not int or classes < 0:
            raise BadRequestError(f"'classification' of output '{item['name']}' must be a number of classes")
        wanted.append(OutputRequest(index, bool(parameters.get("binary_data", binary)), classes))
    return wanted or [OutputRequest(i, binary) for i in range(len(signature.outputs))]


def _raw(body: bytes, signature: Signature) -> InferRequest:
    """A body without JSON: the bytes of the only input, one row; a single other variable dimension follows."""
    if len(signature.inputs) != 1:
        raise BadRequestError(
            f"Raw request must only have 1 input (found 1) to be deduced but got {len(signature.inputs)} inputs in "
            f"'{signature.model}' model configuration"
        )
    tensor = signature.inputs[0]
    outputs = [OutputRequest(i, True) for i in range(len(signature.outputs))]
    if tensor.datatype.size == 0:
        return InferRequest(None, [np.array([body], dtype=object).reshape([1] * len(tensor.shape))], 1, outputs)
    shape = [1, *tensor.shape[1:]] if signature.batched else list(tensor.shape)
    if shape.count(-1) > 1:
        raise BadRequestError(
            f"Raw request for model '{signature.model}': the shape of '{tensor.name}' cannot be deduced"
        )
    known = prod(d for d in shape if d != -1) * tensor.datatype.size
    shape = [len(body) // max(known, 1) if d == -1 else d for d in shape]
    return InferRequest(None, [from_binary(body, tensor, tuple(shape), signature.model)], 1, outputs)


def clip(value: object, limit: int = 64) -> str:
    """A client's word, short enough to repeat in a message."""
    text = str(value) if isinstance(value, str | int | float | bool | None) else type(value).__name__
    return text if len(text) <= limit else text[:limit] + "…"


def _brackets(shape: Any) -> str:
    return "[" + ",".join(map(str, shape)) + "]"
