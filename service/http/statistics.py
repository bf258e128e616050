"""What is known of the batch-normalisation layers, and how the traffic compares with it."""

from collections.abc import Callable
from typing import Annotated, Any

import anyio.to_thread
from fastapi import APIRouter, Query, Request, Response

from service.batchnorm import BatchNormReport
from service.errors import NotFoundError
from service.http import layers_page
from service.http.page import HEADERS
from service.http.routes import json_response, plane_of
from service.model import Model
from service.security import check_admin
from service.watch.report import drift_report
from service.watch.watcher import Watch

router = APIRouter()
Arrays = Annotated[bool, Query(description="whether to list every number of every channel")]

OCTETS = "application/octet-stream"
_BINARY: dict[str, Any] = {OCTETS: {"schema": {"type": "string", "format": "binary"}}}
_SAME: dict[int | str, dict[str, Any]] = {
    304: {"description": "The bundle is still the one that `If-None-Match` names"}
}
_JSON_OR_RAW = _SAME | {200: {"content": {"application/json": {}} | _BINARY}}
_RAW = _SAME | {200: {"content": _BINARY}}


@router.get("/v2/models/{model}/batchnorm", tags=["batch normalisation"], responses=_JSON_OR_RAW)
@router.get("/v2/models/{model}/versions/{version}/batchnorm", tags=["batch normalisation"], responses=_JSON_OR_RAW)
async def batchnorm(request: Request, model: str, version: str | None = None, arrays: Arrays = False) -> Response:
    """Every batch-normalisation layer: where it was folded, and its parameters; ranges, or all with `arrays=true`.

    `Accept: application/octet-stream` gives γ, β, moving mean and moving variance of layer after layer as float32.
    """
    found = plane_of(request).repository.get(model, version)
    report = _report(found)
    if _wants_octets(request):
        return _tagged(request, found, lambda: Response(report.raw(), media_type=OCTETS), "-raw")
    return _tagged(request, found, lambda: json_response(report.whole(arrays)))


@router.get("/v2/models/{model}/batchnorm/{layer}", tags=["batch normalisation"], responses=_JSON_OR_RAW)
@router.get(
    "/v2/models/{model}/versions/{version}/batchnorm/{layer}", tags=["batch normalisation"], responses=_JSON_OR_RAW
)
async def batchnorm_layer(
    request: Request, model: str, layer: str, version: str | None = None, arrays: Arrays = False
) -> Response:
    """One batch-normalisation layer, like all of them."""
    found = plane_of(request).repository.get(model, version)
    report = _report(found)
    if _wants_octets(request):
        return _tagged(request, found, lambda: Response(report.raw(layer), media_type=OCTETS), "-raw")
    return _tagged(request, found, lambda: json_response(report.layer(layer, arrays)))


@router.get(
    "/v2/models/{model}/batchnorm.safetensors", tags=["batch normalisation"], response_class=Response, responses=_RAW
)
@router.get(
    "/v2/models/{model}/versions/{version}/batchnorm.safetensors",
    tags=["batch normalisation"],
    response_class=Response,
    responses=_RAW,
)
async def batchnorm_file(request: Request, model: str, version: str | None = None) -> Response:
    """The parameters as a safetensors file: `<layer>/gamma`, `/beta`, `/moving_mean`, `/moving_variance`."""
    found = plane_of(request).repository.get(model, version)
    report = _report(found)
    if report.file is None:
        raise NotFoundError(f"model '{found.name}' version {found.version} has no batch-normalisation layers")
    name = f"{found.name}-{found.version}-batchnorm.safetensors"  # a repository's names have no quotes
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return _tagged(request, found, lambda: Response(report.file, media_type=OCTETS, headers=headers))


@router.get("/batchnorm/{model}", include_in_schema=False)
async def page(request: Request, model: str, version: str | None = None) -> Response:
    """All of this on one page, for people."""
    found = plane_of(request).repository.get(model, version)
    _report(found)
    text = await anyio.to_thread.run_sync(layers_page.render, found)
    return Response(text, media_type="text/html; charset=utf-8", headers=HEADERS)


@router.get("/v2/models/{model}/drift", tags=["batch normalisation"])
@router.get("/v2/models/{model}/versions/{version}/drift", tags=["batch normalisation"])
async def drift(request: Request, model: str, version: str | None = None, arrays: Arrays = False) -> Response:
    """How the traffic compares with the training data: a verdict, the worst layers and channels, the last windows.

    `arrays=true` lists every channel, and the sums since the last reset, which can be added to those of other servers.
    """
    found = plane_of(request).repository.get(model, version)
    head = {"model_name": found.name, "model_version": str(found.version)}
    return json_response(head | await anyio.to_thread.run_sync(drift_report, _watch(found), arrays))


@router.post("/v2/models/{model}/drift/reset", tags=["batch normalisation"])
@router.post("/v2/models/{model}/versions/{version}/drift/reset", tags=["batch normalisation"])
async def reset(request: Request, model: str, version: str | None = None) -> Response:
    """Forget the traffic that was seen, in all workers. Needs an admin key."""
    plane = plane_of(request)
    check_admin(request.scope["headers"], plane.settings.admin_keys)
    found = plane.repository.get(model, version)
    await anyio.to_thread.run_sync(_watch(found).reset)
    return json_response({})


def _report(model: Model) -> BatchNormReport:
    if model.batchnorm is None:
        raise NotFoundError(f"model '{model.name}' version {model.version} is a bare model.onnx without statistics")
    return model.batchnorm


def _watch(model: Model) -> Watch:
    if model.watch is None:
        raise NotFoundError(
            f"the drift of model '{model.name}' version {model.version} is not watched: {model.unwatched}"
        )
    return model.watch


def _wants_octets(request: Request) -> bool:
    return OCTETS in request.headers.get("accept", "")


def _tagged(request: Request, model: Model, answer: Callable[[], Response], suffix: str = "") -> Response:
    """The answer with the bundle's digest as its tag, or 304 if the client has it already."""
    tag = f'"{model.digest}{suffix}"'
    headers = {"ETag": tag, "Cache-Control": "no-cache", "Vary": "Accept"}
    known = [entry.strip().removeprefix("W/") for entry in request.headers.get("if-none-match", "").split(",")]
    if tag in known or "*" in known:
        return Response(status_code=304, headers=headers)
    response = answer()
    response.headers.update(headers)
    return response
