"""The page at `/docs`: every route, from the OpenAPI document, without a script and without anything from elsewhere."""

from html import escape
from typing import Any

from fastapi import APIRouter, Request, Response

router = APIRouter()

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h2 { margin: 2rem 0 .5rem; text-transform: capitalize; } code, pre { font: 14px/1.5 ui-monospace, monospace; }
pre { background: #8881; padding: .75rem; overflow-x: auto; } dt { margin-top: .75rem; } dd { margin-left: 1.5rem; }
b { display: inline-block; min-width: 3.5rem; } :root { color-scheme: light dark; }
"""
_EXAMPLES = """curl --data-binary @picture.png {url}/predict
curl -F image=@picture.png {url}/predict
curl {url}/v2/models/{model}
curl {url}/v2/models/{model}/batchnorm
curl -d '{{"inputs":[{{"name":"…","shape":[…],"datatype":"…","data":[…]}}]}}' {url}/v2/models/{model}/infer"""


@router.get("/docs", include_in_schema=False)
async def docs(request: Request) -> Response:
    """All routes on one page."""
    document: dict[str, Any] = request.app.openapi()
    names = request.app.state.plane.repository.names()
    host, port = request.scope.get("server") or ("localhost", 8000)  # not the Host header, which is the client's word
    example = _EXAMPLES.format(url=f"http://{host}:{port}", model=next(iter(names), "MODEL"))
    by_tag: dict[str, list[str]] = {}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            by_tag.setdefault(operation.get("tags", ["other"])[0], []).append(_entry(path, method, operation))
    body = "".join(f"<h2>{escape(tag)}</h2><dl>{''.join(entries)}</dl>" for tag, entries in by_tag.items())
    page = (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(document['info']['title'])}</title>"
        f"<style>{_STYLE}</style><h1>{escape(document['info']['title'])} {escape(document['info']['version'])}</h1>"
        f"<p>{escape(document['info']['description'])} For machines: <a href=openapi.json>openapi.json</a>.</p>"
        f"<pre>{escape(example)}</pre>{body}</html>"
    )
    return Response(page, media_type="text/html", headers=_HEADERS)


def _entry(path: str, method: str, operation: dict[str, Any]) -> str:
    kinds = ", ".join(operation.get("requestBody", {}).get("content", {}))
    takes = f" Takes {escape(kinds)}." if kinds else ""
    text = escape(operation.get("description", ""))
    return f"<dt><b>{method.upper()}</b> <code>{escape(path)}</code></dt><dd>{text}{takes}</dd>"
