"""What OpenAPI cannot learn from the routes, since they read and write bytes: bodies and errors."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

_ERROR = {"$ref": "#/components/schemas/Error"}
_TEXTS = {
    "400": "The request does not say what the model takes; `error` names what is wrong",
    "401": "A key is needed, or this one is wrong",
    "403": "This server does not offer that",
    "404": "No such model, version or route",
    "405": "Not with this method",
    "413": "The body or the picture is over its limit",
    "415": "Not a picture of a known format",
    "500": "The server is at fault; its log says why",
    "503": "Not now: overloaded, timed out, draining; `Retry-After` says when to come again",
}
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"description": text, "content": {"application/json": {"schema": _ERROR}}}
    for status, text in _TEXTS.items()
}


def _parameters(description: str) -> dict[str, Any]:
    kinds = {"type": ["string", "number", "boolean"]}
    return {"type": "object", "additionalProperties": kinds, "description": description}


_TENSOR = {
    "type": "object",
    "required": ["name", "shape", "datatype"],
    "properties": {
        "name": {"type": "string", "description": "as the model's metadata has it"},
        "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}, "description": "the rows first"},
        "datatype": {"type": "string", "examples": ["UINT8", "FP32"], "description": "that of the model's metadata"},
        "parameters": _parameters("`binary_data_size`: how many bytes behind the JSON are its data"),
        "data": {"type": "array", "description": "flat or nested, row-major"},
    },
}
_SCHEMAS: dict[str, Any] = {
    "Error": {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}},
    "InferRequest": {
        "type": "object",
        "required": ["inputs"],
        "properties": {
            "id": {"type": "string", "description": "comes back in the answer"},
            "parameters": _parameters(
                "`timeout`: microseconds that it may wait; `binary_data_output`: whether all outputs are binary"
            ),
            "inputs": {"type": "array", "items": _TENSOR, "description": "one tensor for each input of the model"},
            "outputs": {
                "type": "array",
                "description": "those that are wanted; all by default",
                "items": {
                    "type": "object",
                    "required": ["name"],
                    "properties": {
                        "name": {"type": "string", "description": "as the model's metadata has it"},
                        "parameters": _parameters(
                            "`binary_data`: whether this output is binary; `classification`: so many classes, the most "
                            "probable first, instead of all scores"
                        ),
                    },
                },
            },
        },
    },
    "PredictRequest": {
        "type": "object",
        "properties": {
            "signature_name": {"type": "string", "description": "`serving_default`, if it is given at all"},
            "instances": {"type": "array", "description": "row by row; the answer has `predictions`"},
            "inputs": {"description": "tensor by tensor, instead of `instances`; the answer has `outputs`"},
        },
    },
    "RecalibrationRequest": {
        "type": "object",
        "properties": {
            "source": {"const": "recent", "description": "the images that were kept, instead of `inputs`"},
            "inputs": {"type": "array", "items": _TENSOR, "description": "the images, as for inference"},
        },
    },
    "IndexRequest": {
        "type": "object",
        "properties": {"ready": {"type": "boolean", "description": "whether to leave out what is not ready"}},
    },
}
_BINARY = {"schema": {"type": "string", "format": "binary"}}


def _json(name: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}


_UPLOAD = {
    "multipart/form-data": {
        "schema": {"type": "object", "properties": {"image": {"type": "string", "format": "binary"}}}
    }
}
# By the end of the path: what a POST to it carries, and whether it must.
_BODIES: dict[str, tuple[dict[str, Any], bool]] = {
    "/infer": (_json("InferRequest") | {"application/octet-stream": _BINARY}, True),
    "/predict": ({"image/png": _BINARY, "image/jpeg": _BINARY} | _UPLOAD, True),
    ":predict": (_json("PredictRequest"), True),
    "/index": (_json("IndexRequest"), False),
    "/recalibrations": (
        _json("RecalibrationRequest") | {"application/octet-stream": _BINARY, "application/zip": _BINARY} | _UPLOAD,
        True,
    ),
}
_LENGTH = {
    "name": "Inference-Header-Content-Length",
    "in": "header",
    "required": False,
    "description": "how many bytes of the body are JSON; the tensors' bytes follow",
    "schema": {"type": "integer", "minimum": 0},
}


def describe(app: FastAPI) -> None:
    """Complete the application's OpenAPI document, once, when it is first asked for."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
            document.setdefault("components", {})["schemas"] = _SCHEMAS
            for path, operations in document["paths"].items():
                for method, operation in operations.items():
                    operation["responses"].pop("422", None)  # every error is `{"error": …}`, never FastAPI's 422
                    _drop_options(operation)
                    if method == "post":
                        _complete(path, operation)
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way to extend the document


def _drop_options(operation: dict[str, Any]) -> None:
    """FastAPI takes what a path lacks for an option: `version` of a route that also stands without one."""
    if parameters := operation.get("parameters"):
        operation["parameters"] = [p for p in parameters if p["in"] == "path" or p["name"] not in ("model", "version")]


def _complete(path: str, operation: dict[str, Any]) -> None:
    for ending, (content, required) in _BODIES.items():
        if path.endswith(ending):
            operation["requestBody"] = {"content": content, "required": required}
    if path.endswith("/infer"):
        operation.setdefault("parameters", []).append(_LENGTH)
        operation["responses"]["200"]["content"] = {"application/json": {}, "application/octet-stream": _BINARY}
