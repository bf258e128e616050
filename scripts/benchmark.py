"""Measure the service beside ONNX Runtime alone and beside the least server that Python allows; prints ratios.

    python scripts/benchmark.py models/kmnist/1
    python scripts/benchmark.py models/kmnist/1 --rounds 5 --plot docs/images/latency.png --json figures.json
    python scripts/benchmark.py unfolded.onnx --floor-batch --work binary-1 json-1 binary-32 json-32 --shares 0.8

Machines drift by half within an hour, so every cell is measured for each server in turn, round after round, and only
ratios of one round mean something. The service gets one process for each core, and so does the floor: a bare function
under uvicorn that runs the model inline. Everything stays on 127.0.0.1.
"""

import argparse
import json
import multiprocessing
import os
import platform
import socket
import statistics
import sys
import tempfile
from pathlib import Path

from scripts.benchmarking import alone, contest, tables
from scripts.benchmarking.echo import echo
from scripts.benchmarking.load import Load, in_own_process
from scripts.benchmarking.models import Model, prepare
from scripts.benchmarking.process import ServerError
from scripts.benchmarking.requests import v2_binary

SHARES = (0.2, 0.4, 0.6, 0.8, 0.9)


def generator_limit(model: Model, seconds: float) -> float:
    """Requests a second that the generator sends to a server that does nothing."""
    request = v2_binary(model.infer, model.input, model.images(1))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = multiprocessing.get_context("fork").Process(target=echo, args=(listener, len(request)), daemon=True)
        server.start()
        port = listener.getsockname()[1]
        try:
            (figures,) = in_own_process([Load(port, (request,), 32, seconds=seconds)])
        finally:
            server.kill()
            server.join()
    return figures.rate


def latency_curves(match: contest.Contest, works: list[str], options: argparse.Namespace) -> dict[str, tables.Curve]:
    """Open loop at shares of what each server answers in an open loop at most, right after; for works of one image."""
    curves: dict[str, tables.Curve] = {work: {} for work in works}
    for number in range(options.rounds):
        for work in works:
            for contestant in match.in_turn(number):
                peak = match.saturate(number, contestant, work, seconds=options.seconds)
                points = curves[work].setdefault(contestant.name, {share: [] for share in options.shares})
                for share, cells in points.items():
                    cells.append(match.offer(number, contestant, work, rate=share * peak, seconds=options.seconds))
    return curves


def main(arguments: list[str] | None = None) -> int:
    """Run the command; 0 done, 2 wrong arguments, or a server that does not start or answers wrongly."""
    parser = argparse.ArgumentParser(
        prog="benchmark.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="a bundle's folder, or an ONNX file")
    parser.add_argument("--work", nargs="+", choices=contest.WORKS, default=list(contest.WORKS), help="(default: all)")
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 8, 32], help="of the closed loop")
    parser.add_argument(
        "--rates", type=float, nargs="*", default=[400], help="requests/s of the open loop, one image each"
    )
    parser.add_argument(
        "--shares",
        type=float,
        nargs="*",
        default=SHARES,
        help=f"of what each server answers at most in an open loop, for latency against load, one image each; none: "
        f"no curve (default: {SHARES})",
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2, help="of each cell")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)), help="processes (default: cores)")
    parser.add_argument(
        "--also",
        action="append",
        default=[],
        metavar="NAME=ARGUMENTS",
        help="the service once more, with other arguments",
    )
    parser.add_argument("--floor-batch", action="store_true", help="beside a floor with a batching prototype, too")
    parser.add_argument("--quick", action="store_true", help="one round of short cells, without the curve")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every cell")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw latency against load (PNG or SVG)")
    options = parser.parse_args(arguments)
    if options.quick:
        options.rounds, options.seconds, options.shares = 1, 0.5, ()
    if not (options.model.is_file() or (options.model / "manifest.json").is_file()):
        parser.error(f"{options.model} is neither a bundle's folder nor an ONNX file")
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        model = prepare(options.model, Path(folder))
        workers = ["--workers", str(options.workers)] if options.workers > 1 else []
        named = [entry.partition("=") for entry in options.also]
        match = contest.Contest(
            model,
            [
                contest.floor(model, options.workers),
                *([contest.floor(model, options.workers, "floor_batch")] if options.floor_batch else []),
                contest.ours("service", model, workers),
                *(contest.ours(name, model, rest.split()) for name, _, rest in named),
            ],
        )
        try:
            return report(options, model, match)
        except ServerError as error:
            print(f"benchmark: {error}", file=sys.stderr)
            return 2
        finally:
            match.close()


def report(options: argparse.Namespace, model: Model, match: contest.Contest) -> int:
    """Measure, print, write."""
    limit = generator_limit(model, options.seconds)
    match.prepare(options.work)
    single: dict[int, list[float]] = {rows: [] for rows in sorted({contest.WORKS[work] for work in options.work})}
    windows: list[float] = []
    for number in range(options.rounds):
        for rows, rates in single.items():
            found = alone.measure(model, rows, options.seconds, options.workers)
            rates.append(found.rate)
            windows += found.windows
        for work in options.work:
            for connections in options.connections:
                for contestant in match.in_turn(number):
                    match.measure(number, contestant, work, connections, rate=0, seconds=options.seconds)
            for rate in options.rates if contest.WORKS[work] == 1 else ():
                for contestant in match.in_turn(number):
                    match.offer(number, contestant, work, rate=rate, seconds=options.seconds)
    ones = [work for work in options.work if contest.WORKS[work] == 1]
    curves = latency_curves(match, ones, options) if options.shares else {}
    foreign = sorted(cell.foreign for cell in match.cells)
    print(
        f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}; "
        f"{options.model}; {options.rounds} rounds of {options.seconds:g} s; {options.workers} processes each\n"
        f"The load generator alone reaches {limit:,.0f} requests/s against a server that does nothing.\n"
        f"Others took {statistics.median(foreign):.0%} of the machine (median of the cells; worst {foreign[-1]:.0%})."
    )
    if (slow := alone.slow_speed(windows)) is not None:
        print(
            f"In one tenth of a second out of twenty, ONNX Runtime alone had {slow:.0%} of its usual speed or less: "
            "a load above that share waits there, whatever the server does."
        )
    print("\nThroughput, closed loop, best number of connections\n")
    print(tables.throughput(match, options.work, options.rounds, single))
    print(f"\nLatency, closed loop, {options.connections[0]} client(s)\n")
    print(tables.latency(match, options.work, options.connections[0]))
    if options.rates:
        print("\nLatency, open loop\n")
        print(tables.open_loop(match, ones, options.rates))
    if curves:
        print("\nLatency against load, open loop\n")
        print(tables.curves(curves))
    if curves and options.plot:
        tables.plot(curves[ones[0]], options.plot, ones[0])
    if options.json:
        data = {"generator": limit, "alone": single, "windows": windows, "cells": match.as_data()}
        options.json.write_text(json.dumps(data, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
