import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from service.app import create_app
from service.settings import Settings
from tests.service import bundles
from tests.service.bundles import Array
from tests.service.process import Process


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting leaks in from the shell that runs the tests."""
    for name in list(os.environ):
        if name.startswith("FOLDSERVE_") and not name.startswith("FOLDSERVE_TEST_"):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model repository with versions 1 and 2 of `tiny`; nobody writes to it."""
    root = tmp_path_factory.mktemp("models")
    bundles.write(root, version=1)
    bundles.write(root, version=2)
    return root


@pytest.fixture(scope="session")
def asgi_client(repository: Path) -> Iterator[TestClient]:
    """The application on that repository, without a socket."""
    app = create_app(Settings(models=repository, runners=2))
    with TestClient(app, raise_server_exceptions=False) as test_client:
        yield test_client


@pytest.fixture(scope="session")
def client(asgi_client: TestClient) -> TestClient:
    """The same; some modules take `either_client` instead."""
    return asgi_client


@pytest.fixture(scope="session", params=["asgi", "socket"])
def either_client(request: pytest.FixtureRequest, repository: Path, asgi_client: TestClient) -> Iterator[Any]:
    """The application without a socket, and the process behind one: what is hot goes a way of its own in each."""
    if request.param == "asgi":
        yield asgi_client
        return
    server = Process(repository, runners=1).wait_ready()
    with httpx2.Client(verify=False, base_url=server.url) as connected:
        yield connected
    server.kill()


@pytest.fixture(scope="session")
def images() -> Array:
    return bundles.pictures(5)


@pytest.fixture(scope="session")
def expected(images: Array) -> Array:
    """What version 2, the newest, must answer for `images`, by the ONNX reference evaluator."""
    return bundles.truth(bundles.network(2), images)


@pytest.fixture
def start_server() -> Iterator[Callable[..., Process]]:
    """Starts `python -m service` as its own process; ends what is left of it."""
    started: list[Process] = []

    def start(models: Path, **settings: Any) -> Process:
        process = Process(models, **settings)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()


def png(array: Array, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.squeeze(array)).save(buffer, "PNG", **options)
    return buffer.getvalue()
