"""The tensor datatypes of the Open Inference Protocol and what they are called elsewhere."""

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True)
class Datatype:
    """One row of the table.

    Attributes:
        name: in the protocol.
        dtype: in numpy, little-endian as on the wire; `object` for BYTES.
        onnx: in ONNX Runtime's signature.
        config: in Triton's model configuration.
        kinds: numpy kinds (`dtype.kind`) that a JSON array of such values is parsed to.
        code: in Python's `array` module, which checks the type and range of every value; empty if it has none.
    """

    name: str
    dtype: np.dtype[Any]
    onnx: str
    config: str
    kinds: str
    code: str = ""

    @property
    def size(self) -> int:
        """Bytes of one element; 0 for BYTES, whose elements differ in length."""
        return 0 if self.dtype.kind == "O" else self.dtype.itemsize


_ROWS = (
    Datatype("BOOL", np.dtype("?"), "tensor(bool)", "TYPE_BOOL", "b"),
    Datatype("INT8", np.dtype("i1"), "tensor(int8)", "TYPE_INT8", "iu", "b"),
    Datatype("INT16", np.dtype("<i2"), "tensor(int16)", "TYPE_INT16", "iu", "h"),
    Datatype("INT32", np.dtype("<i4"), "tensor(int32)", "TYPE_INT32", "iu", "i"),
    Datatype("INT64", np.dtype("<i8"), "tensor(int64)", "TYPE_INT64", "iu", "q"),
    Datatype("UINT8", np.dtype("u1"), "tensor(uint8)", "TYPE_UINT8", "iu", "B"),
    Datatype("UINT16", np.dtype("<u2"), "tensor(uint16)", "TYPE_UINT16", "iu", "H"),
    Datatype("UINT32", np.dtype("<u4"), "tensor(uint32)", "TYPE_UINT32", "iu", "I"),
    Datatype("UINT64", np.dtype("<u8"), "tensor(uint64)", "TYPE_UINT64", "iu", "Q"),
    Datatype("FP16", np.dtype("<f2"), "tensor(float16)", "TYPE_FP16", ""),  # binary only, as in Triton
    Datatype("FP32", np.dtype("<f4"), "tensor(float)", "TYPE_FP32", "fiu", "f"),
    Datatype("FP64", np.dtype("<f8"), "tensor(double)", "TYPE_FP64", "fiu", "d"),
    Datatype("BYTES", np.dtype("O"), "tensor(string)", "TYPE_STRING", "U"),
)
BY_NAME = {row.name: row for row in _ROWS}
BY_ONNX = {row.onnx: row for row in _ROWS}
