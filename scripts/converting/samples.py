"""Real inputs for the proof, the golden set and the metrics."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scripts.converting.trace import ExportError
from scripts.datasets import load


@dataclass(frozen=True)
class Samples:
    """Pictures that the network was made for.

    Attributes:
        images: [n, …] as the network takes them; None if there are none.
        classes: [n] the right classes; None if unknown.
        labels: names of the classes; empty if unknown.
        data: name, licence and attribution of the data set.
        held_out: [m, …] pictures like those of the training that the network was not trained on; None if unknown.
    """

    images: NDArray[Any] | None = None
    classes: NDArray[Any] | None = None
    labels: tuple[str, ...] = ()
    data: dict[str, str] | None = None
    held_out: NDArray[Any] | None = None


def collect(dataset: str | None, data_dir: Path | None, file: Path | None, labels: str | None, run: Path) -> Samples:
    """Take the samples from a file, a data set by name, or the data set that the run's `config.json` names.

    Raises:
        ExportError: the file is not readable or lacks `images`.
        DatasetError: the data set cannot be had.
    """
    names = tuple(labels.split(",")) if labels else ()
    if file:
        return _read(file, names)
    config = _config(run)
    dataset = dataset or config.get("dataset")
    if dataset in (None, "none"):
        return Samples(labels=names)
    found = load(str(dataset), data_dir)
    about = {"name": found.name, "licence": found.licence, "attribution": found.attribution}
    split = config.get("validation_split", 0.0) if config.get("dataset") == dataset else 0.0
    held_out = found.x_train[len(found.x_train) - int(len(found.x_train) * split) :]  # as training leaves it out
    return Samples(found.x_test, found.y_test, names or found.labels, about, held_out if len(held_out) else None)


def _config(run: Path) -> dict[str, Any]:
    """The configuration of the training run beside the network; in a bundle it is in `training/`."""
    for path in (run / "config.json", run / "training" / "config.json"):
        if path.is_file():
            config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            return config
    return {}


def _read(file: Path, names: tuple[str, ...]) -> Samples:
    try:
        with np.load(file, allow_pickle=False) as arrays:
            if "images" not in arrays:
                raise ExportError(f"--samples {file}: expected an array `images`, found {', '.join(arrays) or 'none'}")
            return Samples(arrays["images"], arrays.get("labels"), names, held_out=arrays.get("held_out"))
    except (OSError, ValueError) as error:
        raise ExportError(f"--samples {file}: not readable as .npz: {error}") from error
