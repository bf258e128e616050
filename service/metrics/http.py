"""Counts of HTTP requests by method, route template and status; never by path, of which callers make up any number."""

from bisect import bisect_left

from service.metrics.ledger import Ledger, Numbers
from service.metrics.statistics import SECONDS

METHODS = ("GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH")


class HttpStatistics:
    """Counts requests; runs in the event loop."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._series: dict[tuple[str, str, int], Numbers] = {}

    def observe(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one request."""
        numbers = self._series.get((method, route, status))
        if numbers is None:
            name = method if method in METHODS else "other"
            numbers = self._ledger.series(f"http {name} {route} {status}", len(SECONDS) + 2)
            if name == method:
                self._series[method, route, status] = numbers
        numbers[bisect_left(SECONDS, seconds)] += 1
        numbers[-1] += seconds
