"""How much faster the folded graph runs: ONNX Runtime on one CPU thread, its default level, all graphs in turn.

    python scripts/benchmark_fold.py
    python scripts/benchmark_fold.py --networks ResNet50 MobileNetV2 --batches 1 8 --json figures.json
    python scripts/benchmark_fold.py --batches 64 --operators

Compared are what Keras itself exports, where batch normalisation is Mul and Add; the project's own export, where it is
one BatchNormalization node; and that export folded for each target. A machine's speed drifts, ratios repeat: every
round runs each graph once, and the medians of the CPU time are divided. `--operators` shows where the time goes: what
convolutions and matrix products take for `ort-cpu` is the least that any fold can reach; `ort-cpu-winograd` needs fewer
multiplications.
"""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

# TensorFlow's greeting is not the user's concern; its warnings and errors are.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

KERAS, NODES = "Keras export", "BatchNormalization nodes"


def main(arguments: list[str] | None = None) -> int:
    """Run the command; 0 done, 2 wrong arguments."""
    parser = argparse.ArgumentParser(
        prog="benchmark_fold.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", nargs="+", default=["reference"], metavar="NAME", help="default: reference")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8, 64], metavar="N", help="default: 1 8 64")
    parser.add_argument("--seconds", type=float, default=20, help="per network and batch size (default: %(default)g)")
    parser.add_argument("--negative", type=float, default=0, help="share of negative gammas (default: %(default)g)")
    parser.add_argument(
        "--targets",
        nargs="+",
        default=["ort-cpu", "ort-cpu-winograd"],
        metavar="TARGET",
        help="of the fold (default: ort-cpu ort-cpu-winograd)",
    )
    parser.add_argument("--operators", action="store_true", help="also the time of each kind of operator")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here as well")
    options = parser.parse_args(arguments)

    import bnfold
    from scripts.evaluation.networks import NETWORKS
    from scripts.evaluation.table import table

    wrong = [name for name in options.networks if name not in NETWORKS]
    if wrong:
        parser.error(f"--networks: {wrong[0]!r} is not known; choose from {', '.join(NETWORKS)}")
    unknown = [name for name in options.targets if name not in bnfold.TARGETS]
    if unknown:
        parser.error(f"--targets: {unknown[0]!r} is not known; choose from {', '.join(bnfold.TARGETS)}")
    if min(options.batches) < 1:
        parser.error("--batches: every batch needs at least one picture")
    records: list[dict[str, Any]] = []
    for name in options.networks:
        graphs, shape, limits = _graphs(name, options.negative, options.targets)
        for batch in options.batches:
            times = _medians(graphs, (batch, *shape), limits, options.seconds)
            ratios = {
                f"{ours} against {theirs}": times[theirs] / times[ours]
                for ours in options.targets
                for theirs in (KERAS, NODES)
            }
            records.append({"network": name, "batch": batch, "milliseconds": times, "ratios": ratios})
            if options.operators:
                records[-1]["operators"] = _operators(graphs, (batch, *shape), limits)
    heads = ["network", "batch", *records[0]["ratios"], *(f"{name} [ms]" for name in options.targets)]
    rows = [
        [r["network"], r["batch"], *(f"{x:.2f}x" for x in r["ratios"].values()), *_times(r, options.targets)]
        for r in records
    ]
    print(table(heads, rows))
    for record in records if options.operators else ():
        print(f"\n{record['network']}, batch {record['batch']}, milliseconds:\n\n{_by_operator(record['operators'])}")
    if options.json:
        options.json.write_text(json.dumps(records, indent=2) + "\n", encoding="utf-8")
    return 0


def _graphs(
    name: str, negative: float, targets: list[str]
) -> tuple[dict[str, "onnx.ModelProto"], tuple[int, ...], tuple[float, float]]:
    """The graphs of a network, and the shape and range of its pictures."""
    import bnfold
    from scripts.evaluation.graphs import batchnorm_export, keras_export
    from scripts.evaluation.networks import NETWORKS
    from scripts.evaluation.weights import randomise

    network = NETWORKS[name]
    model = network.build()
    randomise(model, low=network.low, high=network.high, negative=negative)
    graphs = {KERAS: keras_export(model), NODES: batchnorm_export(model)}
    graphs |= {target: bnfold.fold(graphs[NODES], target=target).model for target in targets}
    return graphs, tuple(model.inputs[0].shape[1:]), (network.low, network.high)


def _times(record: dict[str, Any], names: list[str]) -> list[str]:
    return [f"{record['milliseconds'][name]:.3g}" for name in names]


def _operators(
    graphs: dict[str, "onnx.ModelProto"], shape: tuple[int, ...], limits: tuple[float, float]
) -> dict[str, dict[str, float]]:
    """Milliseconds by graph and kind of operator."""
    from scripts.evaluation.runtime import operator_times

    batch = _batch(shape, limits)
    return {name: operator_times(model, batch) for name, model in graphs.items()}


def _by_operator(times: dict[str, dict[str, float]]) -> str:
    """A Markdown table: one row a kind of operator, the dearest first, and their sum."""
    from scripts.evaluation.table import table

    kinds = {kind for graph in times.values() for kind in graph}
    order = sorted(kinds, key=lambda kind: -max(graph.get(kind, 0) for graph in times.values()))
    rows: list[list[object]] = [[kind, *(_number(graph.get(kind)) for graph in times.values())] for kind in order]
    return table(
        ["operator", *times], [*rows, ["**sum**", *(f"{sum(graph.values()):.3f}" for graph in times.values())]]
    )


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _batch(shape: tuple[int, ...], limits: tuple[float, float]) -> "NDArray[np.float32]":
    return np.random.default_rng(0).uniform(*limits, shape).astype(np.float32)


def _medians(
    graphs: dict[str, "onnx.ModelProto"], shape: tuple[int, ...], limits: tuple[float, float], seconds: float
) -> dict[str, float]:
    """Median milliseconds of one run of each graph, measured in turn for about `seconds` in all."""
    from scripts.evaluation.runtime import interleaved_times

    times = interleaved_times(graphs, _batch(shape, limits), seconds)
    return {name: float(np.median(values)) * 1e3 for name, values in times.items()}


if __name__ == "__main__":
    sys.exit(main())
