"""How much faster the folded graph runs: ONNX Runtime on one CPU thread, the graphs in turn in one process.

    python scripts/benchmark_fold.py
    python scripts/benchmark_fold.py --networks reference ResNet50 --batches 1 8 --json

A machine's speed drifts, ratios repeat: every round runs each graph once, and the medians are compared.
"""

import argparse
import json
import os
import statistics
import sys
import time
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

import bnfold

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
FOLDED = "folded"
KERAS = "Keras export"


def session(model: onnx.ModelProto) -> ort.InferenceSession:
    """One thread, ONNX Runtime's default level of optimisation."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def medians(graphs: dict[str, onnx.ModelProto], shape: tuple[int, ...], seconds: float) -> dict[str, float]:
    """Median seconds of one run of each graph, measured in turn for about `seconds` in all."""
    batch = np.random.default_rng(0).uniform(0, 255, shape).astype(np.float32)
    runs = {name: (session(model), model.graph.input[0].name) for name, model in graphs.items()}
    times: dict[str, list[float]] = {name: [] for name in graphs}
    for current, name in runs.values():
        for _ in range(3):
            current.run(None, {name: batch})
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[FOLDED]) < 5:
        for title, (current, name) in runs.items():
            begin = time.perf_counter()
            current.run(None, {name: batch})
            times[title].append(time.perf_counter() - begin)
    return {name: statistics.median(values) for name, values in times.items()}


def measure(name: str, batches: list[int], seconds: float) -> list[dict[str, Any]]:
    """One record per batch size: milliseconds of each graph, and how many times as fast the folded one is."""
    from scripts.evaluation.graphs import keras_export, with_batchnorm_nodes
    from scripts.evaluation.networks import NETWORKS
    from scripts.evaluation.weights import randomise

    network = NETWORKS[name]
    model = network.build()
    randomise(model, low=network.low, high=network.high, negative=0)
    graphs = {KERAS: keras_export(model), "BatchNormalization nodes": with_batchnorm_nodes(model)}
    graphs[FOLDED] = bnfold.fold(graphs["BatchNormalization nodes"]).model
    records = []
    for batch in batches:
        found = medians(graphs, (batch, *model.inputs[0].shape[1:]), seconds)
        ratios = {title: found[title] / found[FOLDED] for title in graphs if title != FOLDED}
        records.append({"network": name, "batch": batch, "ms": {k: v * 1e3 for k, v in found.items()}, "ratio": ratios})
    return records


def main(arguments: list[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=["reference"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8, 64])
    parser.add_argument("--seconds", type=float, default=20, help="for each batch size (%(default)g)")
    parser.add_argument("--json", action="store_true", help="print the records as JSON")
    options = parser.parse_args(arguments)
    records = [record for name in options.networks for record in measure(name, options.batches, options.seconds)]
    if options.json:
        print(json.dumps(records, indent=2))
        return 0
    titles = list(records[0]["ratio"])
    print("| network | batch |", " | ".join(f"against {title}" for title in titles), "|")
    print("|---|--:|" + "--:|" * len(titles))
    for record in records:
        cells = " | ".join(f"{record['ratio'][title]:.2f}x" for title in titles)
        print(f"| {record['network']} | {record['batch']} | {cells} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
