"""Your own pictures: a folder with one subfolder for each class, the classes named as the subfolders are.

    pictures/cat/1.jpg, pictures/cat/2.png, …, pictures/dog/1.jpg, …

Every fifth picture of each class is for testing. Which ones these are, and the order, follow from the names of the
files alone: the same folder is the same data set on every machine.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from scripts.datasets.base import Dataset
from scripts.datasets.download import DatasetError

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")
SMALLEST, LARGEST = 10, 64  # pixels a side; the reference network has nothing left of fewer
FEWEST = 5  # pictures of a class, so that one of them is for testing
MOST_CLASSES = 256  # classes are stored as uint8


def load(folder: Path | None) -> Dataset:
    """Read every picture below the folder, in colour.

    Pictures that all have one size, of 10 to 64 pixels a side, are taken as they are. Others are fitted into 64x64:
    the whole picture, not stretched, with a margin of the colour of its border. Transparency becomes black or white,
    whichever its ink stands out from. All that is what a server does with the pictures that it is sent
    (`service.images.decode`), so the network is trained on what it will be shown.

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
    with _open(path) as image:
        turned = image.getexif().get(0x0112, 1) >= 5  # the EXIF orientations that lie on their side
        return (image.height, image.width) if turned else image.size


def _arrays(entries: list[tuple[Path, int]], size: tuple[int, int]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    pictures = np.empty((len(entries), size[1], size[0], 3), np.uint8)
    for row, (path, _) in zip(pictures, entries, strict=True):
        row[:] = _read(path, size)
    return pictures, np.array([number for _, number in entries], np.uint8)


def _read(path: Path, size: tuple[int, int]) -> NDArray[np.uint8]:
    with _open(path) as image:
        upright = _opaque(ImageOps.exif_transpose(image))
    if upright.size != size:
        pixels = np.asarray(upright)
        border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
        ground = tuple(int(value) for value in np.median(border, axis=0))
        upright = ImageOps.pad(upright, size, Image.Resampling.BILINEAR, color=ground)
    return np.asarray(upright, np.uint8)


def _opaque(image: Image.Image) -> Image.Image:
    """In colour, without transparency."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    rgba = image.convert("RGBA")
    pixels = np.asarray(rgba, np.float64)
    alpha = pixels[..., 3]
    ink = float((pixels[..., :3].mean(axis=-1) * alpha).sum() / max(alpha.sum(), 1.0))
    ground = Image.new("RGBA", rgba.size, (0, 0, 0, 255) if ink > 127 else (255, 255, 255, 255))
    return Image.alpha_composite(ground, rgba).convert("RGB")


@contextmanager
def _open(path: Path) -> Iterator[Image.Image]:
    """The picture, for as long as the file is open; whatever is wrong with it names the file."""
    try:
        with Image.open(path) as image:
            if image.mode.startswith(("I", "F")):
                raise ValueError(f"more than 8 bits a channel ({image.mode}); save it with 8")
            yield image
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DatasetError(f"{path}: not readable as a picture: {error}") from error
