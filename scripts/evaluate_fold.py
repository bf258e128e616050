"""What the compiler leaves of batch normalisation, how exact it is, and how it compares with other tools.

    python scripts/evaluate_fold.py networks
    python scripts/evaluate_fold.py networks ResNet50 DenseNet121 --json networks.json
    python scripts/evaluate_fold.py tools
    python scripts/evaluate_fold.py speed --json speed.json --resume

`networks` builds well-known networks with random weights and statistics. `tools` counts, over small networks, the
operators that each tool leaves because of batch normalisation; a tool that is not installed is named and left out.
`speed` times sixty small networks, one per kind of place, as Keras exports them and folded.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

# TensorFlow's greeting is not the user's concern; its warnings and errors are.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

Records = list[dict[str, Any]]


class Evaluation(NamedTuple):
    """One of the commands."""

    known: list[str]
    """Networks, in the order of the table."""
    evaluate: Callable[[str], Records]
    """The records of one network; each has its name under `network`."""
    render: Callable[[Records], str]


def main(arguments: list[str] | None = None) -> int:
    """Run the command; 0 done, 2 wrong arguments."""
    parser = argparse.ArgumentParser(
        prog="evaluate_fold.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    networks = commands.add_parser("networks", help="fold networks of keras.applications")
    networks.add_argument("--size", type=int, help="height and width of the pictures (default: the network's own)")
    networks.add_argument("--negative", type=float, default=0.1, help="share of negative gammas (default: %(default)g)")
    networks.set_defaults(prepare=_networks)
    tools = commands.add_parser("tools", help="compare with other tools on small networks")
    tools.set_defaults(prepare=_tools)
    speed = commands.add_parser("speed", help="time small networks, folded and not")
    speed.add_argument("--batches", nargs="+", type=int, default=[1, 8], metavar="N", help="default: 1 8")
    speed.add_argument("--seconds", type=float, default=1, help="per network and batch size (default: %(default)g)")
    speed.set_defaults(prepare=_speed)
    for command in (networks, tools, speed):
        command.add_argument("names", nargs="*", metavar="NAME", help="default: all of them")
        command.add_argument("--json", type=Path, metavar="FILE", help="write the figures here, after every network")
        command.add_argument("--resume", action="store_true", help="keep the networks that FILE has, add the others")
    options = parser.parse_args(arguments)
    if options.resume and not options.json:
        parser.error("--resume: needs --json FILE")
    try:
        print(_run(options))
    except ValueError as error:
        print(f"evaluate_fold: {error}", file=sys.stderr)
        return 2
    return 0


def _run(options: argparse.Namespace) -> str:
    """The command's table; its figures are in the file after each network, so that a long run can be resumed."""
    evaluation: Evaluation = options.prepare(options)
    unknown = [name for name in options.names if name not in evaluation.known]
    if unknown:
        raise ValueError(f"{unknown[0]!r} is not known; choose from {', '.join(evaluation.known)}")
    records: Records = []
    if options.resume and options.json.exists():
        records = json.loads(options.json.read_text(encoding="utf-8"))
    there = {record["network"] for record in records}
    for name in options.names or evaluation.known:
        if name in there:
            continue
        print(f"{name} …", file=sys.stderr)
        records += evaluation.evaluate(name)
        records.sort(key=lambda record: evaluation.known.index(record["network"]))
        if options.json:
            options.json.write_text(json.dumps(records, indent=2) + "\n", encoding="utf-8")
    return evaluation.render(records)


def _networks(options: argparse.Namespace) -> Evaluation:
    from scripts.evaluation import applications
    from scripts.evaluation.networks import NETWORKS

    def evaluate(name: str) -> Records:
        return applications.evaluate(name, negative=options.negative, size=options.size)

    return Evaluation(list(NETWORKS), evaluate, applications.render)


def _tools(options: argparse.Namespace) -> Evaluation:
    from scripts.evaluation import comparison
    from scripts.evaluation.topologies import TOPOLOGIES

    return Evaluation(list(TOPOLOGIES), comparison.compare, comparison.render)


def _speed(options: argparse.Namespace) -> Evaluation:
    from scripts.evaluation import speed

    return Evaluation(
        list(speed.PLACES), lambda name: speed.measure(name, options.batches, options.seconds), speed.render
    )


if __name__ == "__main__":
    sys.exit(main())
