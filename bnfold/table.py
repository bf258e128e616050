"""Reports and certificates as text for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from bnfold.report import Entry, Report
from bnfold.verify import Certificate


def render(report: Report) -> str:
    """One row per affine of the input graph, then the operators before and after."""
    rows = [("LAYER", "STATUS", "INTO", "STAYS", "|MEAN|/SIGMA", "HOW"), *(_row(entry) for entry in report.entries)]
    before, after = report.operators_before, report.operators_after
    changed = [name for name in sorted({*before, *after}) if before.get(name, 0) != after.get(name, 0)]
    counts = [("OPERATOR", "BEFORE", "AFTER")]
    counts += [(name, str(before.get(name, 0)), str(after.get(name, 0))) for name in changed]
    counts.append(("all", str(sum(before.values())), str(sum(after.values()))))
    return "\n".join([*_columns(rows), "", *_columns(counts), *(f"note: {note}" for note in report.notes)])


def render_certificate(certificate: Certificate) -> str:
    """One line per measurement."""
    logits = certificate.max_abs_error_logits
    rows = [
        ("inputs", ", ".join(f"{count} {kind}" for kind, count in certificate.inputs.items())),
        ("batch sizes", ", ".join(map(str, certificate.batch_sizes))),
        ("largest error", f"{certificate.max_abs_error:.3g} ({certificate.max_rel_error:.3g} of the largest output)"),
        ("largest error of the logits", "no final Softmax" if logits is None else f"{logits:.3g} of the largest"),
        ("same winner", f"{certificate.argmax_agreement:.2%}"),
        ("smallest margin", f"{certificate.smallest_margin:.3g}"),
        ("conditioning |mean|/sigma", f"{certificate.conditioning:.3g}"),
        ("reference sha256", certificate.reference_sha256),
        ("folded sha256", certificate.folded_sha256),
        ("verdict", "the same function" if certificate.holds else f"NOT the same within {certificate.tolerance:g}"),
    ]
    return "\n".join(_columns(rows))


def _row(entry: Entry) -> tuple[str, ...]:
    return (
        entry.name,
        entry.status,
        ", ".join(entry.into) or "-",
        ", ".join(entry.residual) or "-",
        f"{entry.conditioning:.2g}" if entry.kind == "BatchNormalization" else "-",
        "; ".join(entry.rules) or "-",
    )


def _columns(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
