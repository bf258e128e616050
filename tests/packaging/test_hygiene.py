"""What must never be in the repository: addresses of registries, paths of a machine, data sets, endless files."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import ROOT, repository_files

MEGABYTE = 1_000_000
# Spelled so that this file does not contain what it looks for.
REGISTRIES = re.compile(
    r"(?:pypi|pythonhosted)\.(?:org)|(?:index|registry-1|hub)\.docker\.(?:io|com)|(?:ghcr|quay|gcr)\.(?:io)/|conda\.(?:anaconda)"
)
MACHINE_PATHS = re.compile(r"(?<![\w.~-])/(?:work|root|home|Users|tmp/w)/\w")
CREDENTIALS = re.compile(r"-----BEGIN (?:\w+ )*PRIVATE KEY|\b(?:gh[pousr]_|AKIA|hf_)[A-Za-z0-9]{16,}")


def texts() -> Iterator[tuple[Path, str]]:
    for path in repository_files():
        content = (ROOT / path).read_bytes()
        if b"\0" not in content:
            yield path, content.decode("utf-8")


@pytest.mark.parametrize("forbidden", [REGISTRIES, MACHINE_PATHS, CREDENTIALS], ids=["registry", "path", "credential"])
def test_no_text_names_what_is_not_for_others(forbidden: re.Pattern[str]) -> None:
    found = [
        f"{path}:{number}: {match.group()}"
        for path, text in texts()
        for number, line in enumerate(text.splitlines(), start=1)
        if (match := forbidden.search(line))
    ]

    assert found == []


def test_no_python_file_is_over_400_lines() -> None:
    lengths = {path: text.count("\n") for path, text in texts() if path.suffix == ".py"}

    assert {path: length for path, length in lengths.items() if length > 400} == {}


def test_the_repository_stays_small() -> None:
    sizes = {path: (ROOT / path).stat().st_size for path in repository_files()}
    bundles: dict[Path, int] = {}
    for path, size in sizes.items():
        if path.parts[0] == "models" and len(path.parts) > 3:
            bundle = Path(*path.parts[:3])
            bundles[bundle] = bundles.get(bundle, 0) + size
    others = {path: size for path, size in sizes.items() if path.parts[0] != "models"}

    assert {bundle: size for bundle, size in bundles.items() if size > 12 * MEGABYTE} == {}
    assert {path: size for path, size in others.items() if size > MEGABYTE} == {}


def test_no_lock_file_of_a_registry_and_no_data_set_is_kept() -> None:
    names = {path.name for path in repository_files()}

    assert names.isdisjoint({"uv.lock", "poetry.lock", "Pipfile.lock", "pdm.lock"})
    assert [
        name for name in sorted(names) if re.search(r"-(images|labels)-idx\d|\.npz?\.part$|^kmnist-.*\.npz$", name)
    ] == []
