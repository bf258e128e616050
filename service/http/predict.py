"""For people: a picture in, a name out."""

from typing import Any

import anyio.to_thread
import numpy as np
from fastapi import APIRouter, Request, Response
from starlette.datastructures import UploadFile

from service.errors import BadRequestError, ServiceError
from service.http.routes import json_response, plane_of
from service.images import Polarity, decode, image_layout
from service.model import Model
from service.protocol.request import InferRequest
from service.protocol.tensors import Array

router = APIRouter(tags=["pictures"])


@router.post("/predict")
@router.post("/v2/models/{model}/predict")
@router.post("/v2/models/{model}/versions/{version}/predict")
async def predict(
    request: Request, model: str | None = None, version: str | None = None, polarity: Polarity = "auto"
) -> Response:
    """Classify a picture: PNG, JPEG, WebP or BMP, as the body or as a multipart file."""
    plane = plane_of(request)
    found = plane.repository.get(model, version) if model else plane.repository.default()
    layout = image_layout(found.signature)
    data = await _picture(request)
    limit = plane.settings.max_image_pixels
    array, inverted = await anyio.to_thread.run_sync(decode, data, layout, limit, polarity)
    scores = await plane.evaluate(found, InferRequest(None, [array], 1, []))
    return json_response(_answer(found, scores[0][0], inverted))


async def _picture(request: Request) -> bytes:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        return await request.body()
    try:
        async with request.form(max_files=1, max_fields=8) as form:
            for value in form.values():
                if isinstance(value, UploadFile):
                    return await value.read()
    except ServiceError:
        raise
    except Exception:
        raise BadRequestError("the multipart body cannot be read, or has more than one file") from None
    raise BadRequestError(
        "the multipart body has no file; send the picture as a file field, e.g. curl -F image=@picture.png"
    )


def _answer(model: Model, scores: Array, inverted: bool) -> dict[str, Any]:
    best = int(np.argmax(scores))
    answer: dict[str, Any] = {
        "model_name": model.name,
        "model_version": str(model.version),
        "class": best,
        "label": model.labels[best] if best < len(model.labels) else str(best),
        "probability": scores[best],
        "probabilities": scores,
        "inverted": inverted,
    }
    if model.labels:
        answer["labels"] = list(model.labels)
    if model.digest:
        answer["bundle_sha256"] = model.digest
    return answer
