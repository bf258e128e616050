"""Score many pictures with a running server: exactly one row for each, however often it is broken off.

python scripts/score.py pictures/ --out scores --server http://localhost:8000

The source is a folder of pictures, an .npz or .npy file with the array `images`, or a Parquet file with the column
`image` (the bytes of picture files). The answers are those of `POST /predict`, so every picture is prepared as the
server prepares it. They are written in parts, each complete or not there at all; at the end all parts become one
table, `scores.csv` or `scores.parquet`. Taken up again, it asks for what is missing and for nothing else.

With --ray the pictures are read and sent by the machines of a Ray cluster, which all have the source at the same place.
"""

import argparse
import sys
from functools import partial
from pathlib import Path

from scripts.scoring.ask import ServerError, Target
from scripts.scoring.cluster import ask_from_cluster
from scripts.scoring.parts import Parts, PartsError
from scripts.scoring.run import ask_here, score
from scripts.scoring.sources import SourceError, open_source


def parser() -> argparse.ArgumentParser:
    """The command line."""
    command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("source", type=Path, help="a folder of pictures, or an .npz, .npy or .parquet file")
    command.add_argument("--out", type=Path, required=True, help="folder for the scores; the same one to take up again")
    command.add_argument("--server", default="http://localhost:8000", help="address; one of a load balancer for many")
    command.add_argument("--model", help="name of the model; by default the one of POST /predict")
    command.add_argument("--version", help="version of the model; by default the newest")
    command.add_argument("--format", choices=("csv", "parquet"), default="csv", help="of the table")
    command.add_argument("--part", type=int, default=1024, metavar="N", help="pictures in one part (default: 1024)")
    command.add_argument("--batch", type=int, default=32, metavar="N", help="pictures in one request (default: 32)")
    command.add_argument("--connections", type=int, default=4, metavar="N", help="requests at a time (default: 4)")
    command.add_argument("--ray", action="store_true", help="ask from the machines of a Ray cluster")
    return command


def main(arguments: list[str] | None = None) -> int:
    """Run the command; 0 done, 1 the server could not be asked, 2 a wrong source or folder, 130 broken off."""
    command = parser()
    options = command.parse_args(arguments)
    for name in ("part", "batch", "connections"):
        if getattr(options, name) < 1:
            command.error(f"--{name} must be at least 1")
    if options.batch > 64:
        command.error("--batch can be at most 64, as many files as POST /predict takes")
    try:
        source = open_source(options.source)
        target = Target(options.server, options.model, options.version)
        parts = Parts(options.out, source, target.identity(), options.part)
        if options.ray:
            answer = partial(ask_from_cluster, options.source, target, options.batch, options.connections)
        else:
            answer = partial(ask_here, source, target, options.batch, options.connections)
        score(parts, len(source), answer)
        table = parts.join(options.format)
    except (SourceError, PartsError) as error:
        print(f"score: {error}", file=sys.stderr)
        return 2
    except ServerError as error:
        print(f"score: {error}; what is done is kept, the same command goes on from there", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("score: broken off; the same command goes on from there", file=sys.stderr)
        return 130
    print(f"{len(source)} rows in {table}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
