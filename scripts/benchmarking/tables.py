"""The measurements as Markdown tables and as a plot. Ratios are taken within a round, then the median of the rounds."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from scripts.benchmarking.contest import WORKS, Cell, Contest


def spread(values: Iterable[float], digits: int = 2) -> str:
    """`1.62 (1.58–1.66)`: the median, the least and the largest."""
    listed = list(values)
    if len(listed) == 1:
        return f"{listed[0]:.{digits}f}"
    return f"{statistics.median(listed):.{digits}f} ({min(listed):.{digits}f}–{max(listed):.{digits}f})"


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; every column but the first two is aligned to the right."""
    lines = ["| " + " | ".join(header) + " |"]
    lines.append("|" + "|".join("---" if i < 2 else "--:" for i in range(len(header))) + "|")
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def throughput(contest: Contest, works: Sequence[str], rounds: int, alone: dict[int, list[float]]) -> str:
    """Images a second at the best number of connections."""
    rows = []
    for work in works:
        single = alone[WORKS[work]]
        rows.append([work, "ONNX Runtime alone", f"{statistics.median(single):,.0f}", "", "", ""])
        for contestant in contest.contestants:
            name = contestant.name
            ratios = [contest.peak(name, work, n) / contest.peak("floor", work, n) for n in range(rounds)]
            of_alone = [contest.peak(name, work, n) / single[n] for n in range(rounds)]
            cpu = statistics.median(cell.cpu_ms for cell in contest.select(name, work, 0))
            rows.append(
                [work, name, f"{contest.peak(name, work):,.0f}", spread(ratios), spread(of_alone), f"{cpu:.3f}"]
            )
    return markdown(["work", "server", "images/s", "÷ floor", "÷ ONNX Runtime alone", "server CPU ms/image"], rows)


def latency(contest: Contest, works: Sequence[str], connections: int) -> str:
    """Milliseconds with so many clients, one request after the other."""
    rows = []
    for work in works:
        base = contest.select("floor", work, 0, connections)
        for contestant in contest.contestants:
            cells = contest.select(contestant.name, work, 0, connections)
            ratios = [cell.figures.p50 / floor.figures.p50 for cell, floor in zip(cells, base, strict=True)]
            p50, p99 = ([getattr(cell.figures, name) for cell in cells] for name in ("p50", "p99"))
            rows.append([work, contestant.name, spread(p50), spread(p99), spread(ratios)])
    return markdown(["work", "server", "p50 ms", "p99 ms", "p50 ÷ floor"], rows)


def open_loop(contest: Contest, works: Sequence[str], rates: Sequence[float]) -> str:
    """Milliseconds from when a request is due, at fixed rates."""
    rows = []
    for rate in rates:
        for work in works:
            base = contest.select("floor", work, rate)
            for contestant in contest.contestants:
                cells = contest.select(contestant.name, work, rate)
                ratios = [cell.figures.p99 / floor.figures.p99 for cell, floor in zip(cells, base, strict=True)]
                p50, p99 = ([getattr(cell.figures, name) for cell in cells] for name in ("p50", "p99"))
                late = sum(cell.figures.late for cell in cells)
                rows.append([work, contestant.name, f"{rate:g}", spread(p50), spread(p99), spread(ratios), f"{late}"])
    return markdown(["work", "server", "requests/s", "p50 ms", "p99 ms", "p99 ÷ floor", "unanswered"], rows)


# By server, and by share of its own peak: the cells of the rounds.
Curve = dict[str, dict[float, list[Cell]]]


def curves(of_works: Mapping[str, Curve]) -> str:
    """Latency against load: share of the server's own peak in the open loop, requests a second, p50, p99."""
    rows = [
        [
            work, name, f"{share:.0%}", f"{statistics.median(cell.wanted for cell in cells):,.0f}",
            *(spread(getattr(cell.figures, quantile) for cell in cells) for quantile in ("p50", "p99")),
        ]
        for work, curve in of_works.items()
        for name, points in curve.items()
        for share, cells in points.items()
    ]  # fmt: skip
    return markdown(["work", "server", "of its own peak", "requests/s", "p50 ms", "p99 ms"], rows)


def plot(curve: Curve, file: Path, work: str) -> None:
    """The same as a picture: p50 and p99 over the requests a second."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for (name, points), colour in zip(curve.items(), ("tab:gray", "tab:blue", "tab:orange", "tab:green"), strict=False):
        rates = [statistics.median(cell.wanted for cell in cells) for cells in points.values()]
        for quantile, style, alpha in (("p99", "o-", 1.0), ("p50", "o--", 0.6)):
            line = [statistics.median(getattr(cell.figures, quantile) for cell in cells) for cells in points.values()]
            axes.plot(rates, line, style, color=colour, alpha=alpha, label=f"{name}, {quantile}")
    axes.set(xlabel="requests/s (open loop, Poisson arrivals)", ylabel="latency, ms", yscale="log", title=work)
    axes.grid(visible=True, which="both", alpha=0.3)
    axes.legend()
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=130)
    plt.close(figure)
