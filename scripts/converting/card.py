"""The model card, rendered from the manifest: no figure is written by hand."""

from typing import Any

from bundle import Manifest


def render(manifest: Manifest) -> str:
    """Markdown in the layout of a Hugging Face model card."""
    parts = [
        _front_matter(manifest),
        f"# {manifest.name}, version {manifest.version}\n",
        _signature(manifest),
        _recalibration(manifest),
        _metrics(manifest),
        _fold(manifest),
        _certificate(manifest),
        _drift(manifest),
        _training(manifest),
        _data(manifest),
    ]
    return "\n".join(part for part in parts if part)


def _front_matter(manifest: Manifest) -> str:
    lines = [
        "---",
        "library_name: onnx",
        "pipeline_tag: image-classification",
        "tags: [foldserve, batch-normalization]",
    ]
    if manifest.data.get("licence"):
        lines.append(f"license: {manifest.data['licence'].lower().replace(' ', '-')}")
    return "\n".join([*lines, "---", ""])


def _signature(manifest: Manifest) -> str:
    rows = [
        (kind, f"`{tensor.name}`", tensor.datatype, str(list(tensor.shape)))
        for kind, tensors in (("input", manifest.inputs), ("output", manifest.outputs))
        for tensor in tensors
    ]
    text = _table(("", "name", "datatype", "shape"), rows)
    if manifest.labels:
        text += "\nClasses: " + ", ".join(f"{number} {label}" for number, label in enumerate(manifest.labels)) + ".\n"
    return text


def _recalibration(manifest: Manifest) -> str:
    made = manifest.recalibration
    if made is None:
        return ""
    rows: list[tuple[str, Any]] = [
        ("new images", f"{made.images:,}"),
        ("pseudo-count of the old statistics", f"{made.pseudo_count:g}"),
        ("mean entropy of the answers, before and after", "{:.3f}, {:.3f} nats".format(*made.entropy)),
        ("same class as before, new images", f"{made.agreement:.2%}"),
    ]
    if made.accuracy:
        rows.append(("accuracy on them, before and after", "{:.2%}, {:.2%}".format(*made.accuracy)))
    if made.source_agreement is not None:
        rows.append((f"same class as before, {made.source_images:,} old images", f"{made.source_agreement:.2%}"))
    if made.source_accuracy:
        rows.append(("accuracy on those, before and after", "{:.2%}, {:.2%}".format(*made.source_accuracy)))
    rows += [(f"guard: {guard.name}", ("" if guard.passed else "**refused**: ") + guard.text) for guard in made.guards]
    text = (
        f"The statistics of version {made.parent_version} (`{made.parent_sha256[:16]}…`), re-estimated on new, "
        "unlabelled images; the weights are the same. The images are not kept, and neither is the Keras network, "
        "which holds the old statistics.\n"
    )
    forced = "\nIt was forced: a guard rail had refused.\n" if made.forced else ""
    return "## Recalibration\n\n" + text + forced + "\n" + _table(("", ""), rows)


def _metrics(manifest: Manifest) -> str:
    if not manifest.metrics:
        return ""
    rows = [(name.replace("_", " "), f"{value:.6g}") for name, value in manifest.metrics.items()]
    return "## Results\n\nOf the folded graph in ONNX Runtime, on the test set:\n\n" + _table(("", ""), rows)


def _fold(manifest: Manifest) -> str:
    if not manifest.batchnorm:
        return ""
    rows = [
        (f"`{record.name}`", record.channels, record.status, "; ".join(record.rules), ", ".join(record.into))
        for record in manifest.batchnorm
    ]
    text = "## The fold\n\n" + _table(("layer", "channels", "", "rules", "absorbed by"), rows)
    before, after = (sum(manifest.operators.get(graph, {}).values()) for graph in ("reference", "folded"))
    return text + (f"\nOperators: {before} in `reference.onnx`, {after} in `model.onnx`.\n" if before else "")


def _certificate(manifest: Manifest) -> str:
    proof = manifest.certificate
    if proof is None:
        return ""
    rows: list[tuple[str, Any]] = [
        ("inputs tried", ", ".join(f"{count} {kind}" for kind, count in proof.inputs.items())),
        ("largest error against the float64 reference", f"{proof.max_abs_error:.2g}"),
        ("same class", f"{proof.argmax_agreement:.4%}"),
        ("smallest margin of the two largest probabilities", f"{proof.smallest_margin:.2g}"),
        ("largest distance of a mean from 0, in σ", f"{proof.conditioning:.3g}"),
        ("sha256 of the reference graph", f"`{proof.reference_sha256[:16]}…`"),
        ("sha256 of the folded graph", f"`{proof.folded_sha256[:16]}…`"),
    ]
    if manifest.keras_parity is not None:
        rows.insert(2, ("largest difference from Keras' `predict`", f"{manifest.keras_parity:.2g}"))
    if proof.max_abs_error_logits is not None:
        rows.insert(2, ("the same of the logits, relative to the largest one", f"{proof.max_abs_error_logits:.2g}"))
    return "## Certificate\n\n" + _table(("measured", ""), rows)


def _drift(manifest: Manifest) -> str:
    drift = manifest.drift
    if drift is None:
        return ""
    rows = [
        (size, f"{expected:.3g}", f"{limit:.3g}", f"{drift.measured[size]:.2%}" if size in drift.measured else "")
        for size, expected, limit in zip(drift.images, drift.expected, drift.limit, strict=True)
    ]
    head = ("images", "expected score", "limit", "false alarms on others")
    text = f"From {drift.held_out:,} held-out pictures; {drift.rate:.0%} of windows without drift exceed the limit.\n\n"
    return "## Drift\n\n" + text + _table(head, rows)


def _training(manifest: Manifest) -> str:
    runs: dict[str, dict[str, Any]] = {"this network": manifest.training.get("results", {})}
    runs |= manifest.training.get("compared_with", {})
    rows = [
        (
            name,
            run.get("recipe", ""),
            run.get("seed", ""),
            _percent(run["test_accuracy"]),
            _percent(run.get("val_accuracy")),
        )
        for name, run in runs.items()
        if run
    ]
    if not rows:
        return ""
    text = "## Training\n\n" + _table(("run", "recipe", "seed", "test accuracy", "validation accuracy"), rows)
    if "training/curves.png" in manifest.files:
        text += "\n![accuracy and loss](training/curves.png)\n\n![confusion matrix](training/confusion.png)\n"
    return text


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.2%}"


def _data(manifest: Manifest) -> str:
    if not manifest.data:
        return ""
    text = "## Data\n\n" + "\n".join(f"- {name}: {value}" for name, value in manifest.data.items()) + "\n"
    return text + "\nThe data set is not part of this bundle, except for the pictures in `golden.npz`.\n"


def _table(head: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines) + "\n"
