"""Draw the graph before and after the fold, from the two graphs of a bundle.

python scripts/draw_fold.py models/kmnist/1 docs/images/fold.png
"""

import argparse
import sys
from pathlib import Path

import matplotlib as mpl
import onnx

mpl.use("Agg")  # Chosen before pyplot is imported: a machine that draws may have no screen.
from matplotlib import pyplot as plt
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

AFFINE = {"BatchNormalization", "Mul", "Sub", "Div"}
COLOURS = {"affine": ("#fde0c5", "#c2410c"), "weights": ("#dbeafe", "#1d4ed8"), "other": ("#f3f4f6", "#6b7280")}


def describe(model: onnx.ModelProto) -> list[tuple[str, str, str]]:
    """Operator, node name and kind (affine, weights, other) of every node, in order."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    nodes = []
    previous = ""
    for node in model.graph.node:
        rank = max((len(shapes[name]) for name in node.input if name in shapes), default=0)
        bias = node.op_type == "Add" and previous == "MatMul"
        affine = node.op_type in AFFINE or (node.op_type == "Add" and not bias)
        kind = "affine" if affine else "weights" if bias or (rank >= 2 and node.op_type != "Reshape") else "other"
        nodes.append((node.op_type, node.name, kind))
        previous = node.op_type
    return nodes


def draw(columns: list[tuple[str, list[tuple[str, str, str]]]], path: Path) -> None:
    """One column a graph, from top to bottom; the affines and the layers with weights are coloured."""
    rows = max(len(nodes) for _, nodes in columns)
    figure, panel = plt.subplots(figsize=(4.6 * len(columns), 0.36 * rows + 0.6), layout="constrained")
    for number, (title, nodes) in enumerate(columns):
        column = 1.4 * number
        step = (rows - 1) / max(len(nodes) - 1, 1)
        panel.text(column, 1.1, f"{title}: {len(nodes)} operators", ha="center", fontsize=11, fontweight="bold")
        for row, (operator, name, kind) in enumerate(nodes):
            fill, line = COLOURS[kind]
            y = -row * step
            box = FancyBboxPatch((column - 0.4, y - 0.3), 0.8, 0.6, "round,pad=0,rounding_size=0.08", fc=fill, ec=line)
            panel.add_patch(box)
            panel.text(column, y, operator, ha="center", va="center", fontsize=8.5, color="#111827")
            panel.text(column + 0.42, y, name, ha="left", va="center", fontsize=6.5, color="#6b7280")
            if row:
                arrow = FancyArrowPatch((column, y + step - 0.3), (column, y + 0.3), arrowstyle="-|>", mutation_scale=7)
                arrow.set_color("#9ca3af")
                panel.add_patch(arrow)
    panel.set(xlim=(-0.5, 1.4 * len(columns) - 0.45), ylim=(-rows + 0.3, 1.7))
    panel.axis("off")
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; 0 done, 2 no such bundle."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("picture", type=Path)
    options = parser.parse_args(arguments)
    try:
        graphs = [(title, onnx.load(options.bundle / name)) for title, name in _GRAPHS]
    except OSError as error:
        print(f"draw_fold: {error}", file=sys.stderr)
        return 2
    draw([(title, describe(model)) for title, model in graphs], options.picture)
    return 0


_GRAPHS = (("as trained", "reference.onnx"), ("folded", "model.onnx"))

if __name__ == "__main__":
    sys.exit(main())
