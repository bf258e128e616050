"""What several rooms' tests need."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def kmnist() -> Path:
    """The folder with KMNIST's official files; a test that needs them is skipped where they are not."""
    named = os.environ.get("FOLDSERVE_TEST_KMNIST")
    if not named:
        pytest.skip("FOLDSERVE_TEST_KMNIST names no folder with KMNIST's files")
    folder = Path(named)
    if not folder.is_dir():
        pytest.fail(f"FOLDSERVE_TEST_KMNIST={named}: no such folder")
    return folder


@pytest.fixture(scope="session")
def root() -> Path:
    """The root of the repository."""
    return Path(__file__).resolve().parent.parent
