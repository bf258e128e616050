"""What is counted of one model version: Triton's statistics, and histograms beside them."""

import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from service.engine.job import Job
from service.engine.scheduler import Batch
from service.metrics.ledger import Ledger

SECONDS = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0,
)  # fmt: skip
ROWS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0)
REASONS = ("REJECTED", "CANCELED", "BACKEND", "OTHER")
BATCH_SIZES = 32  # runs of more rows share the last line of `batch_stats`

COUNTERS = (
    "inferences", "executions", "success", "success_ns", "fail_ns", "queue", "queue_ns",
    "compute_input_ns", "compute_infer_ns", "compute_output_ns", "last_inference_ms", "pending", "unfinished",
)  # fmt: skip
HISTOGRAMS = {
    "request_seconds": SECONDS,
    "queue_seconds": SECONDS,
    "compute_seconds": SECONDS,
    "batch_rows": ROWS,
}


def _layout() -> dict[str, int]:
    """Where each part of a version's series begins."""
    sizes = dict.fromkeys(COUNTERS, 1) | {f"fail_{reason}": 1 for reason in REASONS}
    sizes |= {name: len(bounds) + 2 for name, bounds in HISTOGRAMS.items()}  # a bucket more, and the sum
    sizes["batches"] = 4 * BATCH_SIZES
    starts, at = {}, 0
    for name, size in sizes.items():
        starts[name] = at
        at += size
    return starts | {"": at}


LAYOUT = _layout()
LENGTH = LAYOUT.pop("")
_BATCHES = LAYOUT["batches"]
_SUCCESS, _SUCCESS_NS = LAYOUT["success"], LAYOUT["success_ns"]
_END = dict(pairwise([*LAYOUT.values(), LENGTH]))


def key(model: str, version: str) -> str:
    """The name of a version's series in the ledger."""
    return f"model/{model}/{version}"


class Statistics:
    """Counts for one model version; all methods run in the event loop.

    Args:
        ledger: where the numbers are.
        model, version: whose.
    """

    def __init__(self, ledger: Ledger, model: str, version: str) -> None:
        self._ledger, self._key = ledger, key(model, version)
        self.numbers = ledger.series(self._key, LENGTH)
        self._at = LAYOUT
        self.gauge(0, 0)  # a worker that was replaced may have left others
        self._request, self._queue = self._histogram("request_seconds"), self._histogram("queue_seconds")
        self._compute, self._rows = self._histogram("compute_seconds"), self._histogram("batch_rows")

    def batch(self, batch: Batch) -> None:
        """Count one run and the waiting of its requests."""
        n, at = self.numbers, self._at
        n[at["executions"]] += batch.runs
        n[at["inferences"]] += batch.rows
        requests = len(batch.jobs)  # as in Triton, each request is charged the whole of the run that it shared
        n[at["compute_input_ns"]] += batch.gather * requests
        n[at["compute_infer_ns"]] += batch.infer * requests
        n[at["compute_output_ns"]] += batch.scatter * requests
        line = _BATCHES + 4 * (min(batch.rows, BATCH_SIZES) - 1)
        n[line] += 1
        n[line + 1] += batch.gather
        n[line + 2] += batch.infer
        n[line + 3] += batch.scatter
        self._rows([batch.rows])
        self._compute([(batch.gather + batch.infer + batch.scatter) / 1e9])
        waited = [(job.started - job.arrived) / 1e9 for job in batch.jobs]
        n[at["queue"]] += requests
        n[at["queue_ns"]] += round(sum(waited) * 1e9)
        self._queue(waited)
        n[at["last_inference_ms"]] = time.time_ns() // 1_000_000

    def gauge(self, pending: int, unfinished: int) -> None:
        """Note how many requests wait here, and how many are not answered yet."""
        self.numbers[self._at["pending"]] = pending
        self.numbers[self._at["unfinished"]] = unfinished

    def success(self, job: Job) -> None:
        """Count a request that was answered."""
        n, took = self.numbers, time.perf_counter_ns() - job.arrived
        n[_SUCCESS] += 1
        n[_SUCCESS_NS] += took
        self._request((took / 1e9,))

    def failure(self, reason: str, took: int = 0) -> None:
        """Count a request that was not answered, for one of `REASONS`, after `took` nanoseconds."""
        self.numbers[self._at[f"fail_{reason}"]] += 1
        self.numbers[self._at["fail_ns"]] += took

    def report(self) -> dict[str, Any]:
        """As Triton's statistics extension words it, without name and version."""
        n = read(self._ledger.total(self._key))
        fails = sum(n[f"fail_{reason}"] for reason in REASONS)
        runs = n["executions"]

        def pair(count: float, ns: float) -> dict[str, int]:
            return {"count": int(count), "ns": int(ns)}

        batches = []
        for i in range(BATCH_SIZES):
            count, gather, infer, scatter = n["batches"][4 * i : 4 * i + 4]
            if count:
                batches.append(
                    {
                        "batch_size": i + 1,
                        "compute_input": pair(count, gather),
                        "compute_infer": pair(count, infer),
                        "compute_output": pair(count, scatter),
                    }
                )
        return {
            "last_inference": int(max(self._ledger.rows_of(self._key, self._at["last_inference_ms"]))),
            "inference_count": int(n["inferences"]),
            "execution_count": int(runs),
            "inference_stats": {
                "success": pair(n["success"], n["success_ns"]),
                "fail": pair(fails, n["fail_ns"]),
                "queue": pair(n["queue"], n["queue_ns"]),
                "compute_input": pair(n["queue"], n["compute_input_ns"]),
                "compute_infer": pair(n["queue"], n["compute_infer_ns"]),
                "compute_output": pair(n["queue"], n["compute_output_ns"]),
                "cache_hit": pair(0, 0),
                "cache_miss": pair(0, 0),
            },
            "batch_stats": batches,
        }

    def _histogram(self, name: str) -> Callable[[Sequence[float]], None]:
        bounds, start, numbers = HISTOGRAMS[name], self._at[name], self.numbers
        total = start + len(bounds) + 1

        def observe(values: Sequence[float]) -> None:
            for value in values:
                numbers[start + bisect_left(bounds, value)] += 1
            numbers[total] += sum(values)

        return observe


def read(numbers: list[float]) -> dict[str, Any]:
    """A version's series by name: a number, or a list for histograms and batches."""
    if not numbers:
        numbers = [0.0] * LENGTH
    parts = {name: numbers[start : _END[start]] for name, start in LAYOUT.items()}
    return {name: part[0] if len(part) == 1 else part for name, part in parts.items()}
