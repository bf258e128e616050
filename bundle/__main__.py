"""Which version of a model is the default, and changing that: `python -m bundle promote models/kmnist 2`.

A running server follows at its next look into the repository (`--poll-interval`), at a load call, or when it starts.
"""

import argparse
import sys
from pathlib import Path

from bundle.default import preference, promote, roll_back
from bundle.errors import BundleError


def main(arguments: list[str] | None = None) -> int:
    """Run the command; 0 done, 2 not possible."""
    parser = argparse.ArgumentParser(
        prog="python -m bundle", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=("default", "promote", "rollback"), help="show it, set it, undo the last one")
    parser.add_argument("model", type=Path, help="the model's folder, e.g. models/kmnist")
    parser.add_argument("version", type=int, nargs="?", help="to promote")
    options = parser.parse_args(arguments)
    if (options.version is None) == (options.action == "promote"):
        parser.error("promote takes a version, the others take none")
    try:
        if options.action == "promote":
            promote(options.model, options.version)
        elif options.action == "rollback":
            roll_back(options.model)
        versions = [int(folder.name) for folder in options.model.iterdir() if folder.name.isdigit()]
        found = preference(options.model, versions)
    except (BundleError, OSError) as error:
        sys.stderr.write(f"bundle: {error}\n")
        return 2
    sys.stdout.write(f"{found[0] if found else 'none'}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
