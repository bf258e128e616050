"""The reference of all routes in Markdown: `python -m service.http.reference > docs/http.md`."""

import sys
from collections.abc import Iterator
from typing import Any

from service.app import create_app
from service.http.openapi import ERRORS
from service.settings import Settings

MODEL, VERSION = "{model}", "/versions/{version}"
HEAD = """# HTTP reference

Every route of the server, by what it is for. A running one has the same at `/docs`, and for machines at
`/openapi.json`; this page is made of that by `python -m service.http.reference > docs/http.md`. What a model takes and
gives is in its metadata:

```sh
curl --silent localhost:8000/v2/models
curl --silent localhost:8000/v2/models/kmnist
```

<!-- test: output -->
```text
{"models":["kmnist"]}{"name":"kmnist","versions":["1"],…"inputs":[{"name":"image","datatype":"UINT8",…
```

- `{model}` is a model's name. Without a version the default one answers; `[/versions/{version}]` names another.
- An answer is JSON with status 200, if nothing else is said.
- With `FOLDSERVE_API_KEYS` every request needs a key, as `Authorization: Bearer <key>` or `X-API-Key: <key>`, but for
  `/`, `/metrics` and the health of the server. An *admin key* is one of `FOLDSERVE_ADMIN_KEYS`; what needs one is off
  without any.
- Bodies are bounded by `FOLDSERVE_MAX_BODY_BYTES`. Those of `/infer` may be compressed, with gzip or deflate.

Besides: the pages `/`, `/docs` and `/batchnorm/{model}` for people, and `/healthz` and `/readyz`, which are
`/v2/health/live` and `/v2/health/ready`.

## Errors

Every answer that is not 2xx or 304 is `{"error": "what is wrong"}`, and never repeats what was sent.

| status | when |
|---|---|
"""
# The order of the groups, and what each is for.
GROUPS = {
    "pictures": "For people and scripts: pictures in, names out.",
    "inference": "The Open Inference Protocol V2, with Triton's binary tensors.",
    "TensorFlow Serving": "For clients that were written for TensorFlow Serving, or for KServe's V1.",
    "metadata": "What is being served.",
    "health": "For probes.",
    "batch normalisation": "What became of every layer, and how the traffic compares with the training data.",
    "recalibration": "New statistics from new pictures, and which version is the default. For admins.",
    "repository": "What is in the model repository (Triton's extension).",
    "statistics": "Counts and durations (Triton's extension).",
    "operations": "For Prometheus.",
}


def http_page() -> str:
    """The page, in Markdown.

    Raises:
        KeyError: a route has a tag that is not among `GROUPS`.
    """
    document = create_app(Settings()).openapi()
    groups: dict[str, list[str]] = {name: [] for name in GROUPS}
    details: dict[str, dict[str, list[str]]] = {name: {} for name in GROUPS}  # the requests that they are true of
    for path, method, operation in _operations(document["paths"]):
        tag = operation["tags"][0]
        summary, _, rest = operation["description"].partition("\n\n")
        groups[tag].append(f"| `{method} {path}` | {_line(summary)} |")
        if text := _details(rest, operation):
            details[tag].setdefault(text, []).append(f"`{method} {path}`")
    page = HEAD + "".join(f"| {status} | {answer['description']} |\n" for status, answer in ERRORS.items())
    for name, purpose in GROUPS.items():
        table = "| request | what it does |\n|---|---|\n" + "\n".join(groups[name])
        page += f"\n## {name[0].upper()}{name[1:]}\n\n{purpose}\n\n{table}\n"
        page += "".join(f"\n### {', '.join(requests)}\n\n{text}\n" for text, requests in details[name].items())
    return page + "\n## Bodies\n" + "".join(_body(*entry) for entry in document["components"]["schemas"].items())


def _operations(paths: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Path, method and operation; once for a route that may name a version or not."""
    for path, operations in paths.items():
        for method, operation in operations.items():
            versioned = path.replace(MODEL, MODEL + VERSION)
            if VERSION not in path and versioned != path and method in paths.get(versioned, {}):
                yield path.replace(MODEL, f"{MODEL}[{VERSION}]"), method.upper(), operation
            elif method not in paths.get(path.replace(VERSION, ""), {}) or VERSION not in path:
                yield path, method.upper(), operation


def _details(rest: str, operation: dict[str, Any]) -> str:
    """What there is to say of a request beyond its line in the table; empty if there is nothing."""
    parts = [_line(rest)] if rest else []
    options = [option for option in operation.get("parameters", ()) if option["in"] != "path"]
    if options:
        rows = (f"| `{o['name']}` | {o['in']} | {_values(o['schema'])} | {_line(o['description'])} |" for o in options)
        parts.append("| parameter | in | value; default | what |\n|---|---|---|---|\n" + "\n".join(rows))
    if body := operation.get("requestBody"):
        kinds = "; ".join(_kind(kind, content) for kind, content in body["content"].items())
        parts.append(f"Body{'' if body['required'] else ' (may be left out)'}: {kinds}.")
    answers = [_answer(*entry) for entry in operation["responses"].items() if entry[0] not in ERRORS]
    if answers != ["200, JSON"]:
        parts.append(f"Answers: {'; '.join(answers)}.")
    return "\n\n".join(parts)


def _answer(status: str, answer: dict[str, Any]) -> str:
    if status.startswith("2"):
        kinds = ("JSON" if kind == "application/json" else f"`{kind}`" for kind in answer["content"])
        return f"{status}, {' or '.join(kinds)}"
    text = answer["description"]
    return f"{status}: {text[0].lower()}{text[1:]}"


def _kind(kind: str, content: dict[str, Any]) -> str:
    """A body's media type, with its schema where that has a name."""
    name = content.get("schema", {}).get("$ref", "").rpartition("/")[2]
    return f"`{kind}`" + (f", [`{name}`](#{name.lower()})" if name else "")


def _values(schema: dict[str, Any]) -> str:
    """What a parameter may be, and what it is if it is left out."""
    (kind,) = [entry for entry in schema.get("anyOf", [schema]) if entry.get("type") != "null"]
    values = ", ".join(f"`{value}`" for value in kind["enum"]) if "enum" in kind else kind["type"]
    default = schema.get("default")
    return (
        values if default is None else f"{values}; `{str(default).lower() if isinstance(default, bool) else default}`"
    )


def _body(name: str, schema: dict[str, Any]) -> str:
    rows = "\n".join(_fields(schema, ""))
    return f"\n### {name}\n\n| field | type | what |\n|---|---|---|\n{rows}\n"


def _fields(schema: dict[str, Any], prefix: str) -> list[str]:
    """A row for each field, those of nested objects after it."""
    rows = []
    for name, field in schema.get("properties", {}).items():
        kind = field.get("type", "string" if "const" in field else "any")
        what = _line(field.get("description", ""))
        if "const" in field:
            what = f"`{field['const']}`: {what}"
        required = ", required" if name in schema.get("required", ()) else ""
        rows.append(f"| `{prefix}{name}` | {kind}{required} | {what} |")
        rows += _fields(field.get("items", {}), f"{prefix}{name}[].")
    return rows


def _line(text: str) -> str:
    """Text for one cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(http_page())
