"""Somebody in front of the page."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Point = tuple[float, float]
# つ, one stroke, in shares of the drawing area's side.
TSU: list[Point] = [
    (0.12, 0.33), (0.25, 0.29), (0.4, 0.26), (0.55, 0.25), (0.68, 0.27), (0.78, 0.33),
    (0.83, 0.42), (0.81, 0.53), (0.74, 0.63), (0.63, 0.71), (0.5, 0.76), (0.38, 0.78),
]  # fmt: skip


class Visitor:
    """A browser's context with one page, which is open and ready.

    Attributes:
        page: Playwright's.
        problems: errors and warnings of the console, violations of the policy among them, and uncaught exceptions.
        asked: addresses of the predictions that the page asked for.
    """

    def __init__(self, context: Any, url: str) -> None:
        self.context, self.page = context, context.new_page()
        self.problems: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", self._heard)
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("request", self._asked)
        self.page.goto(url)
        self.page.wait_for_selector("#card :is(p, table), #unlock:not([hidden])")

    def _heard(self, message: Any) -> None:
        if message.type in {"error", "warning"}:
            self.problems.append(f"{message.type}: {message.text}")

    def _asked(self, request: Any) -> None:
        if "/predict" in request.url:
            self.asked.append(request.url)

    def leave(self) -> None:
        self.context.close()

    def at(self, point: Point) -> Point:
        """A place in the window, from one in the drawing area."""
        box = self.page.locator("#drawing").bounding_box()
        return box["x"] + point[0] * box["width"], box["y"] + point[1] * box["height"]

    def draw(self, stroke: Sequence[Point]) -> None:
        """One stroke with the mouse."""
        self.page.mouse.move(*self.at(stroke[0]))
        self.page.mouse.down()
        for point in stroke[1:]:
            self.page.mouse.move(*self.at(point), steps=1)
        self.page.mouse.up()

    def touch(self, stroke: Sequence[Point]) -> None:
        """One stroke with a finger."""
        session = self.context.new_cdp_session(self.page)

        def send(kind: str, *points: Point) -> None:
            places = [dict(zip("xy", self.at(point), strict=True)) for point in points]
            session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": places})

        send("touchStart", stroke[0])
        for point in stroke[1:]:
            send("touchMove", point)
        send("touchEnd")

    def type(self, stroke: Sequence[Point]) -> None:
        """One stroke with the keyboard: arrows to its points, the pen down from the first one on."""
        self.page.locator("#drawing").focus()
        step, (x, y) = 1 / 24, (12, 12)
        for number, point in enumerate(stroke):
            right, down = round(point[0] / step) - x, round(point[1] / step) - y
            while right or down:  # in turn, for a slope rather than a stair
                if right:
                    self.page.keyboard.press("ArrowRight" if right > 0 else "ArrowLeft")
                    x, right = x + np.sign(right), right - np.sign(right)
                if down:
                    self.page.keyboard.press("ArrowDown" if down > 0 else "ArrowUp")
                    y, down = y + np.sign(down), down - np.sign(down)
            if number == 0:
                self.page.keyboard.press(" ")
        self.page.keyboard.press(" ")

    def settled(self) -> str:
        """What is shown when the last question is answered: label and probability."""
        self.page.wait_for_selector("#picture:not([hidden])")
        self.page.wait_for_selector('#answer[aria-busy="false"]')
        text: str = self.page.locator("#best").inner_text()
        return " ".join(text.split())


def strokes_of(picture: NDArray[np.uint8], level: int = 170) -> list[list[Point]]:
    """Strokes, from left to right, that fill what is lighter than `level` in a picture of 28 x 28."""
    strokes = []
    for row, values in enumerate(picture):
        lit = np.flatnonzero(np.diff(np.concatenate([[False], values > level, [False]])))
        for first, behind in lit.reshape(-1, 2):
            place = [((column + 0.5) / 28 * 0.8 + 0.1, (row + 0.5) / 28 * 0.8 + 0.1) for column in (first, behind - 1)]
            strokes.append([(float(x), float(y)) for x, y in place])
    return strokes
