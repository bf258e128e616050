"""What the compiler leaves of batch normalisation, how exact it is, and how it compares with other tools.

    python scripts/evaluate_fold.py networks
    python scripts/evaluate_fold.py networks ResNet50 DenseNet121 --json networks.json
    python scripts/evaluate_fold.py tools

`networks` builds well-known networks with random weights and statistics. `tools` counts, over small networks, the
operators that each tool leaves because of batch normalisation; a tool that is not installed is named and left out.
"""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

# TensorFlow's greeting is not the user's concern; its warnings and errors are.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def main(arguments: list[str] | None = None) -> int:
    """Run the command; 0 done, 2 wrong arguments."""
    parser = argparse.ArgumentParser(
        prog="evaluate_fold.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    networks = commands.add_parser("networks", help="fold networks of keras.applications")
    networks.add_argument("names", nargs="*", metavar="NAME", help="default: all of them")
    networks.add_argument("--size", type=int, help="height and width of the pictures (default: the network's own)")
    networks.add_argument("--negative", type=float, default=0.1, help="share of negative gammas (default: %(default)g)")
    networks.set_defaults(run=_networks)
    tools = commands.add_parser("tools", help="compare with other tools on small networks")
    tools.add_argument("names", nargs="*", metavar="NAME", help="default: all of them")
    tools.set_defaults(run=_tools)
    for command in (networks, tools):
        command.add_argument("--json", type=Path, metavar="FILE", help="write the figures here as well")
    options = parser.parse_args(arguments)
    try:
        records, text = options.run(options)
    except ValueError as error:
        print(f"evaluate_fold: {error}", file=sys.stderr)
        return 2
    print(text)
    if options.json:
        options.json.write_text(json.dumps(records, indent=2) + "\n", encoding="utf-8")
    return 0


def _networks(options: argparse.Namespace) -> tuple[list[dict[str, Any]], str]:
    from scripts.evaluation import applications
    from scripts.evaluation.networks import NETWORKS

    records: list[dict[str, Any]] = []
    for name in _chosen(options.names, list(NETWORKS)):
        print(f"{name} …", file=sys.stderr)
        records += applications.evaluate(name, negative=options.negative, size=options.size)
    return records, applications.render(records)


def _tools(options: argparse.Namespace) -> tuple[list[dict[str, Any]], str]:
    from scripts.evaluation import comparison
    from scripts.evaluation.topologies import TOPOLOGIES

    records = comparison.compare(_chosen(options.names, list(TOPOLOGIES)))
    return records, comparison.render(records)


def _chosen(names: list[str], known: list[str]) -> list[str]:
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"{unknown[0]!r} is not known; choose from {', '.join(known)}")
    return names or known


if __name__ == "__main__":
    sys.exit(main())
