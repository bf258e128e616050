"""Hurt the server and count what is lost; each scenario prints one line, and the status says whether all held.

    python scripts/stress.py models/kmnist/1
    python scripts/stress.py models/kmnist/1 sigterm swap --times 100
    python scripts/stress.py models/kmnist/1 soak --requests 1000000

Every scenario starts servers of its own on free ports of this machine, and nothing else is ever loaded.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from scripts.benchmarking.models import Model, prepare
from scripts.benchmarking.process import ServerError
from scripts.stressing import lifecycle, pressure
from scripts.stressing.rest import rest


def main(arguments: list[str] | None = None) -> int:
    """Run the command; 0 nothing lost, 1 something was, 2 wrong arguments or a server that does not start."""
    parser = argparse.ArgumentParser(
        prog="stress.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = ("rest", "sigterm", "swap", "kill-worker", "overload", "soak")
    parser.add_argument("model", type=Path, help="a bundle's folder, or an ONNX file")
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=f"{', '.join(names)} (default: all)")
    parser.add_argument("--times", type=int, default=10, help="starts, signals, swaps and kills (default: 10)")
    parser.add_argument("--seconds", type=float, default=10, help="of overload, and of rest (default: 10)")
    parser.add_argument("--requests", type=int, default=100_000, help="of the soak (default: 100,000)")
    parser.add_argument(
        "--server", action="append", default=[], metavar="ARGUMENT", help="for the server, as --server=…"
    )
    options = parser.parse_intermixed_args(arguments)
    unknown = set(options.scenarios) - set(names)
    if unknown:
        parser.error(f"unknown scenario {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    if not (options.model.is_file() or (options.model / "manifest.json").is_file()):
        parser.error(f"{options.model} is neither a bundle's folder nor an ONNX file")
    extra = tuple(options.server)
    scenarios: dict[str, Callable[[Model], bool]] = {
        "rest": lambda model: rest(model, options.times, options.seconds, extra),
        "sigterm": lambda model: lifecycle.sigterm(model, options.times, extra),
        "swap": lambda model: lifecycle.swap(model, options.times, extra),
        "kill-worker": lambda model: lifecycle.kill_worker(model, options.times, extra),
        "overload": lambda model: pressure.overload(model, options.seconds, extra),
        "soak": lambda model: pressure.soak(model, options.requests, extra),
    }
    failed = []
    for name in options.scenarios or names:
        with tempfile.TemporaryDirectory(prefix="stress-") as folder:
            try:
                held = scenarios[name](prepare(options.model, Path(folder)))
            except (ServerError, RuntimeError) as error:
                print(f"stress: {name}: {error}", file=sys.stderr)
                return 2
        if not held:
            failed.append(name)
    print("everything held" if not failed else f"did not hold: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
