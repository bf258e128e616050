"""Reading and writing bundles: every byte accounted for, nothing ever half-written."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pydantic import ValidationError

from bundle.errors import BundleError
from bundle.manifest import SCHEMA_VERSION, Manifest

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Bundle:
    """A folder whose files were checked against its manifest.

    Attributes:
        folder: where it is.
        manifest: what it says.
        digest: sha256 of `manifest.json`, which names the sha256 of every other file: the bundle's identity.
    """

    folder: Path
    manifest: Manifest
    digest: str

    def path(self, name: str) -> Path:
        """The path of one of the manifest's files.

        Raises:
            BundleError: the bundle has no such file.
        """
        if name not in self.manifest.files:
            raise BundleError(f"{self.folder}: the bundle has no {name}")
        return self.folder / name


def open_bundle(folder: Path) -> Bundle:
    """Read a bundle and verify the digest of every file.

    Raises:
        BundleError: the manifest is missing, not readable or of an unknown schema; a file is missing or differs.
    """
    path = folder / MANIFEST
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise BundleError(f"{path}: not readable ({error.strerror}); a bundle's manifest is written last") from error
    try:
        manifest = Manifest.model_validate_json(raw)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"])) or "manifest"
        raise BundleError(f"{path}: {where}: {problem['msg']} (this version reads schema {SCHEMA_VERSION})") from error
    for name, digest in manifest.files.items():
        if not _is_inside(name):
            raise BundleError(f"{path}: files: {name!r} is not a path inside the bundle")
        try:
            found = _sha256(folder / name)
        except OSError as error:
            raise BundleError(f"{folder / name}: named by the manifest but not readable ({error.strerror})") from error
        if found != digest:
            raise BundleError(f"{folder / name}: sha256 is {found[:12]}…, the manifest says {digest[:12]}…")
    return Bundle(folder, manifest, hashlib.sha256(raw).hexdigest())


def write_bundle(folder: Path, files: Mapping[str, bytes], manifest: Manifest) -> Bundle:
    """Write a bundle beside its final place, the manifest last, then rename it into place.

    Args:
        folder: `models/<name>/<version>`; must not exist.
        files: contents by path in the bundle, without the manifest.
        manifest: its `files` is replaced by the digests of what is written.

    Returns:
        The bundle, read back and verified.

    Raises:
        BundleError: the folder exists already, or a path leaves the bundle.
    """
    if folder.exists():
        raise BundleError(f"{folder}: exists already; a version is never overwritten")
    for name in files:
        if not _is_inside(name) or name == MANIFEST:
            raise BundleError(f"{name!r} is not a path inside a bundle")
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in sorted(files.items())}
    complete = manifest.model_copy(update={"files": digests})
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        for name, data in files.items():
            target = scratch / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        (scratch / MANIFEST).write_text(complete.model_dump_json(indent=2) + "\n", encoding="utf-8")
        scratch.chmod(0o755)
        os.rename(scratch, folder)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    return open_bundle(folder)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and bool(path.parts)
