"""A server that is asked nothing: how soon it is ready, and what it takes while it waits."""

import statistics
import time

from scripts.benchmarking.models import Model
from scripts.stressing.lifecycle import running

MOST_SECONDS, MOST_CPU = 1.5, 0.01


def rest(model: Model, times: int, seconds: float, arguments: tuple[str, ...]) -> bool:
    """Starts, each timed from the process's creation to the first 200 of its readiness; then idle processor time."""
    ready, idle, memory = [], [], []
    for number in range(times):
        start = time.perf_counter()
        with running(model, *arguments) as server:
            ready.append(time.perf_counter() - start)
            if number == times - 1:
                time.sleep(1.0)
                before, start = server.cpu(), time.perf_counter()
                time.sleep(seconds)
                idle.append((server.cpu() - before) / (time.perf_counter() - start))
                memory.append(server.rss())
    print(
        f"rest: {times} starts, ready after {statistics.median(ready):.2f} s ({min(ready):.2f}-{max(ready):.2f}); idle "
        f"for {seconds:g} s it took {idle[0]:.2%} of a core and {memory[0]:.0f} MiB"
    )
    return statistics.median(ready) <= MOST_SECONDS and idle[0] <= MOST_CPU
