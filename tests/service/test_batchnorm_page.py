"""The page on the layers: complete without a script, nothing from elsewhere, the live values where they belong."""

import re
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from starlette.testclient import TestClient

from service.app import create_app
from service.http.plots import HEIGHT, MARGIN, WIDTH, bars, dots, history
from service.settings import Settings
from tests.service import bundles, watched
from tests.service.test_infer import binary_body

POINT = re.compile(r"M([\d.]+) ([\d.]+)(?:h0|V([\d.]+))")


class Page(HTMLParser):
    """The attributes of all elements, by tag, the text, and whether every element was ended."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attributes)))
        if tag not in ("meta", "link", "path", "input"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        if tag in self.open:
            while self.open.pop() != tag:
                pass

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def client(tmp_path: Path) -> Iterator[TestClient]:
    watched.write(tmp_path)
    bundles.write(tmp_path)
    with TestClient(create_app(Settings(models=tmp_path, runners=1, drift_share=1, drift_window=64))) as client:
        yield client


def test_everything_is_there_without_a_script(client: TestClient) -> None:
    answer = client.get("/batchnorm/watched")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    page = Page(answer.text)
    assert page.open == []
    for layer, into in (("bn_1", "dense"), ("bn_2", "logits")):
        assert layer in page.text
        assert into in page.text
    labels = [
        attributes["aria-label"] or "" for tag, attributes in page.found if tag == "svg" and "aria-label" in attributes
    ]
    values = watched.parameters(0)
    for layer, channels in watched.CHANNELS.items():
        variance = values[f"{layer}/moving_variance"]
        expected = (
            f"σ², the moving variance of {layer}: {channels} channels from {variance.min():.3g} to {variance.max():.3g}"
        )
        assert expected in labels
    assert "0 images are too few for a verdict" in page.text
    assert "1 of them never changed in training" in page.text


def test_nothing_comes_from_elsewhere(client: TestClient) -> None:
    answer = client.get("/batchnorm/watched")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe-inline" not in policy
    page = Page(answer.text)
    addresses = [value for _, attributes in page.found for key, value in attributes.items() if key in ("src", "href")]
    assert addresses
    for address in addresses:
        assert address
        assert address.startswith("/")
        assert not address.startswith("//")
        assert client.get(address).status_code == 200, address
    assert not any("style" in attributes for _, attributes in page.found)  # the policy would drop it
    assert all("src" in attributes for tag, attributes in page.found if tag == "script")


def test_the_traffic_is_beside_what_was_learned(client: TestClient) -> None:
    for first in range(0, 64, 16):
        body, headers = binary_body(watched.pictures(64, contrast=0.2)[first : first + 16])
        assert client.post("/v2/models/watched/infer", content=body, headers=headers).status_code == 200
    deadline = time.monotonic() + 60
    while "Strong drift" not in (text := client.get("/batchnorm/watched").text):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    lines = [attributes["d"] or "" for tag, attributes in Page(text).found if attributes.get("class") == "live"]
    assert [len(POINT.findall(line)) for line in lines] == [4, 4, 6, 6]


def test_who_has_no_page(client: TestClient) -> None:
    assert client.get("/batchnorm/nobody").status_code == 404
    assert client.get("/batchnorm/watched?version=9").status_code == 404
    unwatched = client.get("/batchnorm/tiny")  # a bundle without a probe
    assert unwatched.status_code == 200
    assert "its bundle has no probe.onnx" in unwatched.text


def test_bars_stand_where_their_values_are() -> None:
    values = np.array([-1.0, 0.0, 3.0])
    drawing = bars("a <b>", values, np.array([3.0, np.nan, 99.0]))
    assert 'aria-label="a &lt;b&gt;: 3 channels from -1 to 3"' in drawing
    trained = POINT.findall(drawing.partition('class="trained"')[2].partition("/>")[0])
    low, high = HEIGHT - MARGIN, MARGIN
    zero = low + (high - low) / 4
    assert [float(end) for _, _, end in trained] == pytest.approx([low, zero, high], abs=0.1)
    step = (WIDTH - 2 * MARGIN) / 3
    assert [float(x) for x, _, _ in trained] == pytest.approx([MARGIN + step * (i + 0.5) for i in range(3)], abs=0.1)
    live = POINT.findall(drawing.partition('class="live"')[2])
    assert [float(y) for _, y, _ in live] == pytest.approx([high, high], abs=0.1)  # what is off the plot is at its edge
    assert dots(np.array([]), 0, 1) == ""
    assert "NaN" not in bars("constant", np.zeros(3))


def test_a_history_of_scores() -> None:
    assert history("none", [], []) == ""
    drawing = history("two", [0.01, 1.0], [0.1, 0.1])
    assert f'class="score" d="M{MARGIN:.1f} {HEIGHT - MARGIN:.1f}L{WIDTH - MARGIN:.1f} {MARGIN:.1f}h0"' in drawing
    assert f"{HEIGHT / 2:.1f}" in drawing.partition('class="limit"')[2]
    assert 'class="limit" d=""' in history("no thresholds", [0.2], [None])
