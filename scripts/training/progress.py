"""What a training tells while it runs: a bar on a terminal, one line an epoch elsewhere, and a history file."""

import csv
import sys
import time
from pathlib import Path
from typing import Any

import keras
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class HistoryFile(keras.callbacks.Callback):  # type: ignore[misc]
    """One line an epoch in a CSV file that is complete at any moment, whatever ends the run."""

    def __init__(self, path: Path) -> None:
        """Append to the file."""
        super().__init__()
        self._path = path

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Write the epoch's figures."""
        figures = {"epoch": epoch, **{name: float(value) for name, value in (logs or {}).items()}}
        new = not self._path.exists()
        with self._path.open("a", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(figures))
            if new:
                writer.writeheader()
            writer.writerow(figures)


class ProgressBar(keras.callbacks.Callback):  # type: ignore[misc]
    """Bar over all epochs with the time that is left, and the latest loss and accuracy."""

    def __init__(self, title: str) -> None:
        """Show the title before the bar."""
        super().__init__()
        self._title = title
        self._bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[metrics]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            disable=not sys.stderr.isatty(),
            console=None,
        )

    def on_train_begin(self, logs: Any = None) -> None:
        """Start the bar."""
        self._epochs = self.params["epochs"]
        self._task = self._bar.add_task(self._title, total=None, metrics="")
        self._bar.start()
        self._start = time.monotonic()
        self._first: int | None = None

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Count from the first epoch of this process: a resumed run starts later."""
        if self._first is None:
            self._first = epoch
        self._bar.update(self._task, total=self._epochs, completed=epoch)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Move the bar."""
        self._bar.update(self._task, advance=1 / (self.params.get("steps") or 1))

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Show the epoch's figures."""
        figures = "  ".join(f"{name} {value:.4f}" for name, value in (logs or {}).items())
        self._bar.update(self._task, completed=epoch + 1, metrics=figures)
        if self._bar.disable:
            done = epoch + 1 - (self._first or 0)
            left = (time.monotonic() - self._start) / done * (self._epochs - epoch - 1)
            print(f"{self._title}: epoch {epoch + 1}/{self._epochs}  {figures}  left {left / 60:.1f} min", flush=True)

    def on_train_end(self, logs: Any = None) -> None:
        """Close the bar."""
        self._bar.stop()
