"""Ask any server of the Open Inference Protocol V2 whether it keeps the protocol; prints a table.

    python scripts/conformance.py http://127.0.0.1:8000
    python scripts/conformance.py http://127.0.0.1:8000 --model kmnist --mutations 1000 --cases 5000 --json

Nothing is known of the server but its address. Clients that are not installed are skipped, and the table says so.
"""

import argparse
import sys

from scripts.conformance_checks import inference, kserve_client, mutations, openapi, surface, triton_client, validation
from scripts.conformance_checks.report import as_json, as_table, perform, summary
from scripts.conformance_checks.target import Target, TargetError


def main(arguments: list[str] | None = None) -> int:
    """Run the command; 0 all hold, 1 some do not, 2 wrong arguments or nothing to test."""
    parser = argparse.ArgumentParser(
        prog="conformance.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("url", help="of the server, such as http://127.0.0.1:8000")
    parser.add_argument("--model", help="which model to ask (default: the first that the server lists)")
    parser.add_argument("--mutations", type=int, default=1000, help="broken binary requests to send (default: 1000)")
    parser.add_argument(
        "--cases", type=int, default=1000, help="requests made by schemathesis (default: 1000; 0: none)"
    )
    parser.add_argument(
        "--openapi",
        action="append",
        metavar="PATH",
        help="what they are made from: a path of the server or a file; may be given again (default: /openapi.json)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the inputs and of what is broken")
    parser.add_argument("--header", action="append", default=[], metavar="NAME:VALUE", help="sent with every request")
    parser.add_argument("--only", nargs="+", metavar="GROUP", help="only these groups, such as: surface refusal")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    options = parser.parse_args(arguments)
    if any(":" not in header for header in options.header):
        parser.error("--header wants NAME:VALUE")
    headers = {name: value.strip() for name, _, value in (header.partition(":") for header in options.header)}
    try:
        target = Target.find(options.url, options.model, headers)
    except TargetError as error:
        print(f"conformance: {error}", file=sys.stderr)
        return 2
    target.seed = options.seed
    checks = (
        *surface.CHECKS,
        *inference.CHECKS,
        *triton_client.CHECKS,
        *kserve_client.CHECKS,
        *validation.CHECKS,
        mutations.check(options.mutations),
        *(openapi.check(source, options.cases) for source in options.openapi or ["/openapi.json"] if options.cases),
    )
    groups = list(dict.fromkeys(check.group for check in checks))
    if unknown := set(options.only or ()) - set(groups):
        parser.error(f"no group {', '.join(sorted(unknown))}; there are {', '.join(groups)}")
    outcomes = [perform(check, target) for check in checks if check.group in (options.only or groups)]
    print(as_json(target, outcomes) if options.json else f"{as_table(outcomes)}\n\n{summary(outcomes)}")
    return 1 if any(outcome.result == "fail" for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
