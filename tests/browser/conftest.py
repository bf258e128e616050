"""A real Chromium, without a window, that looks at a real server."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser.visitor import Visitor
from tests.support import ROOT, served_bundle, serving

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
BROWSERS = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")


@pytest.fixture(scope="session")
def page_url() -> Iterator[str]:
    """A server with the networks in models/."""
    served_bundle()
    with serving(ROOT / "models") as url:
        yield url


# Of a module, not of the session: while it is there, its event loop runs in the thread of all tests.
@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """The browser; skips where there is none."""
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(f"no browser is installed (one of {', '.join(BROWSERS)}; on Debian: apt install chromium)")
    with playwright.sync_playwright() as driver:
        # Chromium's sandbox does not work for root, as whom containers run.
        started = driver.chromium.launch(executable_path=path, chromium_sandbox=os.geteuid() != 0)
        yield started
        started.close()


@pytest.fixture
def visit(browser: Any, page_url: str) -> Iterator[Callable[..., Visitor]]:
    """Opens the page, in a context with the options given; whoever saw a problem in the console fails at the end."""
    visitors: list[Visitor] = []

    def opened(url: str = page_url, **options: Any) -> Visitor:
        visitors.append(Visitor(browser.new_context(**options), url))
        return visitors[-1]

    yield opened
    for visitor in visitors:
        visitor.leave()
    assert [problem for visitor in visitors for problem in visitor.problems] == []


@pytest.fixture(scope="session")
def screenshots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where screenshots are kept: the folder that FOLDSERVE_TEST_SCREENSHOTS names, or a temporary one."""
    named = os.environ.get("FOLDSERVE_TEST_SCREENSHOTS")
    folder = Path(named) if named else tmp_path_factory.mktemp("screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    return folder
