"""Natural batching: a request runs at once if a runner is free; what arrives meanwhile runs together next.

Nobody waits for a batch to fill. A run takes place where it costs least:

- in the event loop itself, if it is short and no runner thread is at work. Handing over to a thread and back takes two
  wake-ups, a tenth of a millisecond or more: as much as a small model. What arrived in the same turn of the loop runs
  together; what arrives meanwhile waits in its socket and is read in the next turn, together.
- in one of a fixed number of runner threads otherwise. ONNX Runtime releases the interpreter lock while it computes, so
  the event loop goes on reading, and runs overlap. The loop is woken once for each *batch*, not for each request.
"""

import asyncio
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import SimpleQueue

import numpy as np

from service.engine.job import Job
from service.errors import ServiceError, UnavailableError
from service.protocol.tensors import Array

log = logging.getLogger(__name__)

POLL = 0.0002  # seconds between looks at a run that fills up
# Nanoseconds for which a run may keep the event loop from reading. Where the process has a core to spare, that is a few
# times what a hand-over costs; where it has none, a thread would only take the loop's own time.
SHORT, SHORT_ALONE = 1_000_000, 10_000_000
Run = Callable[[list[Array]], list[Array]]


@dataclass(slots=True)
class Batch:
    """What one run did, for the statistics. Durations in nanoseconds.

    Attributes:
        jobs: whose outputs it made.
        rows: in the run.
        runs: of the session; more than 1 where the rows were sliced.
        gather, infer, scatter: building the input, running the model, dividing the outputs.
        inputs: what the model was given, one array for each input; for whoever watches.
    """

    jobs: list[Job]
    rows: int
    runs: int
    gather: int
    infer: int
    scatter: int
    inputs: list[Array]


class Lane:
    """The queue of one model version.

    Args:
        run: evaluates the model on one array for each input; called in a runner thread.
        run_batch: most rows of one run; 0 for a model without a batch dimension, whose requests run as they are.
        merge: whether requests may share a run.
        max_queue: most jobs that wait.
        observe: called in the event loop with each finished batch.
        delay: seconds that the first request of a run may wait for others.
        inline: whether short runs may take place in the event loop.

    Attributes:
        row_ns: nanoseconds that a row takes at best; infinite until the first run.
    """

    def __init__(
        self,
        run: Run,
        *,
        run_batch: int,
        merge: bool,
        max_queue: int,
        observe: Callable[[Batch], None] | None = None,
        delay: float = 0.0,
        inline: bool = False,
    ) -> None:
        self.run = run
        self.run_batch = run_batch
        self.merge = merge and run_batch > 0
        self.max_queue = max_queue
        self.observe = observe
        self.delay = int(delay * 1e9) if self.merge else 0
        self.inline = inline and not self.delay
        self.row_ns = math.inf
        self.jobs: deque[Job] = deque()
        self.unfinished = 0
        self.due = False  # whether the event loop is going to run it

    @property
    def full(self) -> bool:
        """Whether the next request is to be refused."""
        return len(self.jobs) >= self.max_queue

    @property
    def next_ns(self) -> float:
        """How long the next run will take, as far as is known."""
        rows = [job.rows for job in list(self.jobs)]  # copied at once, since a runner may take some
        return max([*rows[:1], min(sum(rows), self.run_batch)]) * self.row_ns

    def learn(self, rows: int, ns: int) -> None:
        """Note how long a run took; called by whoever ran it, the last one wins."""
        self.row_ns = min(ns / rows, 1.1 * self.row_ns)  # a pause of the machine says little, so it grows slowly

    def wait_to_fill(self) -> None:
        """Let a run fill up, but no longer than the first request may wait; called by runners."""
        while True:
            try:
                left = self.jobs[0].arrived + self.delay - time.perf_counter_ns()
                rows = sum(job.rows for job in list(self.jobs))
            except IndexError:  # another runner took them
                return
            if left <= 0 or rows >= self.run_batch:
                return
            time.sleep(min(left / 1e9, POLL))

    def take(self) -> tuple[list[Job], int]:
        """The jobs of the next run, and how many nobody waits for any more; called by runners, without a lock."""
        taken: list[Job] = []
        dropped = 0
        rows = 0
        while True:
            try:
                if taken and (not self.merge or rows + self.jobs[0].rows > self.run_batch):
                    break
                job = self.jobs.popleft()
            except IndexError:  # empty, or another runner was faster
                break
            if job.done:  # expired, or cancelled since its client left
                dropped += 1
            else:
                taken.append(job)
                rows += job.rows
        return taken, dropped


class Scheduler:
    """Runner threads that serve lanes.

    Args:
        runners: how many.
    """

    def __init__(self, runners: int) -> None:
        # One token for each job: whoever gets a token looks into that lane, where the job may already be gone with an
        # earlier batch. That is cheaper than a lock.
        self._tokens: SimpleQueue[tuple[Lane, asyncio.AbstractEventLoop] | None] = SimpleQueue()
        self._handed: set[Lane] = set()  # whose jobs the threads have; the event loop's own
        self._short = SHORT if runners > 1 else SHORT_ALONE
        self._threads = [threading.Thread(target=self._work, name=f"runner-{i}", daemon=True) for i in range(runners)]
        for thread in self._threads:
            thread.start()

    @property
    def runners(self) -> int:
        """How many runs can go on at the same time."""
        return len(self._threads)

    def submit(
        self,
        lane: Lane,
        arrays: list[Array],
        rows: int,
        timeout: float = 0.0,
        then: Callable[[Job], None] | None = None,
    ) -> Job:
        """Queue a request; to be called in the event loop, where it will be done.

        Args:
            lane: of the model.
            arrays: one for each of its inputs.
            rows: how many rows of a batch they are.
            timeout: seconds after which it is no longer worth starting, and fails; 0 for never.
            then: called with the job when it is done.

        Raises:
            UnavailableError: the lane is full.
        """
        if lane.full:
            raise overloaded()
        job = Job(arrays, rows, then)
        lane.unfinished += 1
        lane.jobs.append(job)
        inline = lane.inline and not self._handed and rows * lane.row_ns <= self._short
        if inline and lane.due and not timeout:
            return job  # it goes with those that came before it in this turn of the event loop
        loop = asyncio.get_running_loop()
        if timeout:
            job.timer = loop.call_later(timeout, job.expire)
        if not inline:
            self._hand_over(lane, loop)
        elif not lane.due:
            lane.due = True
            loop.call_soon(self._turn, lane, loop)
        return job

    def close(self) -> None:
        """End the threads after what is queued."""
        for _ in self._threads:
            self._tokens.put(None)
        for thread in self._threads:
            thread.join()

    def _hand_over(self, lane: Lane, loop: asyncio.AbstractEventLoop, jobs: int = 1) -> None:
        self._handed.add(lane)
        for _ in range(jobs):
            self._tokens.put((lane, loop))

    def _turn(self, lane: Lane, loop: asyncio.AbstractEventLoop) -> None:
        """In the event loop: run what this turn of it has brought, if no thread is at work."""
        lane.due = False
        if self._handed or lane.next_ns > self._short:  # something long came in the same turn, or too much
            self._hand_over(lane, loop, len(lane.jobs))  # what came before has no tokens yet
            return
        jobs, dropped = lane.take()
        left = len(lane.jobs)
        if left and len(self._threads) > 1:
            self._hand_over(lane, loop, left)  # they need not wait until the event loop is done
        self._return(lane, jobs, dropped, _attempt(lane, jobs))
        if left and not self._handed:
            lane.due = True
            loop.call_soon(loop.call_soon, self._turn, lane, loop)  # the turn after the next: answers go out in between

    def _work(self) -> None:
        while (token := self._tokens.get()) is not None:
            lane, loop = token
            if lane.delay:
                lane.wait_to_fill()
            jobs, dropped = lane.take()
            if jobs or dropped:
                outcome = _attempt(lane, jobs)
                try:
                    loop.call_soon_threadsafe(self._return, lane, jobs, dropped, outcome)
                except RuntimeError:  # the loop is closed: nobody waits any more
                    log.debug("%d answers came after the event loop's end", len(jobs))

    def _return(self, lane: Lane, jobs: list[Job], dropped: int, outcome: Batch | Exception | None) -> None:
        """In the event loop, after a run: hand out what it made."""
        lane.unfinished -= len(jobs) + dropped
        if not lane.unfinished:
            self._handed.discard(lane)
        _deliver(lane, jobs, outcome)


def overloaded() -> UnavailableError:
    """The error of a request that finds its lane full."""
    return UnavailableError("Exceeds maximum queue size")


def _attempt(lane: Lane, jobs: list[Job]) -> Batch | Exception | None:
    """Run the jobs, if there are any; whatever the model does, they get an answer."""
    if not jobs:
        return None
    try:
        return _execute(lane, jobs)
    except Exception as error:
        log.exception("a run failed")
        return error


def _execute(lane: Lane, jobs: list[Job]) -> Batch:
    """Run the jobs together and leave each one's outputs in its `arrays`."""
    start = time.perf_counter_ns()
    for job in jobs:
        job.started = start
    rows = sum(job.rows for job in jobs)
    if len(jobs) == 1:
        inputs = jobs[0].arrays
    else:
        inputs = [np.concatenate(parts) for parts in zip(*(job.arrays for job in jobs), strict=True)]
    ready = time.perf_counter_ns()
    outputs, runs = _run_sliced(lane, inputs, rows)
    done = time.perf_counter_ns()
    if len(jobs) == 1:
        jobs[0].arrays = outputs
    else:
        first = 0
        for job in jobs:
            job.arrays = [output[first : first + job.rows] for output in outputs]
            first += job.rows
    end = time.perf_counter_ns()
    for job in jobs:
        job.finished = end
    lane.learn(rows, end - start)
    return Batch(jobs, rows, runs, ready - start, done - ready, end - done, inputs)


def _run_sliced(lane: Lane, inputs: list[Array], rows: int) -> tuple[list[Array], int]:
    size = lane.run_batch
    if not size or rows <= size:
        return lane.run(inputs), 1
    parts = [lane.run([array[i : i + size] for array in inputs]) for i in range(0, rows, size)]
    return [np.concatenate(pieces) for pieces in zip(*parts, strict=True)], len(parts)


def _deliver(lane: Lane, jobs: Sequence[Job], outcome: Batch | Exception | None) -> None:
    if isinstance(outcome, Batch):
        if lane.observe is not None:
            lane.observe(outcome)
        for job in jobs:
            job.settle()
    elif outcome is not None:
        for job in jobs:
            job.settle(ServiceError("the model failed on this request; the server's log says why"))
