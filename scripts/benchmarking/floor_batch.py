"""The floor with a batching prototype: a thread runs what has come in since its last run, and wakes the loop once."""

import asyncio
import threading
from collections import deque
from typing import Any

import numpy as np
import orjson

from scripts.benchmarking.floor import DTYPE, SHAPE, Receive, Send, picture, read, reply, session, source

MOST = 16  # rows in one run
waiting: deque[tuple[Any, "asyncio.Future[Any]"]] = deque()
arrived = threading.Condition()


def work(loop: asyncio.AbstractEventLoop) -> None:
    """Run what waits, for ever."""
    while True:
        with arrived:
            arrived.wait_for(lambda: waiting)
            taken, rows = [], 0
            while waiting and rows < MOST:
                taken.append(waiting.popleft())
                rows += len(taken[-1][0])
        inputs = np.concatenate([array for array, _ in taken]) if len(taken) > 1 else taken[0][0]
        loop.call_soon_threadsafe(deliver, taken, session.run(None, {source.name: inputs})[0])


def deliver(taken: list[tuple[Any, "asyncio.Future[Any]"]], outputs: Any) -> None:
    """Give everybody their rows."""
    first = 0
    for array, future in taken:
        if not future.done():
            future.set_result(outputs[first : first + len(array)])
        first += len(array)


async def infer(array: Any) -> Any:
    """The model's output for these rows."""
    loop = asyncio.get_running_loop()
    if not any(thread.name == "floor" for thread in threading.enumerate()):
        threading.Thread(target=work, args=(loop,), name="floor", daemon=True).start()
    future = loop.create_future()
    with arrived:
        waiting.append((array, future))
        arrived.notify()
    return await future


async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """As the floor's."""
    if scope["type"] != "http":
        return
    body, answer = await read(receive), b"{}"
    if scope["path"] == "/raw":
        answer = (await infer(np.frombuffer(body, DTYPE).reshape(SHAPE))).tobytes()
    elif scope["path"] == "/json":
        tensor = orjson.loads(body)["inputs"][0]
        made = await infer(np.array(tensor["data"], DTYPE).reshape(tensor["shape"]))
        output = {"name": "output", "datatype": "FP32", "shape": made.shape, "data": made.ravel()}
        answer = orjson.dumps({"model_name": "floor", "outputs": [output]}, option=orjson.OPT_SERIALIZE_NUMPY)
    elif scope["path"] == "/png":
        made = await infer(picture(body))
        answer = orjson.dumps({"probabilities": made[0]}, option=orjson.OPT_SERIALIZE_NUMPY)
    await reply(send, answer)
