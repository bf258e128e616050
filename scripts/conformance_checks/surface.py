"""Health, metadata, configuration, statistics, repository: the routes beside inference."""

from typing import Any

from scripts.conformance_checks.report import checks, expect
from scripts.conformance_checks.target import JSON, Answer, Target


def good(answer: Answer) -> Any:
    """The JSON of an answer that must be 200."""
    expect(answer.status == 200, str(answer))
    expect(answer.headers.get("content-type", "").startswith("application/json"), f"not declared as JSON: {answer}")
    return answer.json()


def live(target: Target) -> str:
    """Live."""
    document = good(answer := target.exchange("GET", "/v2/health/live"))
    expect(document.get("live") is True, str(answer))
    return str(answer)


def ready(target: Target) -> str:
    """Ready."""
    document = good(answer := target.exchange("GET", "/v2/health/ready"))
    expect(document.get("ready") is True, str(answer))
    return str(answer)


def server_metadata(target: Target) -> str:
    """Server metadata."""
    document = good(answer := target.exchange("GET", "/v2"))
    expect(isinstance(document.get("name"), str) and isinstance(document.get("version"), str), str(answer))
    extensions = document.get("extensions")
    expect(isinstance(extensions, list) and all(isinstance(e, str) for e in extensions), str(answer))
    return f"{document['name']} {document['version']}: {', '.join(extensions)}"


def trailing_slash(target: Target) -> str:
    """`/v2/` without a redirect."""
    answer = target.exchange("GET", "/v2/")
    good(answer)
    return "200, no redirect"


def model_metadata(target: Target) -> str:
    """Model metadata."""
    document = good(answer := target.exchange("GET", target.path()))
    expect(document.get("name") == target.model and isinstance(document.get("platform"), str), str(answer))
    for tensor in [*document.get("inputs", []), *document.get("outputs", [])]:
        fits = isinstance(tensor.get("name"), str) and isinstance(tensor.get("datatype"), str)
        expect(fits and all(type(size) is int and size >= -1 for size in tensor["shape"]), f"not a tensor: {tensor}")
    expect(document.get("inputs") and document.get("outputs"), f"no inputs or no outputs: {answer}")
    nulls = [key for key, value in document.items() if value is None]
    expect(not nulls, f"null instead of left out: {nulls}")
    return f"{document['platform']}, versions {document.get('versions')}"


def model_ready(target: Target) -> str:
    """Model ready."""
    document = good(answer := target.exchange("GET", target.path("/ready")))
    expect(document.get("ready") is True and document.get("name") == target.model, str(answer))
    return str(answer)


def in_versions(target: Target) -> str:
    """A version in the path."""
    expect(target.version.isdigit(), f"versions: {target.metadata.get('versions')}")
    good(target.exchange("GET", target.path("", target.version)))
    good(target.exchange("GET", target.path("/ready", target.version)))
    return f"version {target.version}"


def configuration(target: Target) -> str:
    """Configuration."""
    document = good(answer := target.exchange("GET", target.path("/config")))
    expect(document.get("name") == target.model and type(document.get("max_batch_size")) is int, str(answer))
    expect(document.get("input") and document.get("output"), str(answer))
    expect(document["input"][0]["data_type"].startswith("TYPE_"), str(document["input"]))
    return f"max_batch_size {document['max_batch_size']}"


COUNTERS = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output")


def statistics(target: Target) -> str:
    """Statistics, of one model and of all."""
    for path in (target.path("/stats"), "/v2/models/stats"):
        document = good(answer := target.exchange("GET", path))
        listed = document.get("model_stats")
        expect(listed and any(stats["name"] == target.model for stats in listed), str(answer))
        for stats in listed:
            for name in COUNTERS:
                pair = stats["inference_stats"][name]
                expect(type(pair["count"]) is int and type(pair["ns"]) is int, f"{name}: {pair}")
            expect(isinstance(stats.get("batch_stats"), list), str(answer))
    return f"{len(listed)} version(s)"


def index(target: Target) -> str:
    """Repository index, with an empty body and with `ready`."""
    rows = good(answer := target.exchange("POST", "/v2/repository/index", b""))
    states = ("READY", "UNAVAILABLE", "LOADING", "UNLOADING", "UNKNOWN")
    expect(isinstance(rows, list) and all(row.get("state") in states for row in rows), str(answer))
    expect(any(row["name"] == target.model and row["state"] == "READY" for row in rows), str(answer))
    ready_rows = good(target.exchange("POST", "/v2/repository/index", b'{"ready":true}', JSON))
    expect(all(row["state"] == "READY" for row in ready_rows), "with ready=true there are rows that are not ready")
    return f"{len(rows)} row(s)"


CHECKS = checks(
    "surface",
    live,
    ready,
    server_metadata,
    trailing_slash,
    model_metadata,
    model_ready,
    in_versions,
    configuration,
    statistics,
    index,
)
