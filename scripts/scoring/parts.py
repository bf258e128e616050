"""The table in parts: a part is complete or not there, so nothing is ever counted twice or half."""

import csv
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from scripts.scoring.sources import Source

PLAN = "plan.json"
HEAD = ("name", "class", "label", "probability")
Row = dict[str, Any]


class PartsError(Exception):
    """The folder holds something else."""


class Parts:
    """A folder with the parts that are done.

    Args:
        folder: made if it is not there.
        source: of the pictures.
        model: identity of the model that is asked.
        size: pictures in a part.

    Raises:
        PartsError: what the folder holds was made from other pictures, by another model, or in other parts.
    """

    def __init__(self, folder: Path, source: Source, model: str, size: int) -> None:
        self._folder, self._source, self._size = folder, source, size
        plan = {"pictures": len(source), "source": source.identity(), "model": model, "part": size}
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / PLAN
        if path.exists():
            found = json.loads(path.read_text(encoding="utf-8"))
            differs = [key for key, value in plan.items() if found.get(key) != value]
            if differs:
                raise PartsError(f"{folder} was begun with another {' and another '.join(differs)}; take a new folder")
        elif any(folder.iterdir()):
            raise PartsError(f"{folder} is not empty, and holds no scores")
        else:
            _write(path, [json.dumps(plan, indent=2)])

    def missing(self) -> list[range]:
        """The pictures of every part that is not done, by index."""
        total = len(self._source)
        ranges = (range(first, min(first + self._size, total)) for first in range(0, total, self._size))
        return [indices for indices in ranges if not self._path(indices).exists()]

    def add(self, indices: range, rows: Sequence[Row]) -> None:
        """Write a part that is complete."""
        named = [{"name": self._source.name(index)} | row for index, row in zip(indices, rows, strict=True)]
        _write(self._path(indices), (json.dumps(row, ensure_ascii=False) for row in named))

    def join(self, kind: str) -> Path:
        """Make one table of all parts, in the order of the pictures.

        Raises:
            PartsError: a part is missing, or pyarrow is.
        """
        if self.missing():
            raise PartsError(f"{self._folder}: {len(self.missing())} parts are missing")
        path = self._folder / f"scores.{kind}"
        scratch = path.with_suffix(".tmp")
        if kind == "csv":
            with scratch.open("w", encoding="utf-8", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(HEAD)
                writer.writerows([row[name] for name in HEAD] for row in self._rows())
        else:
            _write_parquet(scratch, self._rows())
        os.replace(scratch, path)
        return path

    def _rows(self) -> Iterator[Row]:
        for first in range(0, len(self._source), self._size):
            with self._path(range(first, first)).open(encoding="utf-8") as file:
                yield from map(json.loads, file)

    def _path(self, indices: range) -> Path:
        return self._folder / f"part-{indices.start:09d}.jsonl"


def _write(path: Path, lines: Iterable[str]) -> None:
    scratch = path.with_suffix(".tmp")
    with scratch.open("w", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in lines)
        file.flush()
        os.fsync(file.fileno())
    os.replace(scratch, path)


def _write_parquet(path: Path, rows: Iterable[Row]) -> None:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise PartsError("Parquet files need pyarrow: pip install 'foldserve[score]'") from error
    kept = [*HEAD, "probabilities"]
    table = pyarrow.Table.from_pylist([{name: row[name] for name in kept} for row in rows])
    parquet.write_table(table, path)
