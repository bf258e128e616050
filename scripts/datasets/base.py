"""What a data set is, and the table of those that can be asked for by name."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Dataset:
    """Raw pixels and classes.

    Attributes:
        name: the data set's name.
        x_train: uint8 [n, height, width, 1], 0 to 255.
        y_train: uint8 [n].
        x_test: uint8 [m, height, width, 1].
        y_test: uint8 [m].
        labels: what a person calls each class.
        licence: how the data may be used.
        attribution: who made it and where it is described.
    """

    name: str
    x_train: NDArray[np.uint8]
    y_train: NDArray[np.uint8]
    x_test: NDArray[np.uint8]
    y_test: NDArray[np.uint8]
    labels: tuple[str, ...]
    licence: str
    attribution: str

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of one picture."""
        height, width, channels = self.x_train.shape[1:]
        return height, width, channels


def load(name: str, data_dir: Path | None = None) -> Dataset:
    """Load a data set by name.

    Args:
        name: `kmnist` or `digits`.
        data_dir: where KMNIST's files are, or are to be downloaded to; digits needs none.

    Raises:
        DatasetError: a file is missing and cannot be downloaded, or is damaged.
    """
    if name == "kmnist":
        from scripts.datasets import kmnist

        return kmnist.load(data_dir)
    from scripts.datasets import digits

    return digits.load()
