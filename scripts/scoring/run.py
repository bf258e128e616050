"""The work: parts that are missing, several requests at a time, with progress."""

import sys
import time
from concurrent.futures import ThreadPoolExecutor

from scripts.scoring.ask import Target
from scripts.scoring.parts import Parts, Row
from scripts.scoring.sources import Source


def score(source: Source, parts: Parts, target: Target, batch: int, connections: int) -> None:
    """Ask for every picture that has no row yet.

    Args:
        source: of the pictures.
        parts: where the rows go.
        target: who is asked.
        batch: pictures in a request.
        connections: requests at a time.

    Raises:
        ServerError: the server could not be asked; the parts that are complete stay.
        SourceError: a picture cannot be read.
    """
    missing = parts.missing()
    total, done = len(source), len(source) - sum(map(len, missing))
    if done:
        _say(f"{done} of {total} are there already")
    began, before = time.monotonic(), done

    def ask(indices: range) -> list[Row]:
        return target.rows([source.picture(index) for index in indices])

    with ThreadPoolExecutor(connections) as pool:
        for indices in missing:
            batches = [indices[first : first + batch] for first in range(0, len(indices), batch)]
            answers = [pool.submit(ask, chunk) for chunk in batches]
            try:
                parts.add(indices, [row for answer in answers for row in answer.result()])
            finally:
                for answer in answers:
                    answer.cancel()
            done += len(indices)
            rate = (done - before) / max(time.monotonic() - began, 1e-9)
            _say(f"{done} of {total}, {rate:.0f} a second, {(total - done) / rate:.0f} s left")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
