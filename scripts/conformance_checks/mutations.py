"""Binary requests that are broken at random, each so that no server may accept it: 4xx, never 5xx, and it lives on."""

import http.client
import json
import random
import urllib.parse
from collections import Counter
from collections.abc import Callable
from typing import Any

from scripts.conformance_checks.inference import same
from scripts.conformance_checks.report import Check, expect
from scripts.conformance_checks.target import LENGTH, TIMEOUT, Target, encode

# A mutation: random numbers, JSON, tensors' bytes -> body, value of the length header. Every one leaves a request that
# is wrong: a flipped pixel would be a good request.
Broken = tuple[bytes, str]
Mutation = Callable[[random.Random, dict[str, Any], bytes], Broken]


def whole(document: dict[str, Any], tensors: bytes) -> Broken:
    """A body with the length header that belongs to it."""
    head = encode(document)
    return head + tensors, str(len(head))


def header_number(rng: random.Random, document: dict[str, Any], tensors: bytes) -> Broken:
    """A length header that is another number."""
    body, right = whole(document, tensors)
    wrong = rng.choice([*range(1, int(right)), *range(int(right) + 1, len(body) * 2), 2**31, 2**63, 2**64, 10**40])
    return body, str(wrong)


def header_text(rng: random.Random, document: dict[str, Any], tensors: bytes) -> Broken:
    """A length header that is no number."""
    body, right = whole(document, tensors)
    wrong = ("", "abc", "-1", f"-{right}", f"{right}.0", f"{right},{right}", f"0x{int(right):x}", "1e2", "NaN", "\xb2")
    return body, rng.choice(wrong)


def size(rng: random.Random, document: dict[str, Any], tensors: bytes) -> Broken:
    """A `binary_data_size` that is wrong."""
    parameters = document["inputs"][0]["parameters"]
    right = parameters["binary_data_size"]
    near = [n for n in range(max(0, right - 50), right + 50) if n != right]
    parameters["binary_data_size"] = rng.choice([*near, -1, 2**31, 2**63, 2**64, 0.5, "8", True, None, [right], {}])
    return whole(document, tensors)


def shape(rng: random.Random, document: dict[str, Any], tensors: bytes) -> Broken:
    """A shape that does not fit the model, or not the bytes."""
    tensor = document["inputs"][0]
    right = list(tensor["shape"])
    at = rng.randrange(len(right))
    wrong = rng.choice([0, -1, 3, 1000, 2**31, 2**62, 2**63, 2**70, 0.5, "1", None, [1], True])
    tensor["shape"] = rng.choice(
        [[*right[:at], wrong, *right[at + 1 :]], [*right, 1], right[:-1], [], right * 5, "2", None, {}]
    )
    return whole(document, tensors)


def names(rng: random.Random, document: dict[str, Any], tensors: bytes) -> Broken:
    """Another name or datatype."""
    key = rng.choice(["name", "datatype"])
    document["inputs"][0][key] = rng.choice(["", "x" * 5000, "IMAGE\0", 7, None, [], {}, "BYTES\u2028"])
    return whole(document, tensors)


def twice(rng: random.Random, document: dict[str, Any], tensors: bytes) -> Broken:
    """An input more, or none at all."""
    document["inputs"] = document["inputs"] * rng.choice([0, 2, 3, 50])
    return whole(document, tensors)


def cut(rng: random.Random, document: dict[str, Any], tensors: bytes) -> Broken:
    """A body that ends too early."""
    body, right = whole(document, tensors)
    return body[: rng.randrange(len(body))], right


def trailing(rng: random.Random, document: dict[str, Any], tensors: bytes) -> Broken:
    """Bytes after the last tensor."""
    return whole(document, tensors + rng.randbytes(rng.randint(1, 5000)))


def control(rng: random.Random, document: dict[str, Any], tensors: bytes) -> Broken:
    """A control character somewhere in the JSON, where none may stand."""
    head = bytearray(encode(document))
    head[rng.randrange(len(head))] = rng.randrange(9)
    return bytes(head) + tensors, str(len(head))


def garbage(rng: random.Random, document: dict[str, Any], tensors: bytes) -> Broken:
    """Bytes that mean nothing."""
    body = bytes([rng.randrange(128, 256)]) + rng.randbytes(rng.randrange(4000))
    return body, str(rng.randint(1, len(body)))


MUTATIONS: tuple[Mutation, ...] = (
    header_number, header_text, size, shape, names, twice, cut, trailing, control, garbage,
)  # fmt: skip


def mutated(target: Target, count: int) -> str:
    """Send that many; what was seen, if every one was refused and the server answers as before."""
    rng = random.Random(target.seed)
    good = target.binary(target.arrays(2, seed=1))
    parts = urllib.parse.urlsplit(target.url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "127.0.0.1", parts.port, timeout=TIMEOUT)
    seen: Counter[int] = Counter()
    wrong: list[str] = []
    for number in range(count):
        mutation = MUTATIONS[number % len(MUTATIONS)]
        body, header = mutation(rng, json.loads(good[0]), good[1])
        try:
            connection.request("POST", target.path("/infer"), body, target.headers | {LENGTH: header})
            response = connection.getresponse()
            status, answer = response.status, response.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            status, answer = 0, repr(error).encode()
        seen[status] += 1
        if not 400 <= status < 500:
            text = answer[:120].decode("utf-8", "backslashreplace")
            wrong.append(f"request {number} ({mutation.__name__}, length header {header[:24]!r}): {status} {text}")
    connection.close()
    expect(not wrong, f"{len(wrong)} of {count} not refused with 4xx; {'; '.join(wrong[:3])}")
    same(target, target.infer(encode(target.document(target.arrays(3)))))
    return ", ".join(f"{status}: {times}" for status, times in sorted(seen.items())) + "; answers as before"


def check(count: int) -> Check:
    """The check that sends `count` of them."""
    return Check("fuzzing", f"{count:,} mutated binary requests", lambda target: mutated(target, count))
