"""The page at `/`, used as people use it."""

import base64
import io
import json
import re
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.browser.visitor import TSU, Visitor, strokes_of
from tests.support import ROOT, fetch, served_bundle, serving

pytestmark = pytest.mark.slow

Visit = Callable[..., Visitor]
PHONE: dict[str, Any] = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}
PANELS = ("card", "fold", "statistics", "versions")


@pytest.fixture(scope="module")
def golden() -> tuple[NDArray[np.uint8], list[str]]:
    """Real characters, uint8 [20, 28, 28], and the label that the network as trained gives to each."""
    manifest = json.loads((served_bundle() / "manifest.json").read_text(encoding="utf-8"))
    with np.load(served_bundle() / "golden.npz") as archive:
        classes = archive["probabilities"].argmax(axis=1)
        return archive["image"][..., 0], [manifest["labels"][index] for index in classes]


def photograph(character: NDArray[np.uint8]) -> bytes:
    """The character as a dark one on a large light sheet."""
    sheet = Image.new("L", (300, 400), 255)
    sheet.paste(Image.fromarray(255 - character).resize((168, 168), Image.Resampling.BICUBIC), (40, 90))
    file = io.BytesIO()
    sheet.save(file, "PNG")
    return file.getvalue()


def test_a_character_drawn_with_the_mouse_is_read(visit: Visit, screenshots: Path) -> None:
    visitor = visit(viewport={"width": 1280, "height": 900})

    visitor.draw(TSU)

    read = visitor.settled()
    visitor.page.wait_for_selector("#status:not(:empty)", state="attached")
    assert read.startswith("つ tsu, ")
    assert " ".join(visitor.page.locator("#status").inner_text().split()) == read
    assert "つ" in visitor.page.locator("#bars .best").inner_text()
    assert re.fullmatch(r"\d+\.\d ms", visitor.page.locator("#fact-latency").inner_text())
    assert visitor.page.locator("#fact-model").inner_text() == f"kmnist, version {served_bundle().name}"
    # On the page the strokes have the colour of its text, but they go out as those of the training set are.
    assert visitor.page.locator("#fact-polarity").inner_text() == "sent light on dark"
    visitor.page.screenshot(path=screenshots / "page.png")


def test_other_characters_drawn_stroke_by_stroke_are_read(
    visit: Visit, golden: tuple[NDArray[np.uint8], list[str]]
) -> None:
    pictures, labels = golden
    visitor = visit()
    right = 0
    for number in (0, 1):
        visitor.page.click("#clear")
        for stroke in strokes_of(pictures[number]):
            visitor.draw(stroke)
        right += visitor.settled().startswith(labels[number])

    assert right >= 1  # a brush is not how they were written


def test_a_character_drawn_with_a_finger_is_read_and_the_page_stays_where_it_is(visit: Visit) -> None:
    visitor = visit(**PHONE)

    visitor.touch(TSU)

    assert visitor.settled().startswith("つ tsu, ")
    assert visitor.page.evaluate("scrollY") == 0


def test_a_character_drawn_with_the_keyboard_is_read(visit: Visit) -> None:
    visitor = visit()

    visitor.type(TSU)
    read = visitor.settled()
    visitor.page.keyboard.press("Escape")

    assert read.startswith("つ tsu, ")
    assert visitor.page.locator("#picture").is_hidden()
    assert visitor.page.locator("#status").inner_text() == ""


def test_everything_can_be_reached_with_the_tabulator(visit: Visit) -> None:
    visitor = visit()
    reached = []
    for _ in range(60):
        visitor.page.keyboard.press("Tab")
        reached.append(visitor.page.evaluate("document.activeElement.id || document.activeElement.textContent"))

    expected = [
        "Skip to the drawing area",
        "version",
        "HTTP reference",
        "drawing",
        "undo",
        "clear",
        "choose",
        "tab-card",
    ]
    assert [name for name in reached if name in expected][: len(expected)] == expected


def test_an_empty_drawing_area_asks_nothing(visit: Visit) -> None:
    visitor = visit()
    assert visitor.asked == []

    visitor.draw(TSU)
    visitor.settled()
    asked = len(visitor.asked)
    visitor.page.click("#undo")
    visitor.page.wait_for_timeout(300)

    assert asked > 0
    assert len(visitor.asked) == asked
    assert visitor.page.locator("#no-picture").is_visible()
    assert set(visitor.page.locator("#bars .number").all_inner_texts()) == {"–"}


def test_an_example_is_read_as_the_network_that_was_trained_reads_it(visit: Visit) -> None:
    visitor = visit()
    examples = visitor.page.locator("#examples button")
    for number in (0, 13):
        label = examples.nth(number).get_by_role("img").get_attribute("alt").removeprefix("Example: ")
        examples.nth(number).click()
        assert visitor.settled().startswith(f"{label}, ")
        visitor.page.click("#clear")


def test_what_is_shown_is_what_the_network_got(
    visit: Visit, golden: tuple[NDArray[np.uint8], list[str]], page_url: str
) -> None:
    file = photograph(golden[0][2])
    visitor = visit()

    visitor.page.set_input_files("#file", {"name": "a.png", "mimeType": "image/png", "buffer": file})
    read = visitor.settled()

    answer = fetch(f"{page_url}/predict?picture=true", file, "image/png")
    assert visitor.page.locator("#picture").get_attribute("src") == answer["picture"]
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(answer["picture"].partition(",")[2]))))
    assert np.abs(shown.astype(float) - golden[0][2]).mean() < 12
    assert read.startswith(golden[1][2])
    assert visitor.page.locator("#fact-polarity").inner_text() == "sent dark on light, inverted"


@pytest.mark.parametrize("how", ["drop", "paste"])
def test_a_picture_is_dropped_or_pasted(visit: Visit, golden: tuple[NDArray[np.uint8], list[str]], how: str) -> None:
    visitor = visit()
    data = base64.b64encode(photograph(golden[0][5])).decode()

    visitor.page.evaluate(
        """([how, data]) => {
          const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
          const transfer = new DataTransfer();
          transfer.items.add(new File([bytes], "a.png", { type: "image/png" }));
          const event = how === "drop"
            ? new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true })
            : new ClipboardEvent("paste", { clipboardData: transfer, bubbles: true });
          document.body.dispatchEvent(event);
        }""",
        [how, data],
    )

    assert visitor.settled().startswith(golden[1][5])


def test_what_is_no_picture_is_said_and_the_next_one_is_read(visit: Visit) -> None:
    visitor = visit()

    visitor.page.set_input_files("#file", {"name": "a.png", "mimeType": "image/png", "buffer": b"no picture"})
    visitor.page.wait_for_selector("#problem:not([hidden])")

    assert "not a picture of a known format" in visitor.page.locator("#problem").inner_text()
    assert len(visitor.problems) == 1  # the browser notes the status 415
    visitor.problems.clear()
    visitor.draw(TSU)
    assert visitor.settled().startswith("つ tsu, ")
    assert visitor.page.locator("#problem").is_hidden()


def test_the_tabs_tell_of_the_model(visit: Visit, page_url: str, screenshots: Path) -> None:
    manifest = json.loads((served_bundle() / "manifest.json").read_text(encoding="utf-8"))
    before, after = (sum(manifest["operators"][graph].values()) for graph in ("reference", "folded"))
    visitor = visit()
    texts = {}
    visitor.page.locator("#tab-card").focus()
    for name in PANELS:
        visitor.page.wait_for_selector(f"#{name} :is(p, table)")
        assert visitor.page.locator('[role="tabpanel"]:visible').count() == 1
        texts[name] = visitor.page.locator(f"#{name}").inner_text()
        visitor.page.locator(".more").screenshot(path=screenshots / f"{name}.png")
        visitor.page.keyboard.press("ArrowRight")

    assert visitor.page.locator("#tab-card").get_attribute("aria-selected") == "true"  # around, to the first
    assert f"{manifest['metrics']['accuracy']:.4g}" in texts["card"]
    assert visitor.page.locator("#card img").count() == 2
    linked = visitor.page.get_by_text("All channels, drawn").get_attribute("href")
    with urllib.request.urlopen(f"{page_url}/{linked}") as page:
        assert page.status == 200
    assert f"{before} operators as trained, {after} as served: {before - after} fewer" in texts["fold"]
    assert before - after == 10
    assert texts["fold"].count("BatchNormalization") == 5
    assert all(layer["name"] in texts["statistics"] for layer in manifest["batchnorm"])
    assert f"{fetch(f'{page_url}/v2/models/kmnist/drift')['verdict']['grade']}: " in texts["statistics"]
    assert f"{manifest['metrics']['accuracy'] * 100:.2f} %" in texts["versions"]


@pytest.mark.parametrize("width", [320, 800])
def test_nothing_is_wider_than_the_window(visit: Visit, width: int, screenshots: Path) -> None:
    visitor = visit(viewport={"width": width, "height": 800})

    for name in PANELS:
        visitor.page.click(f"#tab-{name}")
        visitor.page.wait_for_selector(f"#{name} :is(p, table)")
        assert visitor.page.evaluate("document.documentElement.scrollWidth") <= width
    visitor.page.screenshot(path=screenshots / f"width-{width}.png", full_page=True)


@pytest.fixture(scope="module")
def axe() -> Any:
    return pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed").Axe()


@pytest.mark.parametrize(
    ("scheme", "device"),
    [("light", {"viewport": {"width": 1280, "height": 900}}), ("dark", PHONE)],
    ids=["desktop", "phone"],
)
def test_axe_finds_no_barrier(visit: Visit, axe: Any, scheme: str, device: dict[str, Any], screenshots: Path) -> None:
    # The test injects axe, which the page's own policy forbids to everybody.
    visitor = visit(color_scheme=scheme, bypass_csp=True, **device)
    visitor.draw(TSU)
    visitor.settled()
    found: dict[str, list[str]] = {}
    for name in PANELS:
        visitor.page.click(f"#tab-{name}")
        visitor.page.wait_for_selector(f"#{name} :is(p, table)")
        results = axe.run(visitor.page, options={"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]})
        assert results.response["passes"]
        found |= {f"{name}: {v['id']}": [n["html"] for n in v["nodes"]] for v in results.response["violations"]}
    visitor.page.screenshot(path=screenshots / f"{scheme}-{device['viewport']['width']}.png", full_page=True)

    assert found == {}


@pytest.fixture
def locked(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("FOLDSERVE_API_KEYS", "open-sesame")
    with serving(ROOT / "models") as url:
        yield url


def test_a_server_that_wants_a_key_is_unlocked(visit: Visit, locked: str) -> None:
    visitor = visit(locked)
    visitor.page.wait_for_selector("#unlock:not([hidden])")
    visitor.problems.clear()  # the browser notes the status 401

    visitor.page.fill("#key", "open-sesame")
    visitor.page.keyboard.press("Enter")
    visitor.page.wait_for_selector("#examples button")
    visitor.draw(TSU)

    assert visitor.settled().startswith("つ tsu, ")
    assert visitor.page.locator("#unlock").is_hidden()


def test_a_server_that_is_gone_is_said(visit: Visit) -> None:
    visitor = visit()
    visitor.page.route("**/predict*", lambda route: route.abort())

    visitor.draw(TSU)
    visitor.page.wait_for_selector("#problem:not([hidden])")

    assert visitor.page.locator("#problem").inner_text() == "The server does not answer."
    visitor.problems.clear()
