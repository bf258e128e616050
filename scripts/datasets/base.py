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
        x_train: uint8 [n, height, width, channels], 0 to 255; 1 channel or 3.
        y_train: uint8 [n].
        x_test: uint8 [m, height, width, channels].
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
        name: `kmnist`, `digits` or `folder`.
        data_dir: where KMNIST's files are, or are to be downloaded to; digits needs none; the folder itself.

    Raises:
        DatasetError: a file or folder is missing, cannot be downloaded, or is not what it should be.
    """
    if name == "kmnist":
        from scripts.datasets import kmnist

        return kmnist.load(data_dir)
    if name == "folder":
        from scripts.datasets import folder

        return folder.load(data_dir)
    from scripts.datasets import digits

    return digits.load()
