"""Your own pictures: a folder with one subfolder for each class, the classes named as the subfolders are.

    pictures/cat/1.jpg, pictures/cat/2.png, …, pictures/dog/1.jpg, …

Every fifth picture of each class is for testing. Which ones these are, and the order, follow from the names of the
files alone: the same folder is the same data set on every machine.
"""

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pictures import FORMATS, SUFFIXES, Layout, PictureError, decode
from scripts.datasets.base import Dataset
from scripts.datasets.download import DatasetError

SMALLEST, LARGEST = 10, 64  # pixels a side; the reference network has nothing left of fewer
FEWEST = 5  # pictures of a class, so that one of them is for testing
MOST_CLASSES = 256  # classes are stored as uint8
MOST_PIXELS = 2**27  # of a picture file, before it is fitted in


def load(folder: Path | None) -> Dataset:
    """Read every picture below the folder, in colour.

    Pictures that all have one size, of 10 to 64 pixels a side, are taken as they are. Others are fitted into 64x64:
    the whole picture, not stretched, with a margin of the colour of its border. It is what a server does with the
    pictures that it is sent (`pictures.decode`), so the network is trained on what it will be shown.

    Args:
        folder: with one subfolder for each class; files of other kinds and hidden folders are passed over.

    Raises:
        DatasetError: no such folder, fewer than two classes, a class with fewer than five pictures, or a file that is
            not the picture that its name says.
    """
    if folder is None or not folder.is_dir():
        given = "is needed" if folder is None else f"{folder}: no such folder"
        raise DatasetError(f"--data-dir {given}; expected a folder with one subfolder of pictures for each class")
    files = _files(folder)
    sizes = {_size(path) for paths in files.values() for path in paths}
    (size,) = sizes if len(sizes) == 1 else ((LARGEST, LARGEST),)
    if not SMALLEST <= min(size) <= max(size) <= LARGEST:
        size = (LARGEST, LARGEST)
    test = [(path, number) for number, paths in enumerate(files.values()) for path in paths[::FEWEST]]
    held = {path for path, _ in test}
    train = [(path, number) for number, paths in enumerate(files.values()) for path in paths if path not in held]
    # Mixed: the validation split is the end of the training set.
    train.sort(key=lambda entry: _digest(folder, entry[0]))
    (x_train, y_train), (x_test, y_test) = _arrays(train, size), _arrays(test, size)
    return Dataset(
        folder.resolve().name, x_train, y_train, x_test, y_test, labels=tuple(files),
        licence="unknown", attribution="a folder of pictures, one subfolder for each class",
    )  # fmt: skip


def _files(folder: Path) -> dict[str, list[Path]]:
    """The pictures of every class, in an order that has nothing to do with their names' order."""
    classes = sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not 2 <= len(classes) <= MOST_CLASSES:
        raise DatasetError(
            f"--data-dir {folder}: {len(classes)} subfolders; expected one for each class, 2 to {MOST_CLASSES}"
        )
    found = {}
    for entry in classes:
        paths = [path for path in entry.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file()]
        if len(paths) < FEWEST:
            raise DatasetError(
                f"--data-dir {entry}: {len(paths)} pictures; expected at least {FEWEST} ({', '.join(SUFFIXES)})"
            )
        found[entry.name] = sorted(paths, key=lambda path: _digest(folder, path))
    return found


def _digest(folder: Path, path: Path) -> bytes:
    return hashlib.sha256(path.relative_to(folder).as_posix().encode()).digest()


def _size(path: Path) -> tuple[int, int]:
    """Width and height of the upright picture, without decoding it."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            turned = image.getexif().get(0x0112, 1) >= 5  # the EXIF orientations that lie on their side
            return (image.height, image.width) if turned else image.size
    except (OSError, ValueError, SyntaxError) as error:
        raise DatasetError(f"{path}: not readable as a picture: {error}") from error


def _arrays(entries: list[tuple[Path, int]], size: tuple[int, int]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    layout = Layout(size[1], size[0], 3, channels_last=True)
    pictures = np.empty((len(entries), size[1], size[0], 3), np.uint8)
    for row, (path, _) in zip(pictures, entries, strict=True):
        try:
            row[:] = decode(path.read_bytes(), layout, MOST_PIXELS)[0][0]
        except PictureError as error:
            raise DatasetError(f"{path}: not readable as a picture: {error}") from error
    return pictures, np.array([number for _, number in entries], np.uint8)
