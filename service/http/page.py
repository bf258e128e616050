"""The page at `/`, and what it asks beside the protocol's routes. Its files are static: nothing is filled in."""

import hashlib
from importlib.resources import files

import anyio.to_thread
from fastapi import APIRouter, Request, Response

from service import about
from service.errors import NotFoundError
from service.http.routes import json_response, plane_of

router = APIRouter()

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",  # may be kept, but is asked for again with its tag
}
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


def _load() -> dict[str, tuple[bytes, dict[str, str]]]:
    """Content and headers of every file, by name."""
    found = {}
    for entry in files("service").joinpath("page").iterdir():
        suffix = entry.name[entry.name.rfind(".") :]
        if suffix in _TYPES:
            content = entry.read_bytes()
            tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
            found[entry.name] = (content, HEADERS | {"Content-Type": _TYPES[suffix], "ETag": tag})
    return found


_FILES = _load()


@router.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
async def page(request: Request) -> Response:
    """The page."""
    return _answer(request, "index.html")


@router.get("/page.json", include_in_schema=False)
async def default(request: Request) -> Response:
    """The model and version that the page begins with: the one that `POST /predict` asks."""
    found = plane_of(request).repository.default()
    return json_response({"name": found.name, "version": str(found.version)})


@router.api_route("/page/{file}", methods=["GET", "HEAD"], include_in_schema=False)
async def part(request: Request, file: str) -> Response:
    """One of the page's files."""
    return _answer(request, file)


@router.get("/v2/models/{model}/card", tags=["metadata"])
@router.get("/v2/models/{model}/versions/{version}/card", tags=["metadata"])
async def card(request: Request, model: str, version: str | None = None) -> Response:
    """The model card in Markdown, with its pictures as data URIs."""
    found = plane_of(request).repository.get(model, version)
    return json_response(await anyio.to_thread.run_sync(about.card, found))


@router.get("/v2/models/{model}/graph", tags=["batch normalisation"])
@router.get("/v2/models/{model}/versions/{version}/graph", tags=["batch normalisation"])
async def graph(request: Request, model: str, version: str | None = None) -> Response:
    """The operators before and after the fold, where each layer went, and the proof that nothing else changed."""
    found = plane_of(request).repository.get(model, version)
    return json_response(await anyio.to_thread.run_sync(about.graph, found))


@router.get("/v2/models/{model}/examples", tags=["pictures"])
@router.get("/v2/models/{model}/versions/{version}/examples", tags=["pictures"])
async def examples(request: Request, model: str, version: str | None = None) -> Response:
    """The classes' labels, and some pictures from the bundle to try."""
    found = plane_of(request).repository.get(model, version)
    return json_response(await anyio.to_thread.run_sync(about.examples, found))


def _answer(request: Request, name: str) -> Response:
    if name not in _FILES:
        raise NotFoundError("Not Found")
    content, headers = _FILES[name]
    tags = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
    if headers["ETag"] in tags or "*" in tags:
        return Response(status_code=304, headers={k: v for k, v in headers.items() if k != "Content-Type"})
    return Response(
        b"" if request.method == "HEAD" else content, headers=headers | {"Content-Length": str(len(content))}
    )
