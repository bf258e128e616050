"""Measure a running server with one image a request, binary and JSON (first form; wider ones follow)."""

import argparse
import sys
import urllib.parse

from scripts.benchmarking import requests
from scripts.benchmarking.load import Load, in_own_process


def main(arguments: list[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="benchmark.py", description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--model", default="kmnist")
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=2)
    options = parser.parse_args(arguments)
    path = f"/v2/models/{options.model}/infer"
    port = urllib.parse.urlsplit(options.url).port or 80
    images = requests.pictures(64, (28, 28, 1), "uint8")
    kinds = {
        kind: tuple(build(path, "image", images[i : i + 1]) for i in range(len(images)))
        for kind, build in (("JSON", requests.v2_json), ("binary", requests.v2_binary))
    }
    loads = [Load(port, made, options.connections, seconds=options.seconds) for made in kinds.values()]
    for kind, figures in zip(kinds, in_own_process(loads), strict=True):
        print(f"{kind}: {figures.rate:.0f} requests/s, p50 {figures.p50:.2f} ms, p99 {figures.p99:.2f} ms")
    return 0


if __name__ == "__main__":
    sys.exit(main())
