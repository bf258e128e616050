"""Whole HTTP/1.1 requests for each kind of body, and pictures to fill them."""

import io
import json
import struct
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
DATATYPES = {"uint8": "UINT8", "float32": "FP32"}


def pictures(count: int, shape: tuple[int, ...], dtype: str, seed: int = 0) -> Array:
    """Strokes on black, as handwriting has them: about a third of the pixels is not zero.

    Args:
        count: how many.
        shape: of one, [height, width, channels].
        dtype: `uint8`, or `float32` for values from 0 to 1 in steps of 1/255.
        seed: of the strokes.
    """
    rng = np.random.default_rng(seed)
    height, width, channels = shape
    rows, columns = np.mgrid[:height, :width]
    canvas = np.zeros((count, height, width))
    for image in canvas:
        for _ in range(5):
            (y, x), angle = rng.uniform(4, 24, 2) * (height / 28, width / 28), rng.uniform(0, np.pi)
            along = (rows - y) * np.sin(angle) + (columns - x) * np.cos(angle)
            across = (columns - x) * np.sin(angle) - (rows - y) * np.cos(angle)
            np.maximum(image, 255 * np.exp(-((across / 1.3) ** 4)) * (abs(along) < height / 4), out=image)
    grey = np.repeat(canvas.astype(np.uint8)[..., None], channels, axis=3)
    return grey if dtype == "uint8" else grey.astype(np.float32) / np.float32(255)


def post(path: str, body: bytes, content_type: str, **headers: str | int) -> bytes:
    """A request as bytes."""
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: 127.0.0.1",
        f"Content-Type: {content_type}",
        f"Content-Length: {len(body)}",
        *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items()),
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def v2_json(path: str, name: str, images: Array) -> bytes:
    """The Open Inference Protocol with flat JSON data."""
    datatype = DATATYPES[images.dtype.name]
    # The shortest text that gives the same float32, as clients that print a float32 write it, would be 8 digits.
    tensor = {"name": name, "shape": images.shape, "datatype": datatype, "data": images.ravel().tolist()}
    return post(path, json.dumps({"inputs": [tensor]}, separators=(",", ":")).encode(), "application/json")


def v2_binary(path: str, name: str, images: Array) -> bytes:
    """The same with binary tensors, both ways."""
    raw = images.tobytes()
    tensor = {"name": name, "shape": images.shape, "datatype": DATATYPES[images.dtype.name]}
    document = {
        "inputs": [tensor | {"parameters": {"binary_data_size": len(raw)}}],
        "parameters": {"binary_data_output": True},
    }
    head = json.dumps(document, separators=(",", ":")).encode()
    return post(path, head + raw, "application/octet-stream", Inference_Header_Content_Length=len(head))


def raw(path: str, images: Array) -> bytes:
    """Nothing but the tensor's bytes."""
    return post(path, images.tobytes(), "application/octet-stream")


def png(path: str, image: Array) -> bytes:
    """One picture [height, width, 1] as PNG, uploaded as the body."""
    pixels = image if image.dtype == np.uint8 else np.round(image * 255).astype(np.uint8)
    height, width, _ = pixels.shape
    lines = b"".join(b"\0" + row.tobytes() for row in pixels)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    file = io.BytesIO()
    file.write(b"\x89PNG\r\n\x1a\n")
    file.write(chunk(b"IHDR", struct.pack(">2I5B", width, height, 8, 0, 0, 0, 0)))
    file.write(chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b""))
    return post(path, file.getvalue(), "image/png")
