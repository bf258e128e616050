"""Schemathesis against our own OpenAPI document: no server error, no status or type that is not documented."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, status_code_conformance

from tests.service.process import Process


@pytest.fixture(scope="module")
def api(repository: Path) -> Iterator[Any]:
    process = Process(repository, admin_keys="k").wait_ready()
    yield schemathesis.openapi.from_url(process.url + "/openapi.json")
    process.kill()


def test_every_route_keeps_to_its_document(api: Any) -> None:
    tried = 0
    for result in api.get_all_operations():
        operation = result.ok()

        @settings(
            max_examples=20,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy())
        def check(case: Any) -> None:
            nonlocal tried
            tried += 1
            case.call_and_validate(checks=[not_a_server_error, status_code_conformance, content_type_conformance])

        check()
    assert tried > 200
