"""The answer to an inference request, its bytes built once."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson

from service.errors import BadRequestError
from service.protocol.request import InferRequest, OutputRequest
from service.protocol.signature import Signature
from service.protocol.tensors import Array, to_binary

_NUMPY = orjson.OPT_SERIALIZE_NUMPY


class ResponseWriter:
    """Writes answers of one model version; what never changes is encoded once.

    Args:
        version: the model's version as the answer names it.
        signature: of the model.
        labels: what a person calls each class, for `classification`; may be empty.
    """

    def __init__(self, version: str, signature: Signature, labels: Sequence[str]) -> None:
        self._labels = labels
        self._signature = signature
        self._head = b'{"model_name":%b,"model_version":%b' % (orjson.dumps(signature.model), orjson.dumps(version))
        self._outputs = [
            b'{"name":%b,"datatype":"%b","shape":' % (orjson.dumps(t.name), t.datatype.name.encode())
            for t in signature.outputs
        ]

    def write(self, request: InferRequest, arrays: Sequence[Array]) -> tuple[bytes, int | None]:
        """The body, and how many of its bytes are JSON if binary tensors follow (None: all).

        Raises:
            BadRequestError: an output holds NaN or Infinity and was to be JSON, or has no classes to name.
        """
        parts = [self._head]
        if request.id is not None:
            parts.append(b',"id":' + orjson.dumps(request.id))
        if request.parameters is not None:
            parts.append(b',"parameters":' + orjson.dumps(request.parameters))
        parts.append(b',"outputs":[')
        tail: list[bytes] = []
        comma = b""
        for wanted in request.outputs:
            parts.append(comma)
            comma = b","
            array = arrays[wanted.index]
            if wanted.classes:
                array = self._classify(wanted, array)
                parts.append(b'{"name":%b,"datatype":"BYTES","shape":' % orjson.dumps(self._name(wanted)))
            else:
                parts.append(self._outputs[wanted.index])
            shape = orjson.dumps(array.shape)
            if wanted.binary:
                raw = to_binary(array)
                tail.append(raw)
                parts.append(b'%b,"parameters":{"binary_data_size":%d}}' % (shape, len(raw)))
            else:
                parts.append(b'%b,"data":%b}' % (shape, self._values(wanted, array)))
        parts.append(b"]}")
        document = b"".join(parts)
        return (document + b"".join(tail), len(document)) if tail else (document, None)

    def _values(self, wanted: OutputRequest, array: Array) -> bytes:
        kind = array.dtype.kind
        if kind == "O":
            return orjson.dumps([v.decode(errors="replace") if isinstance(v, bytes) else v for v in array.ravel()])
        if array.dtype == np.float16:
            raise BadRequestError(
                f"output '{self._name(wanted)}' is FP16, which JSON does not carry; ask for it as binary data"
            )
        written = orjson.dumps(np.ascontiguousarray(array).ravel(), option=_NUMPY)
        if kind == "f" and b"null" in written:  # orjson writes NaN and Infinity as null
            raise BadRequestError(
                f"output '{self._name(wanted)}' holds NaN or Infinity for this input, which JSON does not carry; ask "
                "for it as binary data"
            )
        return written

    def _classify(self, wanted: OutputRequest, array: Array) -> Array:
        """`value:index[:label]` of the largest values of each row, largest first (Triton's extension)."""
        if array.ndim != 2 or array.dtype.kind not in "fiu":
            raise BadRequestError(
                f"output '{self._name(wanted)}' is not a row of class scores: 'classification' needs one"
            )
        count = min(wanted.classes, array.shape[1])
        order = np.argsort(-array.astype(np.float64), axis=1, kind="stable")[:, :count]
        rows: list[Any] = [[self._class(row[i], int(i)) for i in best] for row, best in zip(array, order, strict=True)]
        return np.array(rows, dtype=object).reshape(len(array), count)

    def _class(self, value: Any, index: int) -> str:
        label = f":{self._labels[index]}" if index < len(self._labels) else ""
        return f"{value:f}:{index}{label}" if isinstance(value, np.floating) else f"{value}:{index}{label}"

    def _name(self, wanted: OutputRequest) -> str:
        return self._signature.outputs[wanted.index].name
