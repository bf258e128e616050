"""Kuzushiji-MNIST: 70,000 cursive characters in ten classes (Clanuwat et al., arXiv:1812.01718)."""

import gzip
import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scripts.datasets.base import Dataset
from scripts.datasets.download import DatasetError, RemoteFile, ensure, sha256

LABELS = ("お o", "き ki", "す su", "つ tsu", "な na", "は ha", "ま ma", "や ya", "れ re", "を wo")
LICENCE = "CC BY-SA 4.0"
ATTRIBUTION = (
    '"KMNIST Dataset" (created by CODH), adapted from "Kuzushiji Dataset" (created by NIJL and others), '
    "doi:10.20676/00000341"
)
DEFAULT_DIR = Path.home() / ".cache" / "foldserve" / "kmnist"
MIRRORS = (
    "https://codh.rois.ac.jp/kmnist/dataset/kmnist/",
    "http://codh.rois.ac.jp/kmnist/dataset/kmnist/",
)
FILES = {
    part: RemoteFile(name, digest, size)
    for part, name, digest, size in (
        ("x_train", "train-images-idx3-ubyte.gz",
         "51467d22d8cc72929e2a028a0428f2086b092bb31cfb79c69cc0a90ce135fde4", 18165135),
        ("y_train", "train-labels-idx1-ubyte.gz",
         "e38f9ebcd0f3ebcdec7fc8eabdcdaef93bb0df8ea12bee65224341c8183d8e17", 29497),
        ("x_test", "t10k-images-idx3-ubyte.gz",
         "edd7a857845ad6bb1d0ba43fe7e794d164fe2dce499a1694695a792adfac43c5", 3041136),
        ("y_test", "t10k-labels-idx1-ubyte.gz",
         "20bb9a0ef54c7db3efc55a92eef5582c109615df22683c380526788f98e42a1c", 5120),
    )
}  # fmt: skip


def load(data_dir: Path | None = None) -> Dataset:
    """Read the official files, downloading what is missing.

    Raises:
        DatasetError: a file is missing and no mirror answers, or its digest is wrong.
    """
    if data_dir is not None and not data_dir.is_dir():
        raise DatasetError(f"--data-dir {data_dir}: no such folder")
    folder = data_dir or DEFAULT_DIR
    ensure(folder, list(FILES.values()), MIRRORS)
    arrays = {part: read_idx(folder / file.name) for part, file in FILES.items()}
    for part in ("x_train", "x_test"):
        arrays[part] = arrays[part][..., None]
    return Dataset("kmnist", **arrays, labels=LABELS, licence=LICENCE, attribution=ATTRIBUTION)


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Read a gzipped idx file of unsigned bytes (the format of MNIST).

    Raises:
        DatasetError: the file is not such a file, or ends early.
    """
    try:
        data = gzip.decompress(path.read_bytes())
        zeros, kind, rank = struct.unpack(">HBB", data[:4])
        shape = struct.unpack(f">{rank}I", data[4 : 4 + 4 * rank])
        if zeros != 0 or kind != 8:
            raise ValueError("no idx file of unsigned bytes")
        return np.frombuffer(data, np.uint8, offset=4 + 4 * rank).reshape(shape)
    except (OSError, EOFError, ValueError, struct.error) as error:
        raise DatasetError(f"{path}: not readable as a gzipped idx file: {error}") from error


__all__ = ["ATTRIBUTION", "FILES", "LABELS", "LICENCE", "load", "read_idx", "sha256"]
