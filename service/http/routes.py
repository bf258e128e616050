"""The routes of the protocol that are not inference: health, metadata, statistics, metrics."""

from typing import Any

import orjson
from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse

from service.dataplane import DataPlane
from service.http.errors import error_response
from service.metrics.exposition import CONTENT_TYPE, exposition

router = APIRouter()


def plane_of(request: Request) -> DataPlane:
    """The data plane of the application that the request came to."""
    plane: DataPlane = request.app.state.plane
    return plane


def json_response(content: Any) -> Response:
    """JSON, written by orjson."""
    return Response(orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY), media_type="application/json")


@router.get("/v2/health/live", tags=["health"])
@router.get("/healthz", include_in_schema=False)
async def live() -> Response:
    """The process answers."""
    return json_response({"live": True})


@router.get("/v2/health/ready", tags=["health"])
@router.get("/readyz", include_in_schema=False)
async def ready(request: Request) -> Response:
    """Every model is loaded and answered its golden inputs, and the server is not draining."""
    reason = plane_of(request).not_ready()
    if reason is None:
        return json_response({"ready": True, "live": True})
    return Response(
        orjson.dumps({"error": reason, "ready": False, "live": True}), 503, {"Retry-After": "1"}, "application/json"
    )


@router.get("/v2", tags=["metadata"])
@router.get("/v2/", include_in_schema=False)
async def server_metadata(request: Request) -> Response:
    """The server's name, version and the extensions of the protocol that it has."""
    return json_response(plane_of(request).metadata())


@router.get("/v2/models", tags=["metadata"])
async def models(request: Request) -> Response:
    """The names of the models that serve."""
    return json_response({"models": plane_of(request).repository.names()})


@router.get("/v2/models/{model}", tags=["metadata"])
@router.get("/v2/models/{model}/versions/{version}", tags=["metadata"])
async def model_metadata(request: Request, model: str, version: str | None = None) -> Response:
    """Inputs, outputs, versions, and in `properties` what is being served."""
    repository = plane_of(request).repository
    return json_response(repository.get(model, version).metadata(repository.versions(model)))


@router.get("/v2/models/{model}/ready", tags=["health"])
@router.get("/v2/models/{model}/versions/{version}/ready", tags=["health"])
async def model_ready(request: Request, model: str, version: str | None = None) -> Response:
    """The model is loaded and answered its golden inputs."""
    found = plane_of(request).repository.get(model, version)
    return json_response({"name": found.name, "version": str(found.version), "ready": True})


@router.get("/metrics", tags=["operations"], response_class=PlainTextResponse)
async def metrics(request: Request) -> Response:
    """Prometheus' text format."""
    return Response(exposition(plane_of(request)), media_type=CONTENT_TYPE)


@router.post("/v2/models/{model}/infer", tags=["inference"])
@router.post("/v2/models/{model}/versions/{version}/infer", tags=["inference"])
async def infer(model: str, version: str | None = None) -> Response:
    """Inference (Open Inference Protocol V2): JSON, or binary tensors behind a JSON header."""
    # Answered in `service.http.front` before the framework sees it; only a version that is no number comes here.
    return error_response(404, "Not Found")
