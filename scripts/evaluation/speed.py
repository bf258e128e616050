"""How fast the networks of `places` run as exported, with BatchNormalization nodes, and folded for each target."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx

import bnfold
from scripts.evaluation.places import TOPOLOGIES, Topology, exported, with_batchnorm_nodes
from scripts.evaluation.runtime import interleaved_times
from scripts.evaluation.table import table

CHANNELS, PIXELS = 16, 3
"""Factors: whole blocks of ONNX Runtime's layout, and pictures of 24 x 24, so that there is something to measure."""
EXPORTED, NODES = "as exported", "BatchNormalization nodes"
TARGETS = ("ort-cpu", "fewest-ops")
PLACES = {topology.name: topology for topology in TOPOLOGIES}


def measure(name: str, batches: Iterable[int], seconds: float) -> list[dict[str, Any]]:
    """One record per batch size: the median milliseconds of each graph.

    Args:
        name: key of `PLACES`.
        batches: batch sizes.
        seconds: for all graphs together, per batch size.
    """
    graphs = _graphs(PLACES[name])
    shape = [size.dim_value for size in graphs[EXPORTED].graph.input[0].type.tensor_type.shape.dim][1:]
    records = []
    for batch in batches:
        values = np.random.default_rng(0).normal(0, 1, (batch, *shape)).astype(np.float32)
        times = interleaved_times(graphs, values, seconds)
        milliseconds = {title: float(np.median(runs)) * 1e3 for title, runs in times.items()}
        records.append({"network": name, "batch": batch, "milliseconds": milliseconds})
    return records


def _graphs(topology: Topology) -> dict[str, onnx.ModelProto]:
    logging.getLogger("tf2onnx").setLevel(logging.ERROR)
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph = exported(topology, channels=CHANNELS, pixels=PIXELS)
    graphs = {EXPORTED: graph, NODES: with_batchnorm_nodes(graph)}
    return graphs | {target: bnfold.fold(graph, target=target).model for target in TARGETS}


def render(records: list[dict[str, Any]]) -> str:
    """A Markdown table: how many times faster than the exported graph, by batch size."""
    batches = sorted({record["batch"] for record in records})
    titles = (NODES, *TARGETS)
    found = {(record["network"], record["batch"]): record["milliseconds"] for record in records}
    names = list(dict.fromkeys(record["network"] for record in records))
    rows: list[list[object]] = [
        [name, *(" / ".join(f"{_gain(found[name, batch], title):.2f}" for batch in batches) for title in titles)]
        for name in names
    ]
    lowest = [" / ".join(f"{min(_gain(found[n, b], t) for n in names):.2f}" for b in batches) for t in titles]
    heads = ["network", *(f"{title}, batch {' / '.join(map(str, batches))}" for title in titles)]
    return table(heads, [*rows, ["**lowest**", *lowest]])


def _gain(milliseconds: dict[str, float], title: str) -> float:
    return milliseconds[EXPORTED] / milliseconds[title]
