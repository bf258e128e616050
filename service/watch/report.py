"""What is said of the drift: the verdict, the worst layers and channels, the history."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import numpy as np

from drift import Moments, judge
from service.watch.watcher import Watch
from service.watch.windows import Window

WORST = 5  # channels that are named
GRADES = ("none", "mild", "strong")


def drift_report(watch: Watch, arrays: bool = False) -> dict[str, Any]:
    """The drift of one version, for JSON.

    Args:
        watch: of the version.
        arrays: whether every channel is listed, and the sums since the beginning.
    """
    watch.look()
    total = watch.tally.total()
    windows, thresholds = watch.windows, watch.thresholds
    last, open_, everything = windows.last(), windows.open(total), windows.everything(total)
    judged = last or open_
    settings = watch.settings
    return {
        "verdict": _verdict(watch, judged),
        "calibrated": thresholds is not None,
        "false_alarm_rate": thresholds and thresholds.rate,
        "statistics_sha256": watch.statistics,
        "failed": watch.failed,
        "window": {
            "closed": last is not None,
            "images": judged.images,
            "layers": _layers(watch, judged, arrays) if judged.images else [],
        },
        "open_window": {"since": _time(windows.opened), "images": open_.images, "verdict": _verdict(watch, open_)},
        "since_reset": {"since": _time(windows.began), "images": everything.images, "windows": windows.closed}
        | ({"sums": {key: value.tolist() for key, value in everything.to_arrays().items()}} if arrays else {}),
        "history": [_closed(watch, window) for window in windows.history()],
        "sampling": {
            "share": settings.drift_share,
            "window": settings.drift_window,
            "interval_seconds": settings.drift_interval,
        },
    }


def drift_samples(watch: Watch) -> Iterator[tuple[str, dict[str, str], float]]:
    """Name, labels and value of what a scrape is told; of the last closed window."""
    watch.look()
    yield "foldserve_drift_images_total", {}, float(watch.tally.images)
    yield "foldserve_drift_windows_total", {}, float(watch.windows.closed)
    history = watch.windows.history()
    if not history:
        return
    window = history[-1]
    for name, score in zip(watch.reference.layout.layers, window.layers, strict=True):
        yield "foldserve_drift_layer_score", {"layer": name}, score
    yield "foldserve_drift_score", {}, window.score
    verdict = judge(window.score, window.images, watch.thresholds)
    if verdict.limit is not None:
        yield "foldserve_drift_limit", {}, verdict.limit
        yield "foldserve_drift_grade", {}, float(GRADES.index(verdict.grade))


def _verdict(watch: Watch, moments: Moments) -> dict[str, Any]:
    score = float(watch.reference.score(moments.values)) if moments.images else 0.0
    verdict = judge(score, moments.images, watch.thresholds)
    return {name: getattr(verdict, name) for name in ("grade", "text", "images", "score", "limit", "effect")}


def _closed(watch: Watch, window: Window) -> dict[str, Any]:
    verdict = judge(window.score, window.images, watch.thresholds)
    return {
        "closed": _time(window.closed),
        "seconds": round(window.seconds, 3),
        "images": window.images,
        "grade": verdict.grade,
        "score": window.score,
        "limit": verdict.limit,
        "layers": dict(zip(watch.reference.layout.layers, window.layers, strict=True)),
    }


def _layers(watch: Watch, moments: Moments, arrays: bool) -> list[dict[str, Any]]:
    """Every layer of a window, the worst first."""
    scores = watch.reference.layer_scores(moments.values).tolist()
    layers = [
        {"name": name, "score": score} | _channels(watch, moments, name, arrays)
        for name, score in zip(watch.reference.layout.layers, scores, strict=True)
    ]
    return sorted(layers, key=lambda layer: -float(layer["score"]))


def _channels(watch: Watch, moments: Moments, name: str, arrays: bool) -> dict[str, Any]:
    reference = watch.reference
    trained = reference.layers[name]
    drift = reference.channels(moments.values, name)
    mean, variance = reference.live(moments.values, name)
    columns = {
        "mean_shift": drift.shift,
        "log_variance_ratio": drift.log_ratio,
        "divergence": drift.divergence,
        "live_mean": mean,
        "live_variance": variance,
    }
    divergence = np.where(trained.seen, drift.divergence, -np.inf)
    worst = [int(channel) for channel in np.argsort(-divergence, kind="stable")[:WORST] if trained.seen[channel]]
    said: dict[str, Any] = {
        "channels": len(mean),
        "unseen_channels": int(np.sum(~trained.seen)),
        "worst_channels": [
            {"channel": channel}
            | {key: float(values[channel]) for key, values in columns.items()}
            | {"moving_mean": float(trained.mean[channel]), "moving_variance": float(trained.variance[channel])}
            for channel in worst
        ],
    }
    if arrays:
        said |= {
            key: np.where(trained.seen, values, np.nan) for key, values in columns.items()
        }  # orjson writes nan as null
    return said


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
