"""The two pictures of docs/statistics.md."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np

from scripts.evidence.study import Condition

mpl.use("Agg")  # Chosen before pyplot is imported: a machine that measures may have no screen.
from matplotlib import pyplot as plt


def draw_scores(conditions: Sequence[Condition], clean: Condition, path: Path) -> None:
    """Score against the loss of accuracy, a line for each corruption through its severities."""
    assert clean.accuracy is not None
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    colours = plt.get_cmap("tab20")
    for number, name in enumerate(dict.fromkeys(c.name for c in conditions)):
        ours = [c for c in conditions if c.name == name]
        lost = [100 * (clean.accuracy - (c.accuracy or 0.0)) for c in ours]
        axes.plot([c.score for c in ours], lost, marker="o", markersize=4, label=name, color=colours(number))
    axes.axvline(clean.score, color="grey", linestyle=":", label="clean test pictures")
    axes.set(xscale="log", xlabel="score (nats a channel)", ylabel="points of accuracy lost")
    axes.legend(fontsize=8)
    _save(figure, path)


def draw_recovery(conditions: Sequence[Condition], amount: int, path: Path) -> None:
    """Accuracy before and after at severity 3."""
    third = [c for c in conditions if c.severity == 3]
    places = np.arange(len(third))
    figure, axes = plt.subplots(figsize=(8, 4), layout="constrained")
    before, after = [100 * (c.accuracy or 0.0) for c in third], [100 * c.recalibrated[amount] for c in third]
    axes.barh(places - 0.2, before, 0.4, label="before", color="#b0b7c3")
    axes.barh(places + 0.2, after, 0.4, label=f"after {amount} unlabelled pictures", color="#2f6f9f")
    axes.set(yticks=places, yticklabels=[c.name for c in third], xlabel="accuracy, %, severity 3", xlim=(0, 100))
    axes.invert_yaxis()
    figure.legend(fontsize=8, loc="outside upper center", ncols=2)
    _save(figure, path)


def _save(figure: plt.Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90, metadata={"Software": None})
    plt.close(figure)
