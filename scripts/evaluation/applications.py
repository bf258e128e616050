"""Folds one network of `NETWORKS` in every form and for every target, and compares it with float64."""

from collections import Counter
from typing import Any

import onnx

import bnfold
from scripts.evaluation.cost import cost
from scripts.evaluation.exactness import distance, error, truth
from scripts.evaluation.exactness import evaluate as computed
from scripts.evaluation.graphs import batchnorm_export, keras_export
from scripts.evaluation.networks import NETWORKS
from scripts.evaluation.operators import count
from scripts.evaluation.table import table
from scripts.evaluation.weights import NEGATIVE, pictures, randomise

TARGETS = ("ort-cpu", "fewest-ops")
FORMS = {"BatchNormalization nodes": batchnorm_export, "Keras export": keras_export}


def evaluate(name: str, *, seed: int = 0, negative: float = NEGATIVE, size: int | None = None) -> list[dict[str, Any]]:
    """One record per form and target.

    Args:
        name: key of `NETWORKS`.
        seed: of the weights.
        negative: share of the gammas that are negative.
        size: height and width of the pictures, if not the network's own.
    """
    network = NETWORKS[name]
    model = network.build(size)
    randomise(model, seed, negative, network.low, network.high)
    batch = pictures(model.inputs[0].shape[1:], network.low, network.high)
    expected = truth(lambda: network.build(size), model, batch)
    records = []
    for form, export in FORMS.items():
        graph = export(model)
        own = computed(graph, batch)
        same = {"network": name, "form": form, "largest_logit": float(abs(expected).max())}
        same |= {"error_unfolded": error(graph, batch, expected), "affines_before": count(graph).affines}
        for target in TARGETS:
            folded = bnfold.fold(graph, target=target)
            onnx.checker.check_model(folded.model, full_check=True)
            records.append({**same, "target": target, **_outcome(folded)})
            records[-1]["affines_after"] = count(folded.model).affines
            records[-1]["error_folded"] = error(folded.model, batch, expected)
            records[-1]["error_of_the_fold"] = distance(computed(folded.model, batch), own)
    first = cost(batchnorm_export(model), TARGETS[0])
    records[0] |= {"seconds": first.seconds, "memory": first.memory}
    return records


def _outcome(folded: bnfold.Folded) -> dict[str, Any]:
    """Counts, and how many layers left an operator behind, for which reason."""
    report = folded.report
    norms = [entry for entry in report.entries if entry.kind == "BatchNormalization"]
    stayed = Counter(entry.rules[-1].split(" (")[0] for entry in norms if entry.residual)
    return {
        "layers": len(norms),
        "stayed": dict(stayed),
        "operators_before": sum(report.operators_before.values()),
        "operators_after": sum(report.operators_after.values()),
    }


def render(records: list[dict[str, Any]]) -> str:
    """Two Markdown tables: what is left of each network, and how exact and how dear the fold is."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        groups.setdefault(record["network"], []).append(record)
    left = table(
        ["network", "BN layers", *(f"stay, {t}" for t in TARGETS), *(f"Mul, Add, {t}" for t in TARGETS), "why"],
        [_left(name, group) for name, group in groups.items()],
    )
    exact = table(
        ["network", "operators", *TARGETS, "error of the fold", "unfolded", *TARGETS, "fold [s]", "memory"],
        [_exact(name, group) for name, group in groups.items()],
    )
    return f"{left}\n\n{exact}"


def _left(name: str, group: list[dict[str, Any]]) -> list[object]:
    nodes, pairs = group[: len(TARGETS)], group[len(TARGETS) :]
    why = "; ".join(f"{times} × {reason}" for reason, times in nodes[0]["stayed"].items()) or "–"
    changes = [f"{r['affines_before']} → {r['affines_after']}" for r in pairs]
    return [name, nodes[0]["layers"], *(sum(r["stayed"].values()) for r in nodes), *changes, why]


def _exact(name: str, group: list[dict[str, Any]]) -> list[object]:
    nodes = group[: len(TARGETS)]
    memory = nodes[0]["memory"]
    errors = [max(r["error_of_the_fold"] for r in group), max(r["error_unfolded"] for r in group)]
    errors += [max(r["error_folded"] for r in group if r["target"] == t) for t in TARGETS]
    operators = [nodes[0]["operators_before"], *(r["operators_after"] for r in nodes)]
    times = [f"{nodes[0]['seconds']:.1f}", "–" if memory is None else f"{memory:.1f}x"]
    return [name, *operators, *(f"{e:.1e}" for e in errors), *times]
