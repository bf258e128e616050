"""TensorFlow Serving's routes, for clients that were written for it; KServe's V1 in the same answers."""

from fastapi import APIRouter, Request, Response

from service.http.routes import json_response, plane_of
from service.protocol import tfserving as v1
from service.protocol.signature import Tensor

router = APIRouter(prefix="/v1", tags=["TensorFlow Serving"])

_DTYPES = {"FP16": "DT_HALF", "FP32": "DT_FLOAT", "FP64": "DT_DOUBLE", "BOOL": "DT_BOOL", "BYTES": "DT_STRING"}


@router.get("/models", include_in_schema=False)
async def models(request: Request) -> Response:
    """The names of the models that serve (KServe's V1)."""
    return json_response({"models": plane_of(request).repository.names()})


@router.get("/models/{model}/versions/{version}/metadata")
@router.get("/models/{model}/metadata")
async def metadata(request: Request, model: str, version: str | None = None) -> Response:
    """Inputs and outputs, as TensorFlow Serving describes them."""
    found = plane_of(request).repository.get(model, version)
    signature = {
        "inputs": {t.name: _tensor_info(t) for t in found.signature.inputs},
        "outputs": {t.name: _tensor_info(t) for t in found.signature.outputs},
        "method_name": "tensorflow/serving/predict",
    }
    spec = {"name": found.name, "signature_name": "", "version": str(found.version)}
    definition = {"signature_def": {"signature_def": {v1.SIGNATURE_NAME: signature}}}
    return json_response({"model_spec": spec, "metadata": definition})


@router.get("/models/{model}/versions/{version}")
@router.get("/models/{model}")
async def status(request: Request, model: str, version: str | None = None) -> Response:
    """The state of a version, or of all versions that serve, the newest first."""
    repository = plane_of(request).repository
    found = repository.get(model, version)
    versions = [found.version] if version else sorted(repository.versions(model), reverse=True)
    states = [
        {"version": str(v), "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}} for v in versions
    ]
    return json_response({"model_version_status": states, "name": found.name, "ready": True})


@router.post("/models/{model}/versions/{version}:predict")
@router.post("/models/{model}:predict")
async def predict(request: Request, model: str, version: str | None = None) -> Response:
    """Inference: `{"instances": […]}` gives `{"predictions": …}`, `{"inputs": …}` gives `{"outputs": …}`."""
    plane = plane_of(request)
    found = plane.repository.get(model, version)
    parsed, by_rows = v1.parse(await request.body(), found.signature)
    arrays = await plane.evaluate(found, parsed)
    return Response(v1.write(arrays, found.signature, by_rows), media_type="application/json")


def _tensor_info(tensor: Tensor) -> dict[str, object]:
    dims = [{"size": str(size), "name": ""} for size in tensor.shape]
    dtype = _DTYPES.get(tensor.datatype.name, f"DT_{tensor.datatype.name}")
    return {"dtype": dtype, "tensor_shape": {"dim": dims, "unknown_rank": False}, "name": tensor.name}
