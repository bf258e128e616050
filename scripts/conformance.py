"""Ask any server of the Open Inference Protocol V2 whether it keeps the protocol; prints a table.

    python scripts/conformance.py http://127.0.0.1:8000
    python scripts/conformance.py http://127.0.0.1:8000 --model kmnist --mutations 1000 --cases 5000 --json

Nothing is known of the server but its address. Clients that are not installed are skipped, and the table says so.
"""

import argparse
import sys

from scripts.conformance_checks import surface
from scripts.conformance_checks.report import as_json, as_table, perform, summary
from scripts.conformance_checks.target import Target, TargetError


def main(arguments: list[str] | None = None) -> int:
    """Run the command; 0 all hold, 1 some do not, 2 wrong arguments or nothing to test."""
    parser = argparse.ArgumentParser(
        prog="conformance.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("url", help="of the server, such as http://127.0.0.1:8000")
    parser.add_argument("--model", help="which model to ask (default: the first that the server lists)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    options = parser.parse_args(arguments)
    try:
        target = Target.find(options.url, options.model)
    except TargetError as error:
        print(f"conformance: {error}", file=sys.stderr)
        return 2
    outcomes = [perform(check, target) for check in surface.CHECKS]
    print(as_json(target, outcomes) if options.json else f"{as_table(outcomes)}\n\n{summary(outcomes)}")
    return 1 if any(outcome.result == "fail" for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
