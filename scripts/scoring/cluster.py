"""The same work from the machines of a Ray cluster: each task reads the pictures of one part, and asks for them.

The rows come back here and are written here, so that only the source must be at the same place on every machine. A
task whose machine is lost is run again by Ray. Tasks do it, without Ray Data: there is nothing to shuffle, and a part
that is written is all that is needed to go on.
"""

import os
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

from scripts.scoring.ask import Target
from scripts.scoring.parts import Row
from scripts.scoring.run import Answers, ask, chunks
from scripts.scoring.sources import Source, SourceError, open_source


def ask_from_cluster(path: Path, target: Target, batch: int, connections: int, missing: list[range]) -> Answers:
    """Ask from a Ray cluster: the one that `RAY_ADDRESS` names, or else a new one on this machine alone.

    Args:
        path: of the source.
        target: who is asked.
        batch: pictures in a request.
        connections: tasks at a time, each with one request at a time.
        missing: parts.

    Raises:
        SourceError: Ray is not installed, or a picture cannot be read.
        ServerError: the server could not be asked.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise SourceError("--ray needs Ray: pip install 'foldserve[ray]'") from error
    ray.init(os.environ.get("RAY_ADDRESS", "local"), log_to_driver=False, include_dashboard=False)
    task = ray.remote(num_cpus=1, max_retries=3)(ask_part)
    waiting = iter(missing)
    running: dict[Any, range] = {}
    try:
        while True:
            for indices in islice(waiting, connections - len(running)):
                running[task.remote(path.absolute(), target, batch, indices)] = indices
            if not running:
                return
            (done, *_), _ = ray.wait(list(running))
            yield running.pop(done), ray.get(done)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error  # what went wrong in the task, in its own words
    finally:
        ray.shutdown()


def ask_part(path: Path, target: Target, batch: int, indices: range) -> list[Row]:
    """In a task: the rows of one part."""
    source = _opened(path)
    return [row for chunk in chunks(indices, batch) for row in ask(source, target, chunk)]


@cache
def _opened(path: Path) -> Source:
    """The source, opened once in each process."""
    return open_source(path)
