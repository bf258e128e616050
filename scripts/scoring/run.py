"""The work: the parts that are missing, several requests at a time, with progress."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

from scripts.scoring.ask import Target
from scripts.scoring.parts import Parts, Row
from scripts.scoring.sources import Source

Answers = Iterable[tuple[range, list[Row]]]


def score(parts: Parts, total: int, answer: Callable[[list[range]], Answers]) -> None:
    """Ask for every picture that has no row yet.

    Args:
        parts: where the rows go.
        total: pictures in all.
        answer: gives the rows of the parts that are missing, in any order.

    Raises:
        ServerError: the server could not be asked; the parts that are complete stay.
        SourceError: a picture cannot be read.
    """
    missing = parts.missing()
    done = total - sum(map(len, missing))
    if done:
        _say(f"{done} of {total} are there already")
    began, before = time.monotonic(), done
    for indices, rows in answer(missing):
        parts.add(indices, rows)
        done += len(indices)
        rate = (done - before) / max(time.monotonic() - began, 1e-9)
        _say(f"{done} of {total}, {rate:.0f} a second, {(total - done) / rate:.0f} s left")


def ask_here(source: Source, target: Target, batch: int, connections: int, missing: list[range]) -> Answers:
    """Ask from this process.

    Args:
        source: of the pictures.
        target: who is asked.
        batch: pictures in a request.
        connections: requests at a time.
        missing: parts.
    """
    with ThreadPoolExecutor(connections) as pool:
        for indices in missing:
            answers = [pool.submit(ask, source, target, chunk) for chunk in chunks(indices, batch)]
            try:
                yield indices, [row for answer in answers for row in answer.result()]
            finally:
                for answer in answers:
                    answer.cancel()


def ask(source: Source, target: Target, indices: range) -> list[Row]:
    """The answers to one request."""
    return target.rows([source.picture(index) for index in indices])


def chunks(indices: range, size: int) -> Iterator[range]:
    """A part's requests."""
    return (indices[first : first + size] for first in range(0, len(indices), size))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
