"""The answer to an inference request, its bytes built once."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson

from service.errors import BadRequestError
from service.protocol.request import InferRequest, OutputRequest
from service.protocol.signature import Signature
from service.protocol.tensors import Array, to_binary

REMEMBERED = 256
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
        self._frames: dict[tuple[int, bool, tuple[int, ...]], bytes] = {}

    def write(self, request: InferRequest, arrays: Sequence[Array]) -> tuple[bytes, int | None]:
        """The body, and how many of its bytes are JSON if binary tensors follow (None: all).

        Raises:
            BadRequestError: an output holds NaN or Infinity and was to be JSON, or has no classes to name.
        """
        if request.id is None and request.parameters is None and len(request.outputs) == 1:
            (wanted,) = request.outputs
            if not wanted.classes and self._signature.outputs[wanted.index].datatype.size:
                return self._write_one(wanted, arrays[wanted.index])
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

    def _write_one(self, wanted: OutputRequest, array: Array) -> tuple[bytes, int | None]:
        """An answer that holds one array of numbers and nothing else: what stands before them depends on its shape."""
        key = wanted.index, wanted.binary, array.shape
        frame = self._frames.get(key)
        if frame is None:
            what = b'"parameters":{"binary_data_size":%d}}]}' % array.nbytes if wanted.binary else b'"data":'
            shape = orjson.dumps(array.shape)
            frame = b'%b,"outputs":[%b%b,%b' % (self._head, self._outputs[wanted.index], shape, what)
            if len(self._frames) >= REMEMBERED:
                self._frames.clear()
            self._frames[key] = frame
        if wanted.binary:
            return frame + array.tobytes(), len(frame)
        return b"%b%b}]}" % (frame, self._values(wanted, array)), None

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
