"""The scrape: what the ledger holds, in Prometheus' text format. Triton's names where they mean the same.

Written by hand because Triton's counters have no `_total`, which client libraries append.
Format: https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate

from prometheus_client import REGISTRY, generate_latest

from service.dataplane import DataPlane
from service.metrics.statistics import HISTOGRAMS, REASONS, SECONDS, key, read
from service.watch.report import drift_samples

_DRIFT = (
    ("foldserve_drift_images_total", "counter", "Pictures of the traffic that were compared with the training data"),
    ("foldserve_drift_windows_total", "counter", "Windows of such pictures that were judged, since the last reset"),
    ("foldserve_drift_layer_score", "gauge", "How far a layer is from its training data, in nats a channel"),
    ("foldserve_drift_score", "gauge", "The mean over the layers"),
    ("foldserve_drift_limit", "gauge", "The score that chance exceeds in one window of a hundred"),
    ("foldserve_drift_grade", "gauge", "0 no drift, 1 mild, 2 strong"),
)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
Labels = dict[str, str]
Sample = tuple[str, Labels, float]

# name, help, field of the statistics, factor
_COUNTERS = (
    ("nv_inference_request_success", "Requests answered", "success", 1.0),
    ("nv_inference_count", "Rows (pictures) inferred", "inferences", 1.0),
    ("nv_inference_exec_count", "Runs of the model", "executions", 1.0),
    ("nv_inference_request_duration_us", "Time from arrival to answer", "success_ns", 1e-3),
    ("nv_inference_queue_duration_us", "Time waited for a runner", "queue_ns", 1e-3),
    ("nv_inference_compute_input_duration_us", "Time to build the input", "compute_input_ns", 1e-3),
    ("nv_inference_compute_infer_duration_us", "Time in the model", "compute_infer_ns", 1e-3),
    ("nv_inference_compute_output_duration_us", "Time to divide the output", "compute_output_ns", 1e-3),
)
_GAUGES = (
    ("nv_inference_pending_request_count", "Requests that wait for a runner", "pending"),
    ("inference_requests_in_flight", "Requests that are not answered yet", "unfinished"),
)
_HISTOGRAMS = (
    ("inference_request_duration_seconds", "From arrival to answer", "request_seconds"),
    ("inference_queue_duration_seconds", "Waited for a runner", "queue_seconds"),
    ("inference_compute_duration_seconds", "One run: build the input, infer, divide the output", "compute_seconds"),
    ("inference_batch_size", "Rows of one run", "batch_rows"),
)


def exposition(plane: DataPlane) -> bytes:
    """Everything that is counted."""
    plane.pulse()
    text = "\n".join((*_models(plane), *_drift(plane), *_http(plane.ledger.totals()), *_server(plane))) + "\n"
    return text.encode() + generate_latest(REGISTRY)  # the process itself: memory, CPU, garbage collection


def _family(name: str, kind: str, text: str, samples: Iterable[Sample]) -> Iterator[str]:
    yield f"# HELP {name} {text}"
    yield f"# TYPE {name} {kind}"
    for suffix, labels, value in samples:
        inside = ",".join(f'{k}="{_escape(v)}"' for k, v in labels.items())
        yield f"{name}{suffix}{{{inside}}} {value!r}"


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _buckets(labels: Labels, bounds: Sequence[float], numbers: Sequence[float]) -> Iterator[Sample]:
    """A histogram's samples, from counts a bucket and the sum behind them."""
    counts = list(accumulate(numbers[:-1]))
    for edge, count in zip([*map(repr, bounds), "+Inf"], counts, strict=True):
        yield "_bucket", labels | {"le": edge}, count
    yield "_sum", labels, numbers[-1]
    yield "_count", labels, counts[-1]


def _models(plane: DataPlane) -> Iterator[str]:
    totals = plane.ledger.totals()
    models = plane.repository.everything() if plane.loaded else []
    rows = [
        ({"model": m.name, "version": str(m.version)}, m, read(totals.get(key(m.name, str(m.version)), [])))
        for m in models
    ]
    for name, text, field, factor in _COUNTERS:
        yield from _family(name, "counter", text, (("", labels, n[field] * factor) for labels, _, n in rows))
    failures = [("", labels | {"reason": r}, n[f"fail_{r}"]) for labels, _, n in rows for r in REASONS]
    yield from _family("nv_inference_request_failure", "counter", "Requests not answered", failures)
    for name, text, field in _GAUGES:
        yield from _family(name, "gauge", text, (("", labels, n[field]) for labels, _, n in rows))
    for name, text, field in _HISTOGRAMS:
        samples = [s for labels, _, n in rows for s in _buckets(labels, HISTOGRAMS[field], n[field])]
        yield from _family(name, "histogram", text, samples)
    info = [("", labels | {"sha256": m.digest or "", "provider": m.provider}, 1.0) for labels, m, _ in rows]
    yield from _family("model_info", "gauge", "Which files serve, and where they run", info)


def _drift(plane: DataPlane) -> Iterator[str]:
    """Of the last window that was closed, so that no scrape sees a window of few images."""
    families: dict[str, list[Sample]] = {name: [] for name, _, _ in _DRIFT}
    for model in plane.repository.everything() if plane.loaded else ():
        if model.watch is not None:
            for name, labels, value in drift_samples(model.watch):
                families[name].append(("", {"model": model.name, "version": str(model.version)} | labels, value))
    for name, kind, text in _DRIFT:
        yield from _family(name, kind, text, families[name])


def _http(totals: dict[str, list[float]]) -> Iterator[str]:
    samples: list[Sample] = []
    for name, numbers in sorted(totals.items()):
        if name.startswith("http "):
            _, method, route, status = name.split(" ")
            samples += _buckets({"method": method, "route": route, "status": status}, SECONDS, numbers)
    yield from _family("http_request_duration_seconds", "histogram", "HTTP requests by route template", samples)


def _server(plane: DataPlane) -> Iterator[str]:
    yield from _family("foldserve_workers", "gauge", "Processes that serve", [("", {}, float(plane.control.alive()))])
    open_ones = [("", {"worker": str(row)}, count) for row, count in enumerate(plane.ledger.rows_of("connections"))]
    yield from _family("foldserve_connections", "gauge", "Open connections, by worker", open_ones)
    yield from _family("foldserve_ready", "gauge", "1 if ready", [("", {}, float(plane.not_ready() is None))])
