"""The KServe SDK's REST client, as a black box. It is heavy; where it is not installed, these checks are skipped."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from scripts.conformance_checks.report import checks, expect
from scripts.conformance_checks.target import Target
from scripts.conformance_checks.triton_client import agree, installed


def talk(target: Target, protocol: str, ask: Callable[[Any, Any], Awaitable[str]]) -> str:
    """Run one conversation.

    Args:
        target: the server.
        protocol: `v1` or `v2`.
        ask: gets the SDK and a client of it.
    """
    sdk = installed("kserve")

    async def run() -> str:
        client = sdk.InferenceRESTClient(sdk.RESTConfig(protocol=protocol, retries=0, timeout=30))
        try:
            return await ask(sdk, client)
        finally:
            await client.close()

    return asyncio.run(run())


def health(target: Target) -> str:
    """Live, ready, model ready (it reads the bodies)."""

    async def ask(sdk: Any, client: Any) -> str:
        expect(await client.is_server_live(target.url, target.headers), "not live")
        expect(await client.is_server_ready(target.url, target.headers), "not ready")
        expect(await client.is_model_ready(target.url, target.model, target.headers), "model not ready")
        return "as it is"

    return talk(target, "v2", ask)


async def infer(sdk: Any, client: Any, target: Target, binary_in: bool, binary_out: bool) -> None:
    """One request; the answer must be the baseline's."""
    arrays = target.arrays(3)
    given = []
    for tensor in target.inputs:
        array = arrays[tensor["name"]]
        given.append(sdk.InferInput(tensor["name"], list(array.shape), tensor["datatype"]))
        given[-1].set_data_from_numpy(array, binary_data=binary_in)
    kind = installed("kserve.protocol.infer_type").RequestedOutput
    wanted = [kind(name, {"binary_data": binary_out}) for name in target.baseline]
    request = sdk.InferRequest(target.model, given, request_id="r-1", request_outputs=wanted)
    result = await client.infer(target.url, request, model_name=target.model, headers=dict(target.headers))
    agree(_Result(result), target.baseline)
    expect(result.id == "r-1", f"the id is {result.id!r}")


class _Result:
    """KServe's result with the face of Triton's."""

    def __init__(self, result: Any) -> None:
        self._outputs = {output.name: output for output in result.outputs}

    def as_numpy(self, name: str) -> Any:
        return self._outputs[name].as_numpy() if name in self._outputs else None


def binary(target: Target) -> str:
    """Infer, binary in, both kinds out."""

    async def ask(sdk: Any, client: Any) -> str:
        await infer(sdk, client, target, True, True)
        await infer(sdk, client, target, True, False)
        return "2 answers"

    return talk(target, "v2", ask)


def as_json(target: Target) -> str:
    """Infer, JSON in, both kinds out."""

    async def ask(sdk: Any, client: Any) -> str:
        await infer(sdk, client, target, False, False)
        await infer(sdk, client, target, False, True)
        return "2 answers"

    return talk(target, "v2", ask)


CHECKS = checks("kserve client", health, binary, as_json)
