"""Schemathesis: requests made from an OpenAPI document, the server's own or another one.

Four things must hold: no 5xx, no status that the document does not name, bodies as it describes them, and
`{"error": "…"}` for every error.
"""

import importlib
import random
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from scripts.conformance_checks.report import Check, expect
from scripts.conformance_checks.target import TIMEOUT, Target
from scripts.conformance_checks.triton_client import installed

MODEL_NAMES, VERSION_NAMES = ("model", "model_name", "MODEL_NAME"), ("version", "model_version", "MODEL_VERSION")
CHANGES_THE_SERVER = ("/unload", "/load")


def is_path(source: str) -> bool:
    """Whether this is a path of the server, rather than a file."""
    return source.startswith("/") and not Path(source).is_file()


def document(target: Target, source: str) -> dict[str, Any]:
    """An OpenAPI document from a path of the server (`/openapi.json`) or from a file.

    The OIP's own file writes paths as `${MODEL_NAME}`; the dollar goes.
    """
    if is_path(source):
        answer = target.exchange("GET", source)
        expect(answer.status == 200, f"{source} answers {answer}")
        text = answer.body.decode()
    else:
        text = Path(source).read_text(encoding="utf-8")
    loaded: dict[str, Any] = installed("yaml").safe_load(text.replace("${", "{"))
    for item in loaded["paths"].values():
        for operation in item.values():
            if isinstance(operation, dict) and "responses" in operation:
                operation["responses"] = {str(status): response for status, response in operation["responses"].items()}
    return loaded


def operations(schemathesis: Any, loaded: dict[str, Any]) -> Iterator[Any]:
    """Every operation that can be tested."""
    for result in schemathesis.openapi.from_dict(loaded).get_all_operations():
        yield result.ok()


def steer(case: Any, target: Target, rng: random.Random) -> None:
    """Let most cases reach the model, and some of them with a good request: what is made at random tests little.

    Loading and unloading are left to names that do not exist, so that the server stays as it is.
    """
    if case.path.endswith(CHANGES_THE_SERVER):
        return
    for names, value in ((MODEL_NAMES, target.model), (VERSION_NAMES, target.version)):
        for name in names:
            if name in case.path_parameters and value and rng.random() < 0.8:
                case.path_parameters[name] = value
    if case.path.endswith("/infer") and case.media_type == "application/json" and rng.random() < 0.3:
        case.body = target.document(target.arrays(3))


def judge(operation: Any, status: int, body: bytes, is_json: bool, tolerated: Collection[str]) -> str | None:
    """What is wrong with a status, or with the shape of an error."""
    known = {known.upper() for known in operation.definition.raw["responses"]} | set(tolerated)
    if status >= 500 and status != 503:
        return f"{status}"
    if not {str(status), f"{status // 100}XX", "DEFAULT"} & known:
        return f"{status}, and only {', '.join(sorted(known))} are documented"
    if status >= 400 and not (is_json and b'"error"' in body):
        return f'{status} without {{"error": …}}'
    return None


def explore(target: Target, source: str, count: int) -> str:
    """Send about `count` cases, the same number to each operation."""
    schemathesis, hypothesis, requests = installed("schemathesis"), installed("hypothesis"), installed("requests")
    loaded = document(target, source)
    found = list(operations(schemathesis, loaded))
    expect(found, f"{source} has no operations")
    schema_check = importlib.import_module("schemathesis.specs.openapi.checks").response_schema_conformance
    # A document that is not the server's own cannot know all that the server refuses.
    tolerated = () if is_path(source) else ("400", "404", "405", "413", "415", "503")
    rng = random.Random(target.seed)
    session = requests.Session()
    seen: Counter[int] = Counter()
    wrong: dict[str, str] = {}

    def send(case: Any) -> None:
        steer(case, target, rng)
        response = case.call(base_url=target.url, session=session, headers=dict(target.headers), timeout=TIMEOUT)
        seen[response.status_code] += 1
        is_json = "json" in str(response.headers.get("content-type", [""]))
        fault = judge(case.operation, response.status_code, response.content, is_json, tolerated)
        if not fault and is_json:
            try:
                case.validate_response(response, checks=(schema_check,))
            except Exception as error:  # schemathesis has a class of its own for each kind
                fault = f"{response.status_code}, not as the document says: {str(error)[:300]}"
        if fault:
            wrong.setdefault(f"{case.method} {case.operation.path} answers {fault}", case.as_curl_command())

    share = max(1, -(-count // len(found)))
    settings = hypothesis.settings(
        max_examples=share,
        database=None,
        deadline=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    for operation in found:
        hypothesis.seed(target.seed)(settings(hypothesis.given(case=operation.as_strategy())(send)))()
    expect(not wrong, f"{len(wrong)} faults: " + "; ".join(f"{fault}: {curl}" for fault, curl in wrong.items()))
    statuses = ", ".join(f"{status}: {times}" for status, times in sorted(seen.items()))
    return f"{len(found)} operations, {sum(seen.values()):,} cases; {statuses}"


def check(source: str, count: int) -> Check:
    """The check that sends `count` cases made from this document."""
    name = source if is_path(source) else Path(source).name
    return Check("schemathesis", f"{count:,} cases from {name}", lambda target: explore(target, source, count))
