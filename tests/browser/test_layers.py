"""The page on the layers, in a real browser: nothing is forbidden or broken, and it follows the traffic."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.service import watched
from tests.service.test_infer import binary_body
from tests.support import serving

SCHEMES = ["light", "dark"]


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("FOLDSERVE_DRIFT_SHARE", "1")
    monkeypatch.setenv("FOLDSERVE_DRIFT_WINDOW", "64")
    watched.write(tmp_path)
    with serving(tmp_path) as address:
        yield address


def send(url: str, images: watched.Array) -> None:
    body, headers = binary_body(images)
    assert httpx2.post(f"{url}/v2/models/watched/infer", content=body, headers=headers).status_code == 200


def test_it_follows_the_traffic(browser: Any, url: str) -> None:
    page = browser.new_page()
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(f"{url}/batchnorm/watched")
    assert "too few" in page.inner_text(".verdict")
    send(url, watched.pictures(64, contrast=0.2))
    page.wait_for_selector('.verdict[data-grade="strong"]')
    page.wait_for_selector(".history .score", state="attached")
    assert page.inner_text('[data-score="bn_1"]') != "none yet"
    assert page.get_attribute('[data-key="bn_2/live_mean"] .live', "d").count("h0") == 6
    assert "64 pictures looked at" in page.inner_text("[data-summary]")
    assert problems == []


@pytest.mark.parametrize("scheme", SCHEMES)
def test_axe_finds_no_barrier(browser: Any, url: str, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed").Axe()
    send(url, watched.pictures(64, contrast=0.2))
    page = browser.new_page(bypass_csp=True, color_scheme=scheme, viewport={"width": 380, "height": 800})
    page.goto(f"{url}/batchnorm/watched")
    results = axe.run(page, options={"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]})
    assert results.response["passes"]
    assert {v["id"]: [n["html"] for n in v["nodes"]] for v in results.response["violations"]} == {}
    assert page.evaluate("document.documentElement.scrollWidth") <= 380
