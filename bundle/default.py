"""Which version of a model answers when none is named: `<model>/default.json`, beside the versions.

The file holds the versions that were promoted, the last one last. Without it, or when none of them is there any more,
the newest version is the default that is no proposal: a recalibrated version is one until somebody promotes it. So a
repository that knows nothing of promotion has its newest version as the default, and rolling back undoes a promotion
exactly. The file is replaced as a whole: whoever reads it sees the old or the new one.
"""

import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from bundle.errors import BundleError
from bundle.files import MANIFEST

FILE = "default.json"


def promotions(model: Path) -> tuple[int, ...]:
    """The versions of a model that were promoted, the last one last; none where there is no such file.

    Args:
        model: the folder `<repository>/<name>`.

    Raises:
        BundleError: the file is not as `promote` writes it.
    """
    path = model / FILE
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ()
    except (OSError, UnicodeDecodeError) as error:
        raise BundleError(f"{path}: not readable: {error}") from error
    try:
        found = json.loads(text)["promoted"]
    except (ValueError, KeyError, TypeError):
        found = None
    if not isinstance(found, list) or not all(type(version) is int and version > 0 for version in found):
        raise BundleError(f'{path}: expected {{"promoted": [version, …]}}')
    return tuple(found)


def promote(model: Path, version: int) -> None:
    """Make a version the default.

    Raises:
        BundleError: there is no such version, or the file is damaged.
        OSError: the folder cannot be written.
    """
    if not (model / str(version) / MANIFEST).is_file():
        raise BundleError(f"{model / str(version)}: no bundle, so it cannot be promoted")
    _write(model, (*(v for v in promotions(model) if v != version), version))


def roll_back(model: Path) -> int:
    """Undo the last promotion.

    Returns:
        The version that is not promoted any more.

    Raises:
        BundleError: none was promoted, or the file is damaged.
        OSError: the folder cannot be written.
    """
    history = promotions(model)
    if not history:
        raise BundleError(f"{model}: no version was promoted, so there is nothing to roll back")
    _write(model, history[:-1])
    return history[-1]


def forget(model: Path, version: int) -> None:
    """Take a version out of the promotions, so that another one that comes under its number is none.

    Raises:
        BundleError: the file is damaged.
        OSError: the folder cannot be written.
    """
    history = promotions(model)
    if version in history:
        _write(model, tuple(v for v in history if v != version))


def preference(model: Path, versions: Iterable[int]) -> list[int]:
    """The versions in the order in which they are wanted as the default.

    What was promoted, the last one first; then the others, newest first; proposals at the end, newest first.

    Raises:
        BundleError: the file is damaged.
    """
    left = sorted(versions, reverse=True)
    promoted = [version for version in reversed(promotions(model)) if version in left]
    others = [version for version in left if version not in promoted]
    return promoted + sorted(others, key=lambda version: is_proposal(model / str(version)))


def is_proposal(folder: Path) -> bool:
    """Whether a bundle is a recalibrated one; what cannot be read is none."""
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(manifest, dict) and manifest.get("recalibration") is not None


def _write(model: Path, history: tuple[int, ...]) -> None:
    """Replace the file, or remove it where nothing is promoted."""
    if not history:
        (model / FILE).unlink(missing_ok=True)
        return
    descriptor, name = tempfile.mkstemp(dir=model, prefix=f".{FILE}.")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(json.dumps({"promoted": list(history)}) + "\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(model / FILE)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
