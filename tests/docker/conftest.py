"""The image, built once for all tests that run it."""

import uuid
from collections.abc import Iterator

import pytest

from tests.docker.engine import docker, need_engine
from tests.support import ROOT


@pytest.fixture(scope="session")
def image() -> Iterator[str]:
    """The tag of an image of this checkout; skips where no Docker engine answers."""
    need_engine()
    tag = f"foldserve-test:{uuid.uuid4().hex[:12]}"
    # A mirror of packages, where there is one, is passed on: a build argument without a value takes the environment's.
    mirror = ("--build-arg", "PIP_INDEX_URL", "--build-arg", "PIP_TRUSTED_HOST")
    docker("build", "--network", "host", "--tag", tag, *mirror, str(ROOT))
    yield tag
    docker("image", "rm", "--force", tag)
