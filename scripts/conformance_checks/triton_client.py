"""Triton's own Python clients, synchronous and asynchronous, as black boxes."""

import asyncio
import importlib
import urllib.parse
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from scripts.conformance_checks.inference import ATOL
from scripts.conformance_checks.report import Check, SkippedError, expect
from scripts.conformance_checks.target import Array, Target

ENCODINGS = (None, "gzip", "deflate")


def installed(module: str) -> Any:
    """A module, if it is there.

    Raises:
        SkippedError: it is not.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise SkippedError(f"not installed: {error}") from error


def headers_of(target: Target) -> dict[str, str]:
    """A copy, since the clients write into what they are given."""
    return dict(target.headers)


@contextmanager
def synchronous(target: Target) -> Iterator[tuple[Any, Any]]:
    """The module `tritonclient.http` and a client of it."""
    module = installed("tritonclient.http")
    parts = urllib.parse.urlsplit(target.url)
    with module.InferenceServerClient(parts.netloc, ssl=parts.scheme == "https", network_timeout=30) as client:
        yield module, client


def inputs(module: Any, target: Target, arrays: dict[str, Array], binary: bool) -> list[Any]:
    """Arrays as the client's inputs."""
    made = []
    for tensor in target.inputs:
        array = arrays[tensor["name"]]
        made.append(module.InferInput(tensor["name"], list(array.shape), tensor["datatype"]))
        made[-1].set_data_from_numpy(array, binary_data=binary)
    return made


def outputs(module: Any, target: Target, binary: bool) -> list[Any]:
    """Every output, binary or as JSON."""
    return [module.InferRequestedOutput(name, binary_data=binary) for name in target.baseline]


def agree(result: Any, wanted: dict[str, Array]) -> None:
    """Fail the running check unless a result of the client holds these outputs."""
    for name, array in wanted.items():
        found = result.as_numpy(name)
        expect(found is not None and found.shape == array.shape, f"'{name}' is missing or of another shape")
        expect(np.allclose(found, array, rtol=0, atol=ATOL), f"'{name}' is not what plain JSON gives")


def infer(target: Target, binary_in: bool, binary_out: bool) -> str:
    """Every encoding of request and answer."""
    with synchronous(target) as (module, client):
        for encoding in ENCODINGS:
            result = client.infer(
                target.model,
                inputs(module, target, target.arrays(3), binary_in),
                outputs=outputs(module, target, binary_out),
                request_id="r-1",
                request_compression_algorithm=encoding,
                response_compression_algorithm=encoding,
                headers=headers_of(target),
            )
            agree(result, target.baseline)
            expect(result.get_response()["id"] == "r-1", f"the id is {result.get_response().get('id')!r}")
    return "plain, gzip, deflate"


def defaults(target: Target) -> str:
    """No outputs named, parameters of one's own, asynchronous calls."""
    with synchronous(target) as (module, client):
        given = inputs(module, target, target.arrays(3), True)
        agree(
            client.infer(target.model, given, priority=1, timeout=5_000_000, headers=headers_of(target)),
            target.baseline,
        )
        agree(client.infer(target.model, given, parameters={"mine": 7}, headers=headers_of(target)), target.baseline)
        for pending in [client.async_infer(target.model, given, headers=headers_of(target)) for _ in range(4)]:
            agree(pending.get_result(), target.baseline)
    return "6 answers"


def classification(target: Target) -> str:
    """The two largest values as `value:index[:label]`."""
    (name, array), *_ = target.baseline.items()
    if array.ndim != 2 or array.shape[1] < 2:
        raise SkippedError(f"'{name}' is not a list of scores")
    with synchronous(target) as (module, client):
        for binary in (True, False):
            wanted = [module.InferRequestedOutput(name, binary_data=binary, class_count=2)]
            given = inputs(module, target, target.arrays(3), True)
            rows = client.infer(target.model, given, outputs=wanted, headers=headers_of(target)).as_numpy(name)
            texts = [[v.decode() if isinstance(v, bytes) else str(v) for v in row] for row in rows]
            found = [[int(text.split(":")[1]) for text in row] for row in texts]
            expect(found == np.argsort(-array, axis=1, kind="stable")[:, :2].tolist(), f"{texts}")
    return str(texts[0])


def health(target: Target) -> str:
    """Live, ready, model ready; False for what is not there."""
    with synchronous(target) as (_, client):
        for name, seen in (
            ("live", client.is_server_live(headers_of(target))),
            ("ready", client.is_server_ready(headers_of(target))),
            ("model ready", client.is_model_ready(target.model, headers=headers_of(target))),
            ("another model not ready", not client.is_model_ready("no-such-model", headers=headers_of(target))),
        ):
            expect(seen is True, f"not {name}")
    return "as it is"


def metadata(target: Target) -> str:
    """Metadata of server and model."""
    with synchronous(target) as (_, client):
        expect(client.get_server_metadata(headers_of(target))["extensions"] is not None, "no extensions")
        document = client.get_model_metadata(target.model, target.version, headers_of(target))
    expect(document["name"] == target.model, str(document))
    return f"{len(document['inputs'])} input(s), {len(document['outputs'])} output(s)"


def config(target: Target) -> str:
    """Configuration."""
    with synchronous(target) as (_, client):
        document = client.get_model_config(target.model, headers=headers_of(target))
    expect(document["name"] == target.model, str(document))
    return f"max_batch_size {document['max_batch_size']}"


def statistics(target: Target) -> str:
    """Statistics that grow by what was asked."""
    with synchronous(target) as (module, client):

        def count() -> int:
            document = client.get_inference_statistics(target.model, headers=headers_of(target))
            return sum(version["inference_stats"]["success"]["count"] for version in document["model_stats"])

        before = count()
        client.infer(target.model, inputs(module, target, target.arrays(3), True), headers=headers_of(target))
        gained = count() - before
    expect(gained >= 1, f"{gained} more after one request")
    return f"{gained} more after one request"


def index(target: Target) -> str:
    """Repository index."""
    with synchronous(target) as (_, client):
        rows = client.get_model_repository_index(headers=headers_of(target))
    expect(any(row["name"] == target.model for row in rows), str(rows))
    return f"{len(rows)} row(s)"


def errors(target: Target) -> str:
    """Errors reach the caller in the server's words."""
    failure = installed("tritonclient.utils").InferenceServerException
    seen: list[str] = []
    with synchronous(target) as (module, client):
        given = inputs(module, target, target.arrays(3), True)
        calls: tuple[Callable[[], Any], ...] = (
            lambda: client.infer("no-such-model", given, headers=headers_of(target)),
            lambda: client.infer(
                target.model, given, outputs=[module.InferRequestedOutput("no-such-output")], headers=headers_of(target)
            ),
            lambda: client.get_model_metadata("no-such-model", headers=headers_of(target)),
        )
        for call in calls:
            try:
                call()
            except failure as error:
                seen.append(error.message())
                expect("exception occurred in the client" not in seen[-1] and seen[-1], seen[-1] or "no message")
            else:
                expect(False, "no error")
    return seen[0]


def aio(target: Target) -> str:
    """Everything above once more, over the asynchronous client."""
    module = installed("tritonclient.http.aio")
    parts = urllib.parse.urlsplit(target.url)

    async def talk() -> int:
        async with module.InferenceServerClient(parts.netloc, ssl=parts.scheme == "https") as client:
            expect(await client.is_server_live(headers_of(target)), "not live")
            expect(await client.is_server_ready(headers_of(target)), "not ready")
            expect(await client.is_model_ready(target.model, headers=headers_of(target)), "model not ready")
            await client.get_server_metadata(headers_of(target))
            await client.get_model_metadata(target.model, headers=headers_of(target))
            await client.get_model_config(target.model, headers=headers_of(target))
            await client.get_inference_statistics(target.model, headers=headers_of(target))
            await client.get_model_repository_index(headers_of(target))
            return sum([await ask(client, *way) for way in ways])

    async def ask(client: Any, binary: bool, times: int, encoding: str | None) -> int:
        arrays = {name: np.concatenate([array] * times) for name, array in target.arrays(3).items()}
        result = await client.infer(
            target.model,
            inputs(module, target, arrays, binary),
            outputs=outputs(module, target, binary),
            request_compression_algorithm=encoding,
            headers=headers_of(target),
        )
        agree(result, {name: np.concatenate([array] * times) for name, array in target.baseline.items()})
        return 1

    sizes = (1, 40) if target.batched else (1,)
    ways = [(binary, times, encoding) for binary in (True, False) for times in sizes for encoding in ENCODINGS]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the client's own, of aiohttp's arguments
        return f"{asyncio.run(talk())} answers, and every other call"


def _name(binary_in: bool, binary_out: bool) -> str:
    return f"infer, {'binary' if binary_in else 'JSON'} in, {'binary' if binary_out else 'JSON'} out"


def _infer(binary_in: bool, binary_out: bool) -> Check:
    return Check("tritonclient", _name(binary_in, binary_out), lambda target: infer(target, binary_in, binary_out))


CHECKS = (
    *(_infer(binary_in, binary_out) for binary_in in (True, False) for binary_out in (True, False)),
    Check("tritonclient", "infer with its defaults, with parameters, async", defaults),
    Check("tritonclient", "classification", classification),
    Check("tritonclient", "health", health),
    Check("tritonclient", "metadata", metadata),
    Check("tritonclient", "configuration", config),
    Check("tritonclient", "statistics", statistics),
    Check("tritonclient", "repository index", index),
    Check("tritonclient", "errors in words", errors),
    Check("tritonclient.aio", "every call; infer binary, JSON, compressed, large", aio),
)
