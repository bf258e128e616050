"""Downloads that end with the right bytes or with a message that says what to do."""

import hashlib
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


class DatasetError(Exception):
    """A data set cannot be had, or is not what it should be."""


@dataclass(frozen=True)
class RemoteFile:
    """A file that every mirror offers under the same name."""

    name: str
    sha256: str
    size: int


def sha256(path: Path) -> str:
    """Hexadecimal digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def ensure(folder: Path, files: Sequence[RemoteFile], mirrors: Sequence[str], timeout: float = 20.0) -> None:
    """See to it that every file is in the folder, with its digest.

    Args:
        folder: where the files are or are to be.
        files: what is wanted.
        mirrors: addresses that end with a slash, tried in order.
        timeout: seconds to wait for a mirror to answer.

    Raises:
        DatasetError: a file is damaged, or is missing and no mirror gave it.
    """
    for file in files:
        path = folder / file.name
        if not path.exists():
            _download(path, file, mirrors, timeout)
        elif sha256(path) != file.sha256:
            raise DatasetError(f"{path}: sha256 differs from {file.sha256[:12]}…; delete the file and try again")


def _download(path: Path, file: RemoteFile, mirrors: Sequence[str], timeout: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    reasons = []
    for mirror in mirrors:
        try:
            _fetch(mirror + file.name, part, file.size, timeout)
        except (urllib.error.URLError, OSError) as error:
            reasons.append(f"  {mirror}: {getattr(error, 'reason', None) or error}")
            continue
        if sha256(part) == file.sha256:
            os.replace(part, path)
            return
        part.unlink()
        reasons.append(f"  {mirror}: the file's sha256 is not {file.sha256[:12]}…")
    raise DatasetError(
        f"{file.name}: no mirror gave it:\n" + "\n".join(reasons) + "\n"
        "What to do: try again later (a partial download is resumed), or get the file elsewhere and name its "
        "folder with --data-dir, or try everything out with --dataset digits, which needs no download."
    )


def _fetch(url: str, part: Path, size: int, timeout: float) -> None:
    """Fetch into a partial file, going on where an earlier try ended."""
    have = part.stat().st_size if part.exists() else 0
    if have > size:
        part.unlink()
        have = 0
    if have == size:
        return
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    with urllib.request.urlopen(request, timeout=timeout) as answer:
        resumed = answer.status == 206
        done = have if resumed else 0
        with part.open("ab" if resumed else "wb") as out:
            while block := answer.read(1 << 16):
                out.write(block)
                done += len(block)
                _show(part.stem, done, size)
    if done < size:
        raise OSError(f"ended after {done:,} of {size:,} bytes")


def _show(name: str, done: int, size: int) -> None:
    if sys.stderr.isatty():
        end = "\n" if done >= size else ""
        print(f"\r{name}: {100 * done // size:3d} % of {size / 1e6:.1f} MB", end=end, file=sys.stderr, flush=True)
