"""Folds well-known networks with random weights: what is left of their batch normalisation, and how exact the result is.

python scripts/evaluate_fold.py ResNet50 DenseNet121
"""

import argparse
import json
import os
import sys
import time
from typing import Any

import numpy as np

import bnfold

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def evaluate(name: str) -> dict[str, Any]:
    """Build, export, fold and compare one network."""
    from scripts.benchmark_fold import session
    from scripts.evaluation.graphs import with_batchnorm_nodes
    from scripts.evaluation.networks import NETWORKS
    from scripts.evaluation.weights import randomise

    network = NETWORKS[name]
    model = network.build()
    randomise(model, low=network.low, high=network.high)
    graph = with_batchnorm_nodes(model)
    begin = time.perf_counter()
    folded = bnfold.fold(graph)
    seconds = time.perf_counter() - begin
    inputs = np.random.default_rng(1).uniform(network.low, network.high, (4, *model.inputs[0].shape[1:]))
    feed = {graph.graph.input[0].name: inputs.astype(np.float32)}
    want, got = session(graph).run(None, feed)[0], session(folded.model).run(None, feed)[0]
    return {
        "network": name,
        "before": folded.report.operators_before.get("BatchNormalization", 0),
        "after": folded.report.operators_after.get("BatchNormalization", 0),
        "residual": len(folded.report.residual),
        "seconds": seconds,
        "error": float(np.abs(want - got).max() / np.abs(want).max()),
        "largest": float(np.abs(want).max()),
        "kept": {e.name: e.rules for e in folded.report.entries if e.status == "kept"},
    }


def main(arguments: list[str] | None = None) -> int:
    """Run the command."""
    from scripts.evaluation.networks import NETWORKS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=list(NETWORKS))
    options = parser.parse_args(arguments)
    for name in options.networks:
        print(json.dumps(evaluate(name)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
