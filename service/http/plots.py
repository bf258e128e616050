"""Small plots as inline SVG: one bar a channel, and a dot where the traffic is."""

from collections.abc import Sequence
from html import escape

import numpy as np

from service.protocol.tensors import Array

WIDTH, HEIGHT, MARGIN = 240, 72, 4


def bars(title: str, values: Array, live: Array | None = None, *, key: str = "") -> str:
    """A plot of one number a channel.

    Args:
        title: what a person who does not see it is told, without the range.
        values: [channels], the bars.
        live: [channels], the dots, nan where there is none; None if there never are any.
        key: by which a script finds the dots again.
    """
    low, high = min(0.0, float(values.min())), max(0.0, float(values.max()))
    if low == high:
        high = low + 1.0
    label = f"{title}: {len(values)} channels from {values.min():.3g} to {values.max():.3g}"
    y = _heights(values, low, high)
    zero = _heights(np.zeros(1), low, high)[0]
    path = "".join(f"M{x:.1f} {zero:.1f}V{end:.1f}" for x, end in zip(_places(len(values)), y, strict=True))
    stroke = max(0.6, 0.7 * (WIDTH - 2 * MARGIN) / len(values))
    parts = [
        f'<svg class="bars" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}"'
        f' data-low="{low!r}" data-high="{high!r}" data-key="{escape(key)}">',
        f'<path class="zero" d="M{MARGIN} {zero:.1f}H{WIDTH - MARGIN}"/>',
        f'<path class="trained" stroke-width="{min(stroke, 6):.2f}" d="{path}"/>',
    ]
    if live is not None:
        parts.append(f'<path class="live" d="{dots(live, low, high)}"/>')
    return "".join([*parts, "</svg>"])


def dots(values: Array, low: float, high: float) -> str:
    """Path data of a dot for every value that there is; what is off the plot stands at its edge."""
    if not len(values):
        return ""
    places, heights = _places(len(values)), _heights(np.clip(values, low, high), low, high)
    return "".join(
        f"M{x:.1f} {y:.1f}h0" for x, y, value in zip(places, heights, values, strict=True) if np.isfinite(value)
    )


def history(title: str, scores: Sequence[float], limits: Sequence[float | None]) -> str:
    """A line of scores over their limits, on a logarithmic scale, the oldest on the left."""
    if not scores:
        return ""
    known = [value for value in (*scores, *limits) if value]
    low, high = (np.log(edge(known)) for edge in (min, max)) if known else (0.0, 1.0)
    high = max(high, low + 1e-6)
    places = np.linspace(MARGIN, WIDTH - MARGIN, len(scores)) if len(scores) > 1 else np.array([WIDTH / 2])

    def line(values: Sequence[float | None]) -> str:
        points = [(x, value) for x, value in zip(places, values, strict=True) if value]
        ys = _heights(np.log([value for _, value in points]), low, high) if points else ()
        ends = [f"{x:.1f} {y:.1f}" for (x, _), y in zip(points, ys, strict=True)]
        return "M" + "L".join(ends) + "h0" if ends else ""  # so that one point alone is a dot

    return (
        f'<svg class="history" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">'
        f'<path class="limit" d="{line(limits)}"/><path class="score" d="{line(scores)}"/></svg>'
    )


def _places(count: int) -> Array:
    return MARGIN + (np.arange(count) + 0.5) * (WIDTH - 2 * MARGIN) / count


def _heights(values: Array, low: float, high: float) -> Array:
    return HEIGHT - MARGIN - (values - low) / (high - low) * (HEIGHT - 2 * MARGIN)
