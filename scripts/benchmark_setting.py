"""Measure what a setting of the server costs: two servers that differ in it, asked in short slices that alternate.

    python scripts/benchmark_setting.py models/kmnist/1 --against="--drift-share 0"

Both run all the time; one after the other gets the load, and the order changes with every pair, so that what the
machine does meanwhile falls on both. The cost is the median of the pairs, with a bootstrap interval that holds it in 95
of 100 cases.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from scripts.benchmarking import contest, tables
from scripts.benchmarking.models import prepare
from scripts.benchmarking.process import ServerError

RESAMPLES = 10_000


def interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float, float]:
    """The median, and the percentile bootstrap interval of it (Efron, 1979)."""
    found = np.asarray(values)
    drawn = np.random.default_rng(0).choice(found, (RESAMPLES, len(found)))
    low, high = np.quantile(np.median(drawn, axis=1), [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(np.median(found)), float(low), float(high)


def change(values: Sequence[float]) -> str:
    """`-1.2 % (-2.0 to -0.3)`: ratios as a change."""
    median, low, high = (100 * (value - 1) for value in interval(values))
    return f"{median:+.1f} % ({low:+.1f} to {high:+.1f})"


def measure(match: contest.Contest, work: str, options: argparse.Namespace) -> list[str]:
    """A row of the table: requests a second and processor time with and without, and their ratios."""
    plain, against = match.contestants
    for contestant in match.contestants:
        match.measure(-1, contestant, work, options.connections, rate=0, seconds=options.seconds)  # to warm up
    pairs = []
    for number in range(options.pairs):
        cells = {
            contestant.name: match.measure(
                number, contestant, work, options.connections, rate=0, seconds=options.seconds
            )
            for contestant in match.in_turn(number)
        }
        pairs.append((cells[plain.name], cells[against.name]))
    images = [statistics.median(cell.images for cell in side) for side in zip(*pairs, strict=True)]
    return [
        work,
        *(f"{value:,.0f}" for value in images),
        change([one.images / other.images for one, other in pairs]),
        change([one.cpu_ms / other.cpu_ms for one, other in pairs]),
    ]


def main(arguments: list[str] | None = None) -> int:
    """Run the command; 0 done, 2 wrong arguments, or a server that does not start or answers wrongly."""
    parser = argparse.ArgumentParser(
        prog="benchmark_setting.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="a bundle's folder, or an ONNX file")
    parser.add_argument("--against", required=True, metavar="ARGUMENTS", help="of the second server, as one word")
    parser.add_argument("--work", nargs="+", choices=contest.WORKS, default=["binary-1", "binary-32"])
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--pairs", type=int, default=40, help="of slices, for each kind of work (default: 40)")
    parser.add_argument("--seconds", type=float, default=1.5, help="of each slice (default: 1.5)")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)), help="processes (default: cores)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every slice")
    options = parser.parse_args(arguments)
    if not (options.model.is_file() or (options.model / "manifest.json").is_file()):
        parser.error(f"{options.model} is neither a bundle's folder nor an ONNX file")
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        model = prepare(options.model, Path(folder))
        workers = ["--workers", str(options.workers)] if options.workers > 1 else []
        match = contest.Contest(
            model,
            [
                contest.ours("service", model, workers),
                contest.ours("against", model, [*workers, *options.against.split()]),
            ],
        )
        try:
            match.prepare(options.work)
            rows = [measure(match, work, options) for work in options.work]
        except ServerError as error:
            print(f"benchmark: {error}", file=sys.stderr)
            return 2
        finally:
            match.close()
    foreign = sorted(cell.foreign for cell in match.cells)
    print(
        f"{options.model}, {options.workers} processes, against {options.against}: {options.pairs} pairs of slices of "
        f"{options.seconds:g} s, {options.connections} connections.\n"
        f"Others took {statistics.median(foreign):.0%} of the machine (median of the slices; worst {foreign[-1]:.0%})."
    )
    print(
        "\n"
        + tables.markdown(["work", "images/s", "against", "images/s, change", "processor time an image, change"], rows)
    )
    if options.json:
        options.json.write_text(json.dumps(match.as_data(), indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
