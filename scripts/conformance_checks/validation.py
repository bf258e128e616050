"""Requests that must be refused, each with a 4xx and `{"error": "…"}`, and never with an echo of what was sent."""

import copy
import gzip
import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from scripts.conformance_checks.report import Check, SkippedError, expect
from scripts.conformance_checks.target import JSON, LENGTH, Answer, Target, encode

LONGEST = 1000  # characters of an error: it names a field, it does not repeat a tensor


@dataclass(frozen=True)
class Bad:
    """A request that no server may accept.

    Attributes:
        body: of the request.
        headers: of the request.
        method: of HTTP.
        path: None for the model's `/infer`.
        statuses: that say so.
    """

    body: bytes | None = None
    headers: dict[str, str] = field(default_factory=lambda: dict(JSON))
    method: str = "POST"
    path: str | None = None
    statuses: tuple[int, ...] = (400,)


def refused(target: Target, bad: Bad) -> str:
    """Send it; what was seen, if it was refused well."""
    answer = target.exchange(bad.method, bad.path or target.path("/infer"), bad.body, bad.headers)
    expect(answer.status in bad.statuses, f"{answer} (expected {' or '.join(map(str, bad.statuses))})")
    return error_of(answer)


def error_of(answer: Answer) -> str:
    """The error of an answer, in the shape that clients read."""
    try:
        document = json.loads(answer.body)
    except ValueError:
        document = None
    error = document.get("error") if isinstance(document, dict) else None
    expect(isinstance(error, str) and error, f'no {{"error": …}}: {answer}')
    expect(len(str(error)) <= LONGEST, f"an error of {len(str(error))} characters, an echo: {answer}")
    return f"{answer.status} {error}"


Edit = Callable[[dict[str, Any], dict[str, Any]], Any]


def edited(edit: Edit) -> Callable[[Target], Bad]:
    """JSON with one thing wrong; the edit gets the document and its first input, and may return another document."""

    def make(target: Target) -> Bad:
        document = target.document(target.arrays(2))
        changed = edit(document, document["inputs"][0])
        return Bad(encode(document if changed is None else changed))

    return make


def binary_edited(edit: Edit, cut: slice = slice(None), extra: bytes = b"") -> Callable[[Target], Bad]:
    """Binary tensors with one thing wrong in the JSON, or in the bytes behind it."""

    def make(target: Target) -> Bad:
        head, tensors = target.binary(target.arrays(2))
        document = json.loads(head)
        edit(document, document["inputs"][0])
        head = encode(document)
        return Bad(head + tensors[cut] + extra, {LENGTH: str(len(head))})

    return make


def keep(document: dict[str, Any], tensor: dict[str, Any]) -> None:
    """Change nothing."""


def length(text: str) -> Callable[[Target], Bad]:
    """Binary tensors with another length header."""
    return lambda target: Bad(b"".join(target.binary(target.arrays(2))), {LENGTH: text})


def text(body: bytes, **headers: str) -> Callable[[Target], Bad]:
    """Any body."""
    return lambda target: Bad(body, JSON | {name.replace("_", "-"): value for name, value in headers.items()})


def route(method: str, path: str, *statuses: int, body: bytes | None = None) -> Callable[[Target], Bad]:
    """A path of its own; `{model}` stands for the model's."""
    return lambda target: Bad(body, {}, method, path.replace("{model}", target.path()), statuses)


def literal(value: bytes) -> Callable[[Target], Bad]:
    """The first element of the first input as this text."""

    def make(target: Target) -> Bad:
        document = target.document(target.arrays(2))
        document["inputs"][0]["data"][0] = "HERE"
        return Bad(encode(document).replace(b'"HERE"', value))

    return make


def too_many_rows(target: Target) -> Bad:
    """One row more than the configuration allows."""
    config = target.exchange("GET", target.path("/config"))
    most = config.json().get("max_batch_size", 0) if config.status == 200 else 0
    rows = most + 1
    size = sum(array.nbytes for array in target.arrays(1).values()) * rows
    if not most or size > 32 * 2**20:
        raise SkippedError("the server names no batch size that could be exceeded")
    head, tensors = target.binary(target.arrays(rows))
    return Bad(head + tensors, {LENGTH: str(len(head))}, statuses=(400, 413))


def bomb(target: Target) -> Bad:
    """256 MiB of spaces in a quarter of a megabyte."""
    return Bad(gzip.compress(b" " * 2**28, 9), JSON | {"Content-Encoding": "gzip"}, statuses=(400, 413))


def announced(target: Target) -> Bad:
    """A Content-Length of a terabyte, and no body: the answer must not wait for it."""
    return Bad(None, JSON | {"Content-Length": str(2**40)}, statuses=(400, 413))


def first_size(step: int) -> Edit:
    """Another `binary_data_size`."""

    def edit(document: dict[str, Any], tensor: dict[str, Any]) -> None:
        tensor["parameters"]["binary_data_size"] += step

    return edit


def first_shape(change: Callable[[list[int]], Any]) -> Edit:
    """Another shape."""
    return lambda document, tensor: tensor.update(shape=change(list(tensor["shape"])))


def update(**values: Any) -> Edit:
    """Other values in the first input; its data and everything else stay."""
    return lambda document, tensor: tensor.update(values)


def elsewhere(**values: Any) -> Edit:
    """Other values at the top of the request."""
    return lambda document, tensor: document.update(values)


def without(key: str) -> Edit:
    """A first input that lacks something."""

    def edit(document: dict[str, Any], tensor: dict[str, Any]) -> None:
        del tensor[key]

    return edit


def ragged(document: dict[str, Any], tensor: dict[str, Any]) -> None:
    """Nested data of rows that are not equally long."""
    tensor["data"] = [tensor["data"][:1], tensor["data"][1:]]


def one_less(document: dict[str, Any], tensor: dict[str, Any]) -> None:
    """Data that is one element short."""
    tensor["data"].pop()


def out_of_range(target: Target) -> Bad:
    """An integer that the datatype does not have."""
    if not target.inputs[0]["datatype"].removeprefix("U").startswith("INT"):
        raise SkippedError("the first input is not of integers")
    return literal(b"1" + b"0" * 18)(target) if "64" not in target.inputs[0]["datatype"] else literal(b"1e30")(target)


CASES: tuple[tuple[str, Callable[[Target], Bad]], ...] = (
    ("unknown route", route("GET", "/v2/nothing/here", 404)),
    ("unknown model", route("POST", "/v2/models/no-such-model/infer", 404, body=b"{}")),
    ("unknown model's metadata", route("GET", "/v2/models/no-such-model", 404)),
    ("unknown version", route("POST", "{model}/versions/999999/infer", 404, body=b"{}")),
    ("version that is no number", route("GET", "{model}/versions/newest", 404)),
    ("wrong method on infer", route("GET", "{model}/infer", 405)),
    ("wrong method on metadata", route("DELETE", "/v2", 405)),
    ("model name that is a path", route("GET", "/v2/models/..%2f..%2fetc%2fpasswd", 400, 404)),
    ("index with `ready` that is no boolean", route("POST", "/v2/repository/index", 400, body=b'{"ready":"yes"}')),
    ("empty body", text(b"")),
    ("no JSON", text(b"\x00\x01\x02")),
    ("JSON that is cut off", lambda t: Bad(encode(t.document(t.arrays(1)))[:-10])),
    ("JSON that is a list", edited(lambda document, tensor: [document])),
    ("JSON that is null", text(b"null")),
    ("invalid UTF-8", text(b'{"inputs":[{"name":"\xff\xfe"}]}')),
    ("JSON nested 100,000 deep", text(b"[" * 100_000 + b"]" * 100_000)),
    ("data nested 500 deep", literal(b"[" * 500 + b"1" + b"]" * 500)),
    ("no inputs", text(b'{"id":"1"}')),
    ("inputs that are no list", text(b'{"inputs":{"a":1}}')),
    ("inputs that are empty", text(b'{"inputs":[]}')),
    ("unknown input", edited(update(name="no-such-input"))),
    ("input without a name", edited(without("name"))),
    ("input that is given twice", edited(lambda document, tensor: document["inputs"].append(copy.deepcopy(tensor)))),
    ("unknown output", edited(elsewhere(outputs=[{"name": "no-such-output"}]))),
    ("outputs that are no list", edited(elsewhere(outputs="probabilities"))),
    ("unknown datatype", edited(update(datatype="FP31"))),
    ("another datatype than the model's", edited(update(datatype="BOOL"))),
    ("input without a datatype", edited(without("datatype"))),
    ("input without a shape", edited(without("shape"))),
    ("shape that is empty", edited(update(shape=[]))),
    ("shape with a negative size", edited(first_shape(lambda s: [-1, *s[1:]]))),
    ("shape with a fraction", edited(first_shape(lambda s: [2.5, *s[1:]]))),
    ("shape with text", edited(first_shape(lambda s: [str(n) for n in s]))),
    ("shape of another rank", edited(first_shape(lambda s: [*s, 1]))),
    ("shape of another size", edited(first_shape(lambda s: [*s[:-1], s[-1] + 1]))),
    ("shape that overflows 64 bits", edited(first_shape(lambda s: [2**62, *s[1:-1], 2**62]))),
    ("batch of 2**31 rows without their data", edited(first_shape(lambda s: [2**31, *s[1:]]))),
    ("batch without rows", edited(lambda document, tensor: tensor.update(shape=[0, *tensor["shape"][1:]], data=[]))),
    ("batch larger than allowed", too_many_rows),
    ("too many elements", edited(lambda document, tensor: tensor["data"].append(0))),
    ("too few elements", edited(one_less)),
    ("no data", edited(without("data"))),
    ("data that is null", edited(update(data=None))),
    ("data that is text", edited(update(data="0123"))),
    ("data that is an object", edited(update(data={"0": 1}))),
    ("data with text in it", literal(b'"one"')),
    ("data with null in it", literal(b"null")),
    ("data with an object in it", literal(b"{}")),
    ("data out of the datatype's range", out_of_range),
    ("data with NaN in it", literal(b"NaN")),
    ("data with Infinity in it", literal(b"-Infinity")),
    ("data with 1e400 in it", literal(b"1e400")),
    ("data with rows of unequal length", edited(ragged)),
    ("length header that is no number", length("abc")),
    ("length header that is negative", length("-1")),
    ("length header that is empty", length("")),
    ("length header beyond the body", length("99999999")),
    ("length header of 30 digits", length("9" * 30)),
    ("length header that cuts the JSON", length("20")),
    ("binary size too small", binary_edited(first_size(-1))),
    ("binary size too large", binary_edited(first_size(1))),
    ("binary size that fits the bytes, but not the shape", binary_edited(first_size(1), extra=b"\0")),
    ("binary size that is negative", binary_edited(update(parameters={"binary_data_size": -1}))),
    ("binary size that is text", binary_edited(update(parameters={"binary_data_size": "8"}))),
    ("binary tensor that is cut off", binary_edited(keep, cut=slice(0, -1))),
    ("binary tensor that is missing", binary_edited(keep, cut=slice(0, 0))),
    ("bytes after the last tensor", binary_edited(keep, extra=b"\0\0\0\0")),
    ("raw request of a wrong size", lambda t: Bad(b"\0" * 3, {LENGTH: "0"})),
    ("unknown content encoding", lambda t: Bad(b"{}", JSON | {"Content-Encoding": "br"}, statuses=(400, 415))),
    ("gzip that is none", text(b"not gzip", Content_Encoding="gzip")),
    ("gzip that is cut off", text(gzip.compress(b'{"inputs":[]}' * 9)[:-4], Content_Encoding="gzip")),
    ("deflate without its container", text(zlib.compress(b"{}", wbits=-15), Content_Encoding="deflate")),
    ("gzip bomb", bomb),
    ("body of a terabyte announced", announced),
)


def _check(name: str, make: Callable[[Target], Bad]) -> Check:
    return Check("refusal", name, lambda target: refused(target, make(target)))


CHECKS = tuple(_check(name, make) for name, make in CASES)
