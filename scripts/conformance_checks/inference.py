"""Inference in every form that the protocol allows: whichever way it is asked, the answer is the same."""

import gzip
import json
import zlib
from typing import Any

import numpy as np

from scripts.conformance_checks.report import SkippedError, checks, expect
from scripts.conformance_checks.target import JSON, LENGTH, Answer, Array, Target, encode

OCTETS = {"Content-Type": "application/octet-stream"}
ATOL = 1e-5  # one float32 is added up in another order where another batch size picks another kernel


def same(target: Target, answer: Answer, rows: slice = slice(None)) -> str:
    """What was seen, if the answer is the one to `target.arrays(3)` or to some of its rows."""
    expect(answer.status == 200, str(answer))
    compare(answer.outputs(), target.baseline, rows)
    return f"200, {len(answer.body)} bytes"


def compare(found: dict[str, Array], wanted: dict[str, Array], rows: slice = slice(None)) -> None:
    """Fail the running check unless the outputs are those of the baseline."""
    expect(list(found) == list(wanted), f"outputs {list(found)} instead of {list(wanted)}")
    for name, array in wanted.items():
        part = array[rows]
        expect(found[name].shape == part.shape, f"'{name}' has shape {found[name].shape} instead of {part.shape}")
        expect(np.allclose(found[name], part, rtol=0, atol=ATOL), f"'{name}' is not what plain JSON gives")


def with_length(target: Target, rows: int = 3, name: str = LENGTH, **request: Any) -> tuple[bytes, dict[str, str]]:
    """A body of binary tensors, and the length header that belongs to it."""
    head, tensors = target.binary(target.arrays(rows), **request)
    return head + tensors, {name: str(len(head))}


def plain_json(target: Target) -> str:
    """JSON, flat data."""
    answer = target.infer(encode(target.document(target.arrays(3))), JSON)
    expect(answer.headers.get("content-type", "").startswith("application/json"), f"not declared as JSON: {answer}")
    document = answer.json()
    expect(document.get("model_name") == target.model, str(answer))
    nulls = [key for where in (document, *document["outputs"]) for key, value in where.items() if value is None]
    expect(not nulls, f"null instead of left out: {nulls}")
    nested = [o["name"] for o in document["outputs"] if o["data"] and isinstance(o["data"][0], list)]
    expect(not nested, f"nested data, where Triton, MLServer and KServe answer flat: {nested}")
    return same(target, answer)


def nested_json(target: Target) -> str:
    """JSON, nested data."""
    arrays = target.arrays(3)
    document = target.document(arrays)
    for item in document["inputs"]:
        item["data"] = arrays[item["name"]].tolist()
    return same(target, target.infer(encode(document), JSON))


def undeclared_json(target: Target) -> str:
    """JSON without Content-Type, as tritonclient sends it."""
    return same(target, target.infer(encode(target.document(target.arrays(3)))))


def octets_json(target: Target) -> str:
    """JSON as application/octet-stream, as tritonclient.aio sends it."""
    return same(target, target.infer(encode(target.document(target.arrays(3))), OCTETS))


def identity(target: Target) -> str:
    """The id is echoed exactly."""
    ids = ("r-1", 'ü " \\ \n', "x" * 300)
    for request_id in ids:
        document = target.infer(encode(target.document(target.arrays(1), id=request_id)), JSON).json()
        expect(document.get("id") == request_id, f"{document.get('id')!r} instead of {request_id!r}")
    return f"{len(ids)} ids"


def unknown_keys(target: Target) -> str:
    """Unknown keys are ignored, as kserve and perf_analyzer send them."""
    document = target.document(target.arrays(3), model_name=target.model, id="", mine={"a": [1]})
    return same(target, target.infer(encode(document), JSON))


def one_output(target: Target) -> str:
    """Outputs that are named come, in that order."""
    names = list(reversed(target.baseline))
    answer = target.infer(encode(target.document(target.arrays(3), outputs=[{"name": n} for n in names])), JSON)
    expect(list(answer.outputs()) == names, str(answer))
    return ", ".join(names)


def rows_alone(target: Target) -> str:
    """Rows of a batch answer as they do alone."""
    if not target.batched:
        raise SkippedError("the model has no batch dimension")
    arrays = target.arrays(3)
    for i in range(3):
        alone = {name: array[i : i + 1] for name, array in arrays.items()}
        same(target, target.infer(encode(target.document(alone)), JSON), slice(i, i + 1))
    return "3 rows"


def chunked(target: Target) -> str:
    """A chunked body without Content-Length."""
    body, headers = with_length(target)
    return same(target, target.exchange("POST", target.path("/infer"), body, headers, announce=False))


def versioned(target: Target) -> str:
    """The version in the path, and in the answer."""
    if not target.version:
        raise SkippedError("the server lists no versions")
    answer = target.infer(encode(target.document(target.arrays(3))), JSON, target.version)
    expect(answer.status == 200 and answer.json().get("model_version") == target.version, str(answer))
    return same(target, answer)


def binary(target: Target) -> str:
    """Binary tensors both ways."""
    body, headers = with_length(target, parameters={"binary_data_output": True})
    answer = target.infer(body, headers)
    expect(answer.status == 200 and LENGTH.lower() in answer.headers, f"no binary answer: {answer}")
    kind = answer.headers.get("content-type")
    expect(kind == "application/octet-stream", f"Content-Type {kind}")
    return same(target, answer)


def binary_in(target: Target) -> str:
    """Binary tensors in, JSON out."""
    answer = target.infer(*with_length(target))
    expect(LENGTH.lower() not in answer.headers, "a binary answer that nobody asked for")
    return same(target, answer)


def binary_out(target: Target) -> str:
    """JSON in, binary tensors out."""
    outputs = [{"name": name, "parameters": {"binary_data": True}} for name in target.baseline]
    answer = target.infer(encode(target.document(target.arrays(3), outputs=outputs)), JSON)
    expect(answer.status == 200 and LENGTH.lower() in answer.headers, f"no binary answer: {answer}")
    return same(target, answer)


def output_overrides(target: Target) -> str:
    """An output's `binary_data` overrides the request's `binary_data_output`."""
    outputs = [{"name": name, "parameters": {"binary_data": False}} for name in target.baseline]
    body, headers = with_length(target, parameters={"binary_data_output": True}, outputs=outputs)
    answer = target.infer(body, headers)
    expect(answer.status == 200 and LENGTH.lower() not in answer.headers, f"a binary answer: {answer}")
    return same(target, answer)


def lower_case(target: Target) -> str:
    """A lower-case length header, as the KServe client sends it."""
    body, headers = with_length(target, name=LENGTH.lower())
    return same(target, target.infer(body, headers | JSON))


def whole_length(target: Target) -> str:
    """A length header that covers the whole body: JSON only."""
    body = encode(target.document(target.arrays(3)))
    return same(target, target.infer(body, {LENGTH: str(len(body))}))


def raw(target: Target) -> str:
    """A raw request: length 0, the body is the only input."""
    if len(target.inputs) != 1 or not target.batched:
        raise SkippedError("the model has several inputs, or no batch dimension")
    (array,) = target.arrays(3).values()
    answer = target.infer(array[:1].tobytes(), OCTETS | {LENGTH: "0"})
    expect(answer.status == 200 and LENGTH.lower() in answer.headers, f"no binary answer: {answer}")
    return same(target, answer, slice(0, 1))


def gzip_in(target: Target) -> str:
    """A gzip body; the length header counts what is inside."""
    body, headers = with_length(target)
    return same(target, target.infer(gzip.compress(body), headers | {"Content-Encoding": "gzip"}))


def deflate_in(target: Target) -> str:
    """A deflate body, in zlib's container."""
    body, headers = with_length(target)
    return same(target, target.infer(zlib.compress(body), headers | {"Content-Encoding": "deflate"}))


def compressed_out(target: Target) -> str:
    """Answers come as gzip or deflate if asked for, or as they are, but never otherwise."""
    times = 40 if target.batched else 1  # a short answer may well stay as it is
    arrays = {name: np.concatenate([array] * times) for name, array in target.arrays(3).items()}
    wanted = {name: np.concatenate([array] * times) for name, array in target.baseline.items()}
    seen = []
    for encoding in ("gzip", "deflate", "br"):
        for parameters in ({}, {"binary_data_output": True}):
            head, tensors = target.binary(arrays, parameters)
            answer = target.infer(head + tensors, {LENGTH: str(len(head)), "Accept-Encoding": encoding})
            expect(answer.status == 200, str(answer))
            used = answer.headers.get("content-encoding", "identity")
            expect(used in (encoding, "identity") and used != "br", f"{used} for {encoding}")
            compare(answer.outputs(), wanted)
            seen.append(used)
    return ", ".join(dict.fromkeys(seen))


def plain_errors(target: Target) -> str:
    """Metadata and errors are never compressed (tritonclient.aio could not read them)."""
    asked = {"Accept-Encoding": "gzip, deflate, br"}
    for answer in (target.exchange("GET", target.path(), headers=asked), target.infer(b"{}", asked | JSON)):
        expect("content-encoding" not in answer.headers, f"{answer.headers.get('content-encoding')}: {answer.status}")
        json.loads(answer.body)
    return "identity"


CHECKS = checks(
    "inference",
    plain_json,
    nested_json,
    undeclared_json,
    octets_json,
    identity,
    unknown_keys,
    one_output,
    rows_alone,
    chunked,
    versioned,
    binary,
    binary_in,
    binary_out,
    output_overrides,
    lower_case,
    whole_length,
    raw,
    gzip_in,
    deflate_in,
    compressed_out,
    plain_errors,
)
