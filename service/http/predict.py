"""For people: pictures in, names out."""

from typing import Annotated, Any

import anyio.to_thread
import numpy as np
from fastapi import APIRouter, Query, Request, Response

from pictures import Framing, Layout, Polarity
from service.http.multipart import read_files
from service.http.routes import json_response, plane_of
from service.images import data_uri, decode, image_layout
from service.model import Model
from service.protocol.request import InferRequest
from service.protocol.tensors import Array

router = APIRouter(tags=["pictures"])

MOST_FILES = 64
FRAMING = "for models of one channel: `keep` fits the whole picture in, `auto` looks for the character in it"
POLARITY = "`keep` as it is, `invert`, or `auto`: models of one channel get light ink on dark ground"


@router.post("/predict")
@router.post("/v2/models/{model}/predict")
@router.post("/v2/models/{model}/versions/{version}/predict")
async def predict(
    request: Request,
    model: str | None = None,
    version: str | None = None,
    *,
    polarity: Annotated[Polarity, Query(description=POLARITY)] = "auto",
    framing: Annotated[Framing, Query(description=FRAMING)] = "auto",
    picture: Annotated[bool, Query(description="whether to add the picture as the model got it, a data URI")] = False,
    top: Annotated[int, Query(ge=0, le=1000, description="how many classes to list, the most probable first")] = 0,
) -> Response:
    """Classify pictures: one as the body (PNG, JPEG, WebP or BMP), or one or several as multipart files."""
    plane = plane_of(request)
    found = plane.repository.get(model, version) if model else plane.repository.default()
    layout = image_layout(found.signature)
    pictures = await _pictures(request)
    limit = plane.settings.max_image_pixels
    arrays, inverted = await anyio.to_thread.run_sync(_decode, pictures, layout, limit, polarity, framing)
    outputs = await plane.evaluate(found, InferRequest(None, [arrays], len(arrays), []))
    shown = [data_uri(array, layout) for array in arrays] if picture else None
    return json_response(report(found, outputs[0], inverted, top=top, pictures=shown))


def report(
    model: Model, outputs: Array, inverted: list[bool], *, top: int = 0, pictures: list[str] | None = None
) -> dict[str, Any]:
    """What is answered for one or several pictures.

    Args:
        model: that has looked at them.
        outputs: its scores, float32 [pictures, classes].
        inverted: whether each was dark on light.
        top: how many classes to list.
        pictures: each as the model got it, a data URI.
    """
    rows = [_row(model, scores, flag, top) for scores, flag in zip(outputs, inverted, strict=True)]
    if pictures:
        rows = [row | {"picture": shown} for row, shown in zip(rows, pictures, strict=True)]
    about: dict[str, Any] = {"model_name": model.name, "model_version": str(model.version)}
    if model.labels:
        about["labels"] = model.labels
    if model.digest:
        about["bundle_sha256"] = model.digest
    return about | (rows[0] if len(rows) == 1 else {"predictions": rows})


async def _pictures(request: Request) -> list[bytes]:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        return [await request.body()]
    return await read_files(request, MOST_FILES)


def _decode(
    pictures: list[bytes], layout: Layout, limit: int, polarity: Polarity, framing: Framing
) -> tuple[Array, list[bool]]:
    decoded = [decode(picture, layout, limit, polarity, framing) for picture in pictures]
    return np.concatenate([array for array, _ in decoded]), [inverted for _, inverted in decoded]


def _row(model: Model, scores: Array, inverted: bool, top: int) -> dict[str, Any]:
    order = np.argsort(-scores, kind="stable")
    best = order[0]
    row = {
        "class": int(best),
        "label": _label(model, best),
        "probability": scores[best],
        "probabilities": np.ascontiguousarray(scores),
        "inverted": inverted,
    }
    if top:
        row["top"] = [{"class": int(i), "label": _label(model, i), "probability": scores[i]} for i in order[:top]]
    return row


def _label(model: Model, index: int) -> str:
    return model.labels[index] if index < len(model.labels) else str(index)
