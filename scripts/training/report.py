"""What a training leaves for people: curves, confusion matrix, per-class table."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray

mpl.use("Agg")  # Chosen before pyplot is imported: a machine that trains may have no screen.
from matplotlib import pyplot as plt


def read_history(path: Path) -> dict[str, list[float]]:
    """Columns of `history.csv` by name; a resumed run's repeated epochs count once, the later wins."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = {int(row["epoch"]): row for row in csv.DictReader(file)}
    names = [name for name in next(iter(rows.values()), {}) if name != "epoch"]
    return {name: [float(rows[epoch][name]) for epoch in sorted(rows)] for name in names}


def plot_curves(history: dict[str, list[float]], path: Path, title: str) -> None:
    """Accuracy and loss over the epochs, training and validation."""
    figure, panels = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    for panel, name in zip(panels, ("accuracy", "loss"), strict=True):
        for column, label in ((name, "training"), (f"val_{name}", "validation")):
            if column in history:
                values = history[column]
                panel.plot(range(1, len(values) + 1), values, label=label)
        panel.set(xlabel="epoch", title=name)
        panel.grid(alpha=0.3)
        panel.legend(frameon=False)
    figure.suptitle(title)
    _save(figure, path)


def confusion(classes: NDArray[Any], answers: NDArray[Any], count: int) -> NDArray[np.int64]:
    """How often class i was taken for class j: int64 [count, count]."""
    table = np.zeros((count, count), np.int64)
    np.add.at(table, (classes.astype(int), answers.astype(int)), 1)
    return table


def plot_confusion(table: NDArray[np.int64], labels: Sequence[str], path: Path, title: str) -> None:
    """The confusion matrix, with the errors coloured and the diagonal left plain."""
    names = [label.split()[-1] for label in labels]
    errors = np.where(np.eye(len(names), dtype=bool), 0, table)
    figure, panel = plt.subplots(figsize=(6.2, 6), layout="constrained")
    panel.imshow(errors, cmap="Oranges")
    for (row, column), value in np.ndenumerate(table):
        if value:
            bold = "bold" if row == column else "normal"
            panel.text(column, row, str(value), ha="center", va="center", fontsize=8, fontweight=bold)
    panel.set(xticks=range(len(names)), yticks=range(len(names)), xlabel="answer", ylabel="truth", title=title)
    panel.set_xticklabels(names)
    panel.set_yticklabels(names)
    _save(figure, path)


def write_classes(table: NDArray[np.int64], labels: Sequence[str], path: Path) -> None:
    """Precision, recall and F1 of every class, as CSV."""
    hits = np.diag(table).astype(float)
    precision = hits / np.maximum(table.sum(0), 1)
    recall = hits / np.maximum(table.sum(1), 1)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["class", "label", "pictures", "precision", "recall", "f1"])
        for index, label in enumerate(labels):
            figures = [f"{value[index]:.4f}" for value in (precision, recall, f1)]
            writer.writerow([index, label, int(table.sum(1)[index]), *figures])


def _save(figure: Any, path: Path) -> None:
    """Without the date that matplotlib would write: the same run gives the same bytes."""
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)
