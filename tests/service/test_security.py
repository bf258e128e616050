from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr
from starlette.testclient import TestClient

from service.app import create_app
from service.settings import Settings
from tests.service import bundles
from tests.service.conftest import png
from tests.service.test_infer import INFER, binary_body


@pytest.fixture(scope="module")
def guarded(repository: Path) -> Iterator[TestClient]:
    settings = Settings(models=repository, api_keys="alpha, beta", admin_keys="root")
    with TestClient(create_app(settings)) as client:
        yield client


def test_keys_come_apart_and_stay_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOLDSERVE_API_KEYS", "alpha, beta,")
    settings = Settings()
    assert settings.api_keys == (SecretStr("alpha"), SecretStr("beta"))
    assert "alpha" not in repr(settings)


@pytest.mark.parametrize("headers", [{}, {"X-API-Key": "gamma"}, {"Authorization": "Bearer alph"}, {"X-API-Key": "é"}])
def test_without_a_key_nothing_is_served(guarded: TestClient, headers: dict[str, str]) -> None:
    body, more = binary_body(bundles.pictures(1))
    raw = {k.encode(): v.encode() for k, v in headers.items()}
    for answer in (
        guarded.post(INFER, content=body, headers=raw | {k.encode(): v.encode() for k, v in more.items()}),
        guarded.post("/predict", content=png(bundles.pictures(1)), headers=raw),
        guarded.get("/v2", headers=raw),
        guarded.get("/docs", headers=raw),
    ):
        assert answer.status_code == 401
        assert "needs a key" in answer.json()["error"]
        assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    "headers", [{"X-API-Key": "alpha"}, {"Authorization": "Bearer beta"}, {"authorization": "bearer root"}]
)
def test_any_of_the_keys_will_do(guarded: TestClient, headers: dict[str, str]) -> None:
    body, more = binary_body(bundles.pictures(1))
    assert guarded.post(INFER, content=body, headers=headers | more).status_code == 200
    assert guarded.get("/v2", headers=headers).status_code == 200


def test_probes_and_scrapes_need_none(guarded: TestClient) -> None:
    for path in ("/v2/health/live", "/v2/health/ready", "/healthz", "/readyz", "/metrics"):
        assert guarded.get(path).status_code == 200


def test_only_an_admin_key_changes_what_is_served(guarded: TestClient, client: TestClient) -> None:
    path = "/v2/repository/models/tiny/load"
    assert guarded.post(path, headers={"X-API-Key": "alpha"}).status_code == 401
    assert guarded.post(path, headers={"X-API-Key": "root"}).status_code == 200
    for headers in ({}, {"X-API-Key": "root"}, {"X-API-Key": ""}):
        answer = client.post(path, headers=headers)  # no admin key is configured
        assert answer.status_code == 403
        assert "FOLDSERVE_ADMIN_KEYS" in answer.json()["error"]
