"""How much faster the folded graph runs: ONNX Runtime on one CPU thread, its default level, all graphs in turn.

    python scripts/benchmark_fold.py
    python scripts/benchmark_fold.py --networks ResNet50 MobileNetV2 --batches 1 8 --json figures.json

Compared are what Keras itself exports, where batch normalisation is Mul and Add; the project's own export, where it is
one BatchNormalization node; and that export folded. A machine's speed drifts, ratios repeat: every round runs each
graph once, and the medians of the CPU time are divided.
"""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx

# TensorFlow's greeting is not the user's concern; its warnings and errors are.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

KERAS, NODES, FOLDED = "Keras export", "BatchNormalization nodes", "folded"


def main(arguments: list[str] | None = None) -> int:
    """Run the command; 0 done, 2 wrong arguments."""
    parser = argparse.ArgumentParser(
        prog="benchmark_fold.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", nargs="+", default=["reference"], metavar="NAME", help="default: reference")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8, 64], metavar="N", help="default: 1 8 64")
    parser.add_argument("--seconds", type=float, default=20, help="per network and batch size (default: %(default)g)")
    parser.add_argument("--negative", type=float, default=0, help="share of negative gammas (default: %(default)g)")
    parser.add_argument("--target", default="ort-cpu", help="of the fold (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here as well")
    options = parser.parse_args(arguments)

    import bnfold
    from scripts.evaluation.networks import NETWORKS
    from scripts.evaluation.table import table

    wrong = [name for name in options.networks if name not in NETWORKS]
    if wrong:
        parser.error(f"--networks: {wrong[0]!r} is not known; choose from {', '.join(NETWORKS)}")
    if options.target not in bnfold.TARGETS:
        parser.error(f"--target: {options.target!r} is not known; choose from {', '.join(bnfold.TARGETS)}")
    if min(options.batches) < 1:
        parser.error("--batches: every batch needs at least one picture")
    records: list[dict[str, Any]] = []
    for name in options.networks:
        graphs, shape, limits = _graphs(name, options.negative, options.target)
        for batch in options.batches:
            times = _medians(graphs, (batch, *shape), limits, options.seconds)
            ratios = {f"against {title}": times[title] / times[FOLDED] for title in (KERAS, NODES)}
            records.append({"network": name, "batch": batch, "milliseconds": times, "ratios": ratios})
    heads = ["network", "batch", *records[0]["ratios"], "folded [ms]"]
    rows = [
        [r["network"], r["batch"], *(f"{x:.2f}x" for x in r["ratios"].values()), f"{r['milliseconds'][FOLDED]:.3g}"]
        for r in records
    ]
    print(table(heads, rows))
    if options.json:
        options.json.write_text(json.dumps(records, indent=2) + "\n", encoding="utf-8")
    return 0


def _graphs(
    name: str, negative: float, target: str
) -> tuple[dict[str, "onnx.ModelProto"], tuple[int, ...], tuple[float, float]]:
    """The three graphs of a network, and the shape and range of its pictures."""
    import bnfold
    from scripts.evaluation.graphs import batchnorm_export, keras_export
    from scripts.evaluation.networks import NETWORKS
    from scripts.evaluation.weights import randomise

    network = NETWORKS[name]
    model = network.build()
    randomise(model, low=network.low, high=network.high, negative=negative)
    graphs = {KERAS: keras_export(model), NODES: batchnorm_export(model)}
    graphs[FOLDED] = bnfold.fold(graphs[NODES], target=target).model
    return graphs, tuple(model.inputs[0].shape[1:]), (network.low, network.high)


def _medians(
    graphs: dict[str, "onnx.ModelProto"], shape: tuple[int, ...], limits: tuple[float, float], seconds: float
) -> dict[str, float]:
    """Median milliseconds of one run of each graph, measured in turn for about `seconds` in all."""
    import numpy as np

    from scripts.evaluation.runtime import interleaved_times

    batch = np.random.default_rng(0).uniform(*limits, shape).astype(np.float32)
    times = interleaved_times(graphs, batch, seconds)
    return {name: float(np.median(values)) * 1e3 for name, values in times.items()}


if __name__ == "__main__":
    sys.exit(main())
