"""Where the pictures come from: each has a name and the bytes of a picture file."""

import hashlib
import io
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pictures import SUFFIXES


class SourceError(Exception):
    """The source is not one of pictures."""


class Source(ABC):
    """A sequence of pictures in an order that does not change."""

    @abstractmethod
    def __len__(self) -> int:
        """How many."""

    @abstractmethod
    def name(self, index: int) -> str:
        """What a row is called."""

    @abstractmethod
    def picture(self, index: int) -> bytes:
        """The file.

        Raises:
            SourceError: it cannot be read.
        """

    @abstractmethod
    def identity(self) -> str:
        """Differs whenever rows that are done already might mean something else."""


class Folder(Source):
    """All picture files below a folder, by path."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._names = sorted(
            p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES
        )

    def __len__(self) -> int:
        return len(self._names)

    def name(self, index: int) -> str:
        """The path below the folder."""
        return self._names[index]

    def picture(self, index: int) -> bytes:
        """The file as it is."""
        try:
            return (self._folder / self._names[index]).read_bytes()
        except OSError as error:
            raise SourceError(f"{self._folder / self._names[index]}: {error.strerror}") from error

    def identity(self) -> str:
        """Of the names."""
        return _digest("\n".join(self._names).encode())


class Arrays(Source):
    """Pictures as numbers, uint8 [count, height, width] or [count, height, width, 1 or 3]."""

    def __init__(self, path: Path, images: NDArray[Any]) -> None:
        channels = images.shape[3] if images.ndim == 4 else 1
        if images.dtype != np.uint8 or images.ndim not in {3, 4} or channels not in {1, 3}:
            raise SourceError(
                f"{path}: images are {images.dtype} {list(images.shape)}; expected uint8 [count, height, width] or "
                "[count, height, width, 1 or 3]"
            )
        self._images = images.squeeze(-1) if images.ndim == 4 and channels == 1 else images

    def __len__(self) -> int:
        return len(self._images)

    def name(self, index: int) -> str:
        """The row's number, from 0."""
        return str(index)

    def picture(self, index: int) -> bytes:
        """As a PNG file."""
        file = io.BytesIO()
        Image.fromarray(self._images[index]).save(file, "PNG", compress_level=1)
        return file.getvalue()

    def identity(self) -> str:
        """Of the numbers."""
        return _digest(str(self._images.shape).encode() + np.ascontiguousarray(self._images).tobytes())


class Column(Source):
    """The column `image` of a Parquet file; the column `name`, if there is one, names the rows."""

    def __init__(self, path: Path) -> None:
        try:
            from pyarrow import ArrowException, parquet
        except ImportError as error:
            raise SourceError("Parquet files need pyarrow: pip install 'foldserve[score]'") from error
        try:
            table = parquet.read_table(path)
        except (OSError, ArrowException) as error:
            raise SourceError(f"{path}: not a Parquet file") from error
        if "image" not in table.column_names:
            raise SourceError(f"{path}: has no column `image`, only {', '.join(table.column_names)}")
        self._path, self._images = path, table.column("image")
        named = table.column("name").to_pylist() if "name" in table.column_names else range(len(table))
        self._names = [str(name) for name in named]

    def __len__(self) -> int:
        return len(self._names)

    def name(self, index: int) -> str:
        """The row's name or number."""
        return self._names[index]

    def picture(self, index: int) -> bytes:
        """The cell: bytes, or the struct of them that data sets' libraries write."""
        cell = self._images[index].as_py()
        content = cell.get("bytes") if isinstance(cell, dict) else cell
        if not isinstance(content, bytes):
            raise SourceError(f"{self._path}: row {index}: the column `image` holds no bytes")
        return content

    def identity(self) -> str:
        """Of the file."""
        with self._path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


def open_source(path: Path) -> Source:
    """The pictures of a folder or file.

    Raises:
        SourceError: there are none.
    """
    if path.is_dir():
        source: Source = Folder(path)
    elif not path.is_file():
        raise SourceError(f"{path}: no such file or folder")
    elif path.suffix == ".parquet":
        source = Column(path)
    else:
        source = Arrays(path, _load(path))
    if not len(source):
        raise SourceError(f"{path}: no pictures ({', '.join(SUFFIXES)})")
    return source


def _load(path: Path) -> NDArray[Any]:
    try:
        content = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise SourceError(f"{path}: neither .npz, .npy nor .parquet") from error
    if isinstance(content, np.ndarray):
        return content
    with content:
        for name in ("images", "image", "arr_0"):
            if name in content:
                images: NDArray[Any] = content[name]
                return images
        raise SourceError(f"{path}: has no array `images`, only {', '.join(content.files)}")


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
