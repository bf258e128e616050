"""Triton's extensions that its clients need: configuration, statistics, the repository."""

from typing import Any

import anyio.to_thread
from fastapi import APIRouter, Request, Response

from service.errors import BadRequestError
from service.http.routes import json_response, plane_of
from service.model import Model
from service.protocol.request import load_json
from service.protocol.signature import Tensor
from service.security import check_admin

router = APIRouter()


# Before `/v2/models/{model}`, which would take `stats` for a model's name.
@router.get("/v2/models/stats", tags=["statistics"])
async def all_statistics(request: Request) -> Response:
    """Statistics of every version of every model."""
    return json_response({"model_stats": [_statistics(m) for m in plane_of(request).repository.everything()]})


@router.get("/v2/models/{model}/stats", tags=["statistics"])
@router.get("/v2/models/{model}/versions/{version}/stats", tags=["statistics"])
async def model_statistics(request: Request, model: str, version: str | None = None) -> Response:
    """Counts and cumulative times, as Triton reports them; of all versions if none is named."""
    repository = plane_of(request).repository
    first = repository.get(model, version)
    found = [first] if version else [repository.get(model, str(v)) for v in repository.versions(model)]
    return json_response({"model_stats": [_statistics(m) for m in found]})


@router.get("/v2/models/{model}/config", tags=["metadata"])
@router.get("/v2/models/{model}/versions/{version}/config", tags=["metadata"])
async def configuration(request: Request, model: str, version: str | None = None) -> Response:
    """The model's configuration in Triton's words, as its clients and perf_analyzer read it."""
    plane = plane_of(request)
    found = plane.repository.get(model, version)
    signature = found.signature
    cuda = found.provider.startswith("CUDA")
    group = {"name": found.name, "kind": "KIND_GPU" if cuda else "KIND_CPU", "count": plane.runners}
    config: dict[str, Any] = {
        "name": found.name,
        "platform": "onnxruntime_onnx",
        "backend": "onnxruntime",
        "max_batch_size": signature.max_batch_size if signature.batched else 0,
        "version_policy": {"all": {}},
        "input": [_io(t, signature.batched) for t in signature.inputs],
        "output": [_io(t, signature.batched) for t in signature.outputs],
        "instance_group": [group | ({"gpus": [plane.settings.device_id]} if cuda else {})],
    }
    if found.lane.merge:
        config["dynamic_batching"] = {"max_queue_delay_microseconds": round(plane.settings.max_queue_delay * 1e6)}
    return json_response(config)


@router.post("/v2/repository/index", tags=["repository"])
async def index(request: Request) -> Response:
    """Every version that is known, its state, and why it is not ready; `{"ready": true}` leaves those out."""
    body = await _object(request)
    only_ready = body.get("ready", False)
    if not isinstance(only_ready, bool):
        raise BadRequestError("'ready' must be true or false")
    return json_response(plane_of(request).repository.index(only_ready))


@router.post("/v2/repository/models/{model}/load", tags=["repository"])
async def load(request: Request, model: str) -> Response:
    """Load a model's versions from the repository, or again where they have changed. Needs an admin key."""
    plane = plane_of(request)
    check_admin(request.scope["headers"], plane.settings.admin_keys)
    if (await _object(request)).get("parameters"):
        raise BadRequestError("'parameters' of load (a configuration or files of one's own) are not supported")
    await anyio.to_thread.run_sync(plane.load, model)
    return json_response({})


@router.post("/v2/repository/models/{model}/unload", tags=["repository"])
async def unload(request: Request, model: str) -> Response:
    """Take a model out of service; requests that have begun are answered. Needs an admin key."""
    plane = plane_of(request)
    check_admin(request.scope["headers"], plane.settings.admin_keys)
    await _object(request)
    await anyio.to_thread.run_sync(plane.unload, model)
    return json_response({})


async def _object(request: Request) -> dict[str, Any]:
    """The body as a JSON object; an empty body is an empty object, as Triton's clients send it."""
    raw = await request.body()
    body = load_json(raw) if raw.strip() else {}
    if type(body) is not dict:
        raise BadRequestError("the request must be a JSON object")
    return body


def _io(tensor: Tensor, batched: bool) -> dict[str, Any]:
    dims = tensor.shape[1:] if batched else tensor.shape
    return {"name": tensor.name, "data_type": tensor.datatype.config, "dims": list(dims)}


def _statistics(model: Model) -> dict[str, Any]:
    return {"name": model.name, "version": str(model.version)} | model.statistics.report()
