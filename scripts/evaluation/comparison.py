"""What each tool leaves of the batch normalisation of small networks, in both forms of the graph."""

import importlib.metadata
import importlib.util
from typing import Any

import keras
import numpy as np
import onnx

from scripts.evaluation.graphs import batchnorm_export, keras_export
from scripts.evaluation.runtime import session
from scripts.evaluation.table import table
from scripts.evaluation.tools import TOOLS, Tool
from scripts.evaluation.topologies import TOPOLOGIES, without_batchnorm
from scripts.evaluation.weights import randomise

FORMS = {"Keras export": keras_export, "BatchNormalization nodes": batchnorm_export}
WRONG = 1e-3
"""Relative error above which a result is another function, not a rounded one."""


def compare(name: str) -> list[dict[str, Any]]:
    """One record per form and installed tool.

    Args:
        name: key of `TOPOLOGIES`.
    """
    topology = TOPOLOGIES[name]
    model = topology.build()
    twin = without_batchnorm(model)
    randomise(model, negative=topology.negative)
    randomise(twin)
    records = []
    for form, export in FORMS.items():
        graph, plain = export(model), export(twin)
        for title, tool in TOOLS.items():
            if tool.installed:
                found = {"network": name, "form": form, "tool": title, "minimum": topology.minimum}
                records.append(found | _outcome(tool, graph, plain, model))
    return records


def _outcome(tool: Tool, graph: onnx.ModelProto, plain: onnx.ModelProto, model: keras.Model) -> dict[str, Any]:
    """Residual operators, and whether the result is still the same function (None where it cannot be run)."""
    same = None
    try:
        if tool.optimise is not None:
            given, graph, plain = graph, tool.optimise(graph), tool.optimise(plain)
            same = _same(given, graph, model)
        return {"residual": tool.operators(graph).beyond(tool.operators(plain)), "same": same}
    except Exception as error:  # A tool may fail in any way of its own; that is a result.
        return {"residual": None, "same": False, "error": str(error)[:200]}


def _same(given: onnx.ModelProto, made: onnx.ModelProto, model: keras.Model) -> bool:
    batch = np.random.default_rng(2).normal(0, 1, (2, *model.inputs[0].shape[1:])).astype(np.float32)
    want, got = (session(graph).run(None, {given.graph.input[0].name: batch})[0] for graph in (given, made))
    return bool(np.abs(want - got).max() <= WRONG * np.abs(want).max())


def render(records: list[dict[str, Any]]) -> str:
    """A Markdown table: residual operators in the Keras form / with BatchNormalization nodes."""
    titles = list(dict.fromkeys(record["tool"] for record in records))
    cells = {(record["network"], record["tool"], record["form"]): record for record in records}
    names = list(dict.fromkeys(record["network"] for record in records))
    rows: list[list[object]] = [
        [name, TOPOLOGIES[name].minimum, *(" / ".join(_cell(cells[name, t, f]) for f in FORMS) for t in titles)]
        for name in names
    ]
    reached = [
        " / ".join(str(sum(_reached(cells[name, title, form]) for name in names)) for form in FORMS) for title in titles
    ]
    rows.append([f"**at the minimum, of {len(names)}**", "", *reached])
    missing = sorted({tool.package for tool in TOOLS.values() if not tool.installed})
    return "\n".join(
        [
            table(["network", "minimum", *titles], rows),
            "",
            "Versions: " + ", ".join(_versions()) + ".",
            *([f"Not installed: {', '.join(missing)}. To add: pip install {' '.join(missing)}"] if missing else []),
        ]
    )


def _cell(record: dict[str, Any]) -> str:
    if record["residual"] is None:
        return "fails"
    return str(record["residual"]) + ("" if record["same"] in (True, None) else " wrong")


def _reached(record: dict[str, Any]) -> bool:
    return record["residual"] is not None and record["residual"] <= record["minimum"] and record["same"] is not False


def _versions() -> list[str]:
    packages = ("keras", "tf2onnx", *sorted({tool.package for tool in TOOLS.values() if tool.package != "bnfold"}))
    return [f"{name} {importlib.metadata.version(name)}" for name in packages if importlib.util.find_spec(name)]
