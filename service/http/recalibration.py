"""Recalibration and which version is the default: for admins."""

from dataclasses import replace
from typing import Annotated, Any

import anyio.to_thread
import numpy as np
from fastapi import APIRouter, Query, Request, Response

from pictures import Polarity
from service.errors import BadRequestError, ConflictError, UnsupportedMediaError
from service.http.multipart import read_files
from service.http.openapi import ERRORS
from service.http.predict import POLARITY
from service.http.routes import json_response, plane_of
from service.images import decode, image_layout
from service.model import Model
from service.protocol.request import RequestReader, load_json
from service.protocol.tensors import Array
from service.recalibration.uploads import check, read_npz
from service.security import check_admin

router = APIRouter(tags=["recalibration"])

MOST = 2**16  # images in one request; the size of the body bounds them as well
_PROBLEM = {"content": ERRORS["400"]["content"]}
_BUSY: dict[int | str, dict[str, Any]] = {
    409: {"description": "Not in this state: another one is running, or the version is (not) the default"} | _PROBLEM
}
_STARTED: dict[int | str, dict[str, Any]] = _BUSY | {
    501: {"description": "This installation serves only and cannot fold; `error` says what to install"} | _PROBLEM
}


@router.post("/v2/models/{model}/recalibrations", status_code=202, responses=_STARTED)
async def begin(
    request: Request,
    model: str,
    *,
    force: Annotated[bool, Query(description="go on where a guard rail refuses; the manifest says so")] = False,
    pseudo_count: Annotated[
        float | None, Query(ge=0, le=1e9, description="images that the old statistics count for")
    ] = None,
    polarity: Annotated[Polarity, Query(description=POLARITY)] = "auto",
) -> Response:
    """Re-estimate the statistics of the default version on new images and fold again, as a job. Needs an admin key.

    The images are an .npz file with `images` (and `labels`, to see the accuracy), a request as for inference, pictures
    as multipart files, or `{"source": "recent"}`: those that this worker kept, if the setting `keep_images` is above 0.
    The result is a new version that is loaded and not the default.
    """
    plane = plane_of(request)
    check_admin(request.scope["headers"], plane.settings.admin_keys)
    found = plane.repository.get(model)
    if found.bundle is None or "reference.onnx" not in found.bundle.manifest.files:
        raise ConflictError(f"model '{found.name}' version {found.version} has no reference.onnx to start from")
    source, images, labels = await _images(request, found, plane.settings.max_image_pixels, polarity)
    check(images, labels, found.signature)
    asked = {"source": source, "force": force, "pseudo_count": pseudo_count}
    identity = await anyio.to_thread.run_sync(
        plane.jobs.start, found.name, found.version, np.ascontiguousarray(images), labels, asked
    )
    answer = json_response(plane.jobs.get(found.name, identity))
    answer.status_code = 202
    answer.headers["Location"] = f"/v2/models/{found.name}/recalibrations/{identity}"
    return answer


@router.get("/v2/models/{model}/recalibrations")
async def listing(request: Request, model: str) -> Response:
    """Every recalibration that is remembered, the versions that serve and the default one. Needs an admin key."""
    plane, found = _admin(request, model)
    return json_response(_versions(plane, found.name) | {"recalibrations": plane.jobs.listing(found.name)})


@router.get("/v2/models/{model}/recalibrations/{job}")
async def progress(request: Request, model: str, job: str) -> Response:
    """What became of a recalibration: its state, its progress, and at the end the version or the reason. For admins."""
    plane, found = _admin(request, model)
    return json_response(plane.jobs.get(found.name, job))


@router.delete("/v2/models/{model}/recalibrations/{job}")
async def cancel(request: Request, model: str, job: str) -> Response:
    """End a running recalibration, or forget one that has ended. Needs an admin key."""
    plane, found = _admin(request, model)
    return json_response(await anyio.to_thread.run_sync(plane.jobs.cancel, found.name, job))


@router.post("/v2/models/{model}/versions/{version}/promote", responses=_BUSY)
async def promote(request: Request, model: str, version: str) -> Response:
    """Make a version the default; requests that have begun are answered by the old one. Needs an admin key."""
    plane = plane_of(request)
    check_admin(request.scope["headers"], plane.settings.admin_keys)
    await anyio.to_thread.run_sync(plane.promote, model, version)
    return json_response(_versions(plane, model))


@router.post("/v2/models/{model}/rollback", responses=_BUSY)
async def roll_back(request: Request, model: str) -> Response:
    """Undo the last promotion. Needs an admin key."""
    plane = plane_of(request)
    check_admin(request.scope["headers"], plane.settings.admin_keys)
    await anyio.to_thread.run_sync(plane.roll_back, model)
    return json_response(_versions(plane, model))


@router.delete("/v2/models/{model}/versions/{version}", responses=_BUSY)
async def delete(request: Request, model: str, version: str) -> Response:
    """Remove a recalibrated version that is not the default from the repository. Needs an admin key."""
    plane = plane_of(request)
    check_admin(request.scope["headers"], plane.settings.admin_keys)
    await anyio.to_thread.run_sync(plane.delete, model, version)
    return json_response(_versions(plane, model))


def _admin(request: Request, model: str) -> tuple[Any, Model]:
    plane = plane_of(request)
    check_admin(request.scope["headers"], plane.settings.admin_keys)
    return plane, plane.repository.get(model)


def _versions(plane: Any, model: str) -> dict[str, Any]:
    versions = [str(version) for version in plane.repository.versions(model)]
    return {"model_name": model, "default_version": str(plane.repository.get(model).version), "versions": versions}


async def _images(
    request: Request, model: Model, max_pixels: int, polarity: Polarity
) -> tuple[str, Array, Array | None]:
    """Where the images come from, the images, and labels if there are any."""
    limit = plane_of(request).settings.max_body_bytes
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        files = await read_files(request, MOST)
        layout = image_layout(model.signature)
        return "pictures", await anyio.to_thread.run_sync(_decode, files, layout, max_pixels, polarity), None
    body = await request.body()
    header = request.headers.get("inference-header-content-length")
    if header is None and body[:2] == b"PK":
        return "npz", *await anyio.to_thread.run_sync(read_npz, body, limit)
    if header is None and kind not in ("", "application/json"):
        raise UnsupportedMediaError(
            "expected an .npz file, pictures as multipart/form-data, a tensor as for inference, or application/json"
        )
    content = load_json(body) if header is None else {}
    if type(content) is dict and "source" in content:
        return "recent", _recent(model, content["source"]), None
    wide = replace(model.signature, max_batch_size=MOST)
    length = None if header is None else header.encode("latin-1")
    return "tensor", RequestReader(wide).read(body, length).arrays[0], None


def _recent(model: Model, source: Any) -> Array:
    if source != "recent":
        raise BadRequestError("'source' must be \"recent\"")
    if model.recent is None:
        raise ConflictError("no images are kept: the server was started without FOLDSERVE_KEEP_IMAGES")
    images = model.recent.images()
    if images is None:
        raise ConflictError("no images were seen yet")
    return images


def _decode(pictures: list[bytes], layout: Any, limit: int, polarity: Polarity) -> Array:
    return np.concatenate([decode(picture, layout, limit, polarity)[0] for picture in pictures])
