"""The floor: the least Python that answers for the model. No framework, no checks, no batching, the run inline."""

import io
import os
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import onnxruntime
import orjson

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = onnxruntime.InferenceSession(os.environ["FLOOR_MODEL"], options, providers=["CPUExecutionProvider"])
(source,) = session.get_inputs()
DTYPE = np.dtype({"tensor(uint8)": "uint8", "tensor(float)": "float32"}[source.type])
SHAPE = (-1, *source.shape[1:])


async def read(receive: Receive) -> bytes:
    """The whole body."""
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    return body


async def reply(send: Send, answer: bytes) -> None:
    """The whole answer."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(answer))]})
    await send({"type": "http.response.body", "body": answer})


def picture(body: bytes) -> Any:
    """A PNG as the model's input."""
    from PIL import Image

    pixels = np.asarray(Image.open(io.BytesIO(body)).convert("L"))
    return (pixels if np.uint8 == DTYPE else pixels.astype(DTYPE) / DTYPE.type(255)).reshape(SHAPE)


async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """`/json` takes a V2 request, `/raw` the tensor's bytes, `/png` a picture; anything else answers `{}`."""
    if scope["type"] != "http":
        return
    body, answer = await read(receive), b"{}"
    if scope["path"] == "/raw":
        answer = session.run(None, {source.name: np.frombuffer(body, DTYPE).reshape(SHAPE)})[0].tobytes()
    elif scope["path"] == "/json":
        tensor = orjson.loads(body)["inputs"][0]
        made = session.run(None, {source.name: np.array(tensor["data"], DTYPE).reshape(tensor["shape"])})[0]
        output = {"name": "output", "datatype": "FP32", "shape": made.shape, "data": made.ravel()}
        answer = orjson.dumps({"model_name": "floor", "outputs": [output]}, option=orjson.OPT_SERIALIZE_NUMPY)
    elif scope["path"] == "/png":
        made = session.run(None, {source.name: picture(body)})[0]
        answer = orjson.dumps({"probabilities": made[0]}, option=orjson.OPT_SERIALIZE_NUMPY)
    await reply(send, answer)
