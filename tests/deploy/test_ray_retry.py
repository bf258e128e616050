"""What a client sees of a replica that dies, by the middleware alone; `test_ray` has the real thing."""

import asyncio
import contextlib
import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

pytest.importorskip("starlette")
from deploy.ray import retry

INFER = "/v2/models/m/infer"
ANSWER = (
    {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]},
    {"type": "http.response.body", "body": b'{"class"', "more_body": True},
    {"type": "http.response.body", "body": b": 3}"},
)
REFUSAL = (
    {
        "type": "http.response.start",
        "status": 503,
        "headers": [(b"content-type", b"text/plain"), (b"retry-after", b"5")],
    },
    {"type": "http.response.body", "body": b"too many"},
)


@dataclass
class Proxy:
    """As Serve's proxy: the request goes to a replica, and what comes from there before it dies goes to the client.

    Attributes:
        answers: of one attempt after another; the last one again and again.
        seen: body and headers of each attempt.
    """

    answers: list[tuple[Any, ...]]
    seen: list[tuple[bytes, list[Any]]] = field(default_factory=list)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = await read(receive)
        scope["headers"].append((b"x-request-id", b"of this attempt"))
        self.seen.append((body, scope["headers"]))
        for message in self.answers[min(len(self.seen), len(self.answers)) - 1]:
            await send(message)


async def read(receive: Any) -> bytes:
    """The body, as far as it comes."""
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    return body


def talk(
    proxy: retry.App,
    *pieces: bytes,
    path: str = INFER,
    method: str = "POST",
    headers: tuple[tuple[bytes, bytes], ...] = (),
    leaves: bool = False,
) -> tuple[int, dict[bytes, bytes], bytes] | None:
    """Status, headers and body of the answer; None if there was none."""
    requests: list[Any] = [
        {"type": "http.request", "body": piece, "more_body": i < len(pieces)} for i, piece in enumerate(pieces, 1)
    ]
    sent: list[Any] = []

    async def receive() -> Any:
        if requests and not (leaves and len(requests) == 1):
            return requests.pop(0)
        if leaves:
            return {"type": "http.disconnect"}
        return await asyncio.Event().wait()  # the client waits for its answer

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": method, "path": path, "headers": list(headers)}
    asyncio.run(asyncio.wait_for(retry.Retry(proxy)(scope, receive, send), 30))
    if not sent:
        return None
    assert [message["type"] for message in sent] == ["http.response.start"] + ["http.response.body"] * (len(sent) - 1)
    assert not sent[-1].get("more_body")
    return sent[0]["status"], dict(sent[0]["headers"]), b"".join(message["body"] for message in sent[1:])


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "PAUSES", (0.0, 0.0, 0.0))


@pytest.mark.parametrize("died", [(), ANSWER[:1], ANSWER[:2]], ids=["unanswered", "begun", "in the middle"])
def test_what_a_replica_left_unanswered_is_asked_again(died: tuple[Any, ...]) -> None:
    proxy = Proxy([died, ANSWER])

    answer = talk(proxy, b"one ", b"two")

    assert answer == (200, {b"content-type": b"application/json"}, b'{"class": 3}')
    assert proxy.seen == [(b"one two", [(b"x-request-id", b"of this attempt")])] * 2


def test_what_is_answered_is_asked_once() -> None:
    proxy = Proxy([ANSWER])
    answer = talk(proxy, b"one")
    assert answer is not None
    assert answer[0] == 200
    assert len(proxy.seen) == 1


def test_a_request_that_replicas_die_of_is_given_up() -> None:
    proxy = Proxy([()])
    answer = talk(proxy, b"poison")
    assert answer is not None
    status, headers, body = answer
    assert (status, headers[b"retry-after"], len(proxy.seen)) == (503, b"1", 3)
    assert "no replica answered this" in json.loads(body)["error"]


@pytest.mark.parametrize(
    ("method", "path", "attempts"),
    [
        ("GET", "/v2/models/m/drift", 3),
        ("POST", "/predict", 3),
        ("POST", "/v1/models/m/versions/1:predict", 3),
        ("POST", "/v2/models/m/drift/reset", 1),
        ("POST", "/v2/models/m/versions/2/promote", 1),
        ("DELETE", "/v2/models/m/versions/2", 1),
    ],
)
def test_what_changes_something_is_asked_once(method: str, path: str, attempts: int) -> None:
    proxy = Proxy([()])
    answer = talk(proxy, b"", path=path, method=method)
    assert answer is not None
    assert answer[0] == 503
    assert json.loads(answer[2])["error"]
    assert len(proxy.seen) == attempts


@pytest.mark.parametrize("announced", [True, False])
def test_a_body_that_is_too_long_to_keep_passes_once(monkeypatch: pytest.MonkeyPatch, announced: bool) -> None:
    monkeypatch.setattr(retry, "KEPT", 10)
    proxy = Proxy([()])
    headers = ((b"content-length", b"16"),) if announced else ()

    answer = talk(proxy, b"01234567", b"89ab", b"cdef", headers=headers)

    assert answer is not None
    assert answer[0] == 503
    assert [body for body, _ in proxy.seen] == [b"0123456789abcdef"]


def test_a_client_that_has_left_is_not_answered() -> None:
    proxy = Proxy([()])
    assert talk(proxy, b"one", b"two", leaves=True) is None
    assert len(proxy.seen) == 1


def test_a_replica_that_is_chosen_after_another_one_had_the_body_has_it_too() -> None:
    async def replica(scope: Any, receive: Any, send: Any) -> None:
        body = await read(receive)
        with contextlib.suppress(asyncio.TimeoutError):
            left = await asyncio.wait_for(receive(), 0.01)  # nobody leaves
            raise AssertionError(left)
        await send(ANSWER[0])
        await send({"type": "http.response.body", "body": body})

    async def proxy(scope: Any, receive: Any, send: Any) -> None:
        assert await read(receive) == b"onetwo"  # by a replica that then dies
        await retry.Whole(replica)(pickle.loads(pickle.dumps(scope)), receive, send)

    answer = talk(proxy, b"one", b"two", path="/v2/models/m/recalibrations")
    assert answer is not None
    assert answer[2] == b"onetwo"


def test_a_replica_takes_the_body_once_and_hears_that_the_client_has_left() -> None:
    said: list[Any] = [{"type": "http.request", "body": b"b"}, {"type": "http.disconnect"}]
    heard: list[Any] = []

    async def receive() -> Any:
        return said.pop(0)

    async def send(message: Any) -> None:
        """Nothing is answered."""

    async def replica(scope: Any, receive: Any, send: Any) -> None:
        heard.extend([await receive(), await receive()])

    scope = {"type": "http", "extensions": {retry.BODY: b"b"}}
    asyncio.run(retry.Whole(replica)(scope, receive, send))
    assert heard == [{"type": "http.request", "body": b"b", "more_body": False}, {"type": "http.disconnect"}]
    said.extend([{"type": "http.request", "body": b"c", "more_body": True}, {"type": "http.request", "body": b"d"}])
    asyncio.run(retry.Whole(replica)({"type": "http", "extensions": None}, receive, send))
    assert [message["body"] for message in heard[2:]] == [b"c", b"d"]


def test_what_serve_refuses_is_an_error_like_every_other() -> None:
    status, headers, body = talk(Proxy([REFUSAL]), b"one") or (0, {}, b"")
    assert (status, headers[b"retry-after"], headers[b"content-type"]) == (503, b"5", b"application/json")
    assert json.loads(body) == {"error": "too many"}
    assert int(headers[b"content-length"]) == len(body)


def test_serve_finds_it() -> None:
    wrapped: Callable[..., Any] = retry.middlewares()[0].cls
    assert wrapped is retry.Retry
