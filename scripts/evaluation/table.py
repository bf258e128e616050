"""Markdown tables."""

from collections.abc import Iterable, Sequence


def table(heads: Sequence[str], rows: Iterable[Sequence[object]], left: int = 1) -> str:
    """A Markdown table.

    Args:
        heads: titles of the columns.
        rows: one cell per column.
        left: how many columns, from the first, are flush left; the others are numbers.
    """
    marks = ["---" if column < left else "--:" for column in range(len(heads))]
    lines = [heads, marks, *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
