"""Whatever comes in, what goes out is an answer or a 4xx in words."""

import json
import random
import zlib
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from tests.service import bundles
from tests.service.test_infer import HEADER, INFER, binary_body

CASES = 1000


def mutate(rng: random.Random, body: bytes, headers: dict[str, str]) -> tuple[bytes, dict[str, str]]:
    """One of the ways in which a binary request goes wrong."""
    length = int(headers[HEADER])
    document: Any = json.loads(body[:length])
    raw = body[length:]
    tensor = document["inputs"][0]
    junk: list[Any] = [None, -1, 0, 1, 2**31, 2**63, 2**64, 1.5, "x", [], {}, True, [[]], "NaN", 10**40]
    way = rng.randrange(8)
    if way == 0:
        return body, {
            HEADER: str(rng.choice([-1, 0, 1, length - 1, length + 1, len(body), len(body) + 1, 2**70, "", "a"]))
        }
    if way == 1:
        return body[: rng.randrange(len(body))], headers
    if way == 2:
        return body + rng.randbytes(rng.randrange(1, 99)), headers
    if way == 3:
        at = rng.randrange(length)
        return body[:at] + rng.randbytes(1) + body[at + 1 :], headers
    if way == 4:
        return rng.randbytes(rng.randrange(200)), {HEADER: str(rng.randrange(200))}
    if way == 5:
        tensor["shape"] = rng.choice(
            [*junk, [28, 28], [1, 28, 28, 1, 1], [2, 28, 28, 1], [1, 28, 28, rng.choice(junk)]]
        )
    elif way == 6:
        tensor["parameters"] = rng.choice([*junk, {"binary_data_size": rng.choice(junk)}])
    else:
        key = rng.choice(["name", "datatype", "data", "outputs", "parameters", "id", "inputs"])
        (document if key in ("outputs", "parameters", "id", "inputs") else tensor)[key] = rng.choice(junk)
    head = json.dumps(document).encode()
    return head + raw, {HEADER: str(len(head))}


def test_mutated_binary_requests(client: TestClient) -> None:
    rng = random.Random(20261122)
    body, headers = binary_body(bundles.pictures(1))
    wanted = bundles.truth(bundles.network(2), bundles.pictures(1))
    refused = 0
    for _ in range(CASES):
        mutated, changed = mutate(rng, body, headers)
        answer = client.post(INFER, content=mutated, headers={k.encode(): v.encode() for k, v in changed.items()})
        assert answer.status_code in (200, 400), (answer.status_code, mutated[:300], changed)
        if answer.status_code == 400:
            refused += 1
            assert list(answer.json()) == ["error"]
            assert answer.json()["error"]
            assert len(answer.text) < 600
    assert refused > CASES // 2
    answer = client.post(INFER, content=body, headers=headers)  # and it is as well as before
    np.testing.assert_allclose(np.array(answer.json()["outputs"][0]["data"]), wanted[0], atol=1e-6)


@pytest.mark.parametrize("path", [INFER, "/predict", "/v1/models/tiny:predict", "/v2/repository/index"])
def test_garbage_bodies(client: TestClient, path: str) -> None:
    rng = random.Random(path)
    seeds = [b"", b"{", b"null", b'"', b"\xff" * 50, b"\x1f\x8b\x08\0", b"[" * 900, b'{"inputs":' * 300, b"\0" * 784]
    for seed in seeds + [rng.randbytes(rng.randrange(1, 400)) for _ in range(60)]:
        for headers in (
            {},
            {"Content-Encoding": "gzip"},
            {"Content-Encoding": "br"},
            {"Content-Type": "application/json"},
        ):
            answer = client.post(path, content=seed, headers=headers)
            assert answer.status_code < 500, (path, seed[:80], headers)
            if answer.status_code != 200:
                assert list(answer.json()) == ["error"]


def test_odd_heads(client: TestClient) -> None:
    for path in ("/docs", "/v2", "/predict", "/v2/models/%00", "/v2/models/" + "x" * 5000, "//", "/v2//models", "/%ff"):
        for headers in ({"Host": "[::bad"}, {"Host": "a" * 900}, {"Content-Type": ";;="}, {"Accept-Encoding": ",;q="}):
            answer = client.get(path, headers=headers)
            assert answer.status_code < 500, (path, headers)
            assert len(answer.content) < 400 or answer.status_code == 200


def test_decompression_is_bounded(client: TestClient) -> None:
    bomb = zlib.compress(b"\0" * (80 * 2**20), 9)
    assert len(bomb) < 100_000
    answer = client.post(INFER, content=bomb, headers={"Content-Encoding": "deflate"})
    assert answer.status_code == 413
