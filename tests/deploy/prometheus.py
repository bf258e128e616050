"""A running Prometheus, asked over its HTTP API."""

import time
import urllib.parse
from collections.abc import Callable
from typing import Any

import pytest

from tests.support import fetch


class Prometheus:
    """One that listens at an address."""

    def __init__(self, url: str) -> None:
        self.url = url

    def ask(self, what: str, **parameters: str) -> Any:
        """The data of an answer; it must be a success."""
        answer = fetch(f"{self.url}/api/v1/{what}?{urllib.parse.urlencode(parameters)}")
        assert answer["status"] == "success"
        return answer["data"]

    def wait(self, query: str, enough: Callable[[float], bool]) -> None:
        """Until the first value of a query is enough."""
        end = time.monotonic() + 60
        result = None
        while time.monotonic() < end:
            try:
                result = self.ask("query", query=query)["result"]
            except OSError:  # not listening yet
                result = None
            if result and enough(float(result[0]["value"][1])):
                return
            time.sleep(0.3)
        pytest.fail(f"{query} did not become true: {result}")
