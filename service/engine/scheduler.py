"""Natural batching: a request runs at once if a runner is free; what arrives meanwhile runs together next.

Nobody waits for a batch to fill. A fixed number of runner threads serves the lanes of all models; ONNX Runtime
releases the interpreter lock while it computes, so the event loop goes on reading requests. The hand-over costs one
wake-up of the event loop for each *batch*, not for each request.
"""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import SimpleQueue

import numpy as np

from service.errors import ServiceError, UnavailableError
from service.protocol.tensors import Array

log = logging.getLogger(__name__)

Run = Callable[[list[Array]], list[Array]]


class Job:
    """One request on its way through a lane. Times are `time.perf_counter_ns`.

    Attributes:
        arrays: one for each input of the model.
        rows: how many rows of a batch they are.
        future: gets the outputs, one array for each output of the model.
        arrived, started, finished: when it was queued, when its run began and ended.
        deadline: when it is no longer worth running; 0 for never.
    """

    __slots__ = ("arrays", "arrived", "deadline", "finished", "future", "rows", "started")

    def __init__(self, arrays: list[Array], rows: int, timeout: float, future: "asyncio.Future[list[Array]]") -> None:
        self.arrays = arrays
        self.rows = rows
        self.future = future
        self.arrived = time.perf_counter_ns()
        self.started = self.finished = 0
        self.deadline = self.arrived + int(timeout * 1e9) if timeout else 0


@dataclass(slots=True)
class Batch:
    """What one run did, for the statistics. Durations in nanoseconds.

    Attributes:
        jobs: whose outputs it made.
        rows: in the run.
        runs: of the session; more than 1 where the rows were sliced.
        gather, infer, scatter: building the input, running the model, dividing the outputs.
    """

    jobs: list[Job]
    rows: int
    runs: int
    gather: int
    infer: int
    scatter: int


class Lane:
    """The queue of one model version.

    Args:
        run: evaluates the model on one array for each input; called in a runner thread.
        run_batch: most rows of one run; 0 for a model without a batch dimension, whose requests run as they are.
        merge: whether requests may share a run.
        max_queue: most jobs that wait.
        observe: called in the event loop with each finished batch.
    """

    def __init__(
        self, run: Run, run_batch: int, merge: bool, max_queue: int, observe: Callable[[Batch], None] | None = None
    ) -> None:
        self.run = run
        self.run_batch = run_batch
        self.merge = merge and run_batch > 0
        self.max_queue = max_queue
        self.observe = observe
        self.jobs: deque[Job] = deque()
        self.unfinished = 0

    def take(self, now: int) -> tuple[list[Job], list[Job]]:
        """The jobs of the next run, and those whose time is over; called by runners, without a lock."""
        taken: list[Job] = []
        late: list[Job] = []
        rows = 0
        while True:
            try:
                if taken and (not self.merge or rows + self.jobs[0].rows > self.run_batch):
                    break
                job = self.jobs.popleft()
            except IndexError:  # empty, or another runner was faster
                break
            if job.future.cancelled() or 0 < job.deadline < now:
                late.append(job)
            else:
                taken.append(job)
                rows += job.rows
        return taken, late


class Scheduler:
    """Runner threads that serve lanes.

    Args:
        runners: how many.
    """

    def __init__(self, runners: int) -> None:
        # One token for each job: whoever gets a token looks into that lane, where the job may already be gone with an
        # earlier batch. That is cheaper than a lock.
        self._tokens: SimpleQueue[tuple[Lane, asyncio.AbstractEventLoop] | None] = SimpleQueue()
        self._threads = [threading.Thread(target=self._work, name=f"runner-{i}", daemon=True) for i in range(runners)]
        for thread in self._threads:
            thread.start()

    @property
    def runners(self) -> int:
        """How many runs can go on at the same time."""
        return len(self._threads)

    def submit(self, lane: Lane, arrays: list[Array], rows: int, timeout: float = 0.0) -> Job:
        """Queue a request; its `future` belongs to the running event loop.

        Raises:
            UnavailableError: the lane is full.
        """
        if len(lane.jobs) >= lane.max_queue:
            raise UnavailableError("Exceeds maximum queue size")
        loop = asyncio.get_running_loop()
        job = Job(arrays, rows, timeout, loop.create_future())
        lane.unfinished += 1
        lane.jobs.append(job)
        self._tokens.put((lane, loop))
        return job

    def close(self) -> None:
        """End the threads after what is queued."""
        for _ in self._threads:
            self._tokens.put(None)
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while (token := self._tokens.get()) is not None:
            lane, loop = token
            jobs, late = lane.take(time.perf_counter_ns())
            outcome: Batch | Exception | None = None
            if jobs:
                try:
                    outcome = _execute(lane, jobs)
                except Exception as error:  # whatever the model does, its requests get an answer
                    log.exception("a run failed")
                    outcome = error
            if jobs or late:
                try:
                    loop.call_soon_threadsafe(_deliver, lane, jobs, late, outcome)
                except RuntimeError:  # the loop is closed: nobody waits any more
                    log.debug("%d answers came after the event loop's end", len(jobs))


def _execute(lane: Lane, jobs: list[Job]) -> Batch:
    """Run the jobs together and leave each one's outputs in its `arrays`."""
    start = time.perf_counter_ns()
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
        job.started, job.finished = start, end
    return Batch(jobs, rows, runs, ready - start, done - ready, end - done)


def _run_sliced(lane: Lane, inputs: list[Array], rows: int) -> tuple[list[Array], int]:
    size = lane.run_batch
    if not size or rows <= size:
        return lane.run(inputs), 1
    parts = [lane.run([array[i : i + size] for array in inputs]) for i in range(0, rows, size)]
    return [np.concatenate(pieces) for pieces in zip(*parts, strict=True)], len(parts)


def _deliver(lane: Lane, jobs: Sequence[Job], late: Sequence[Job], outcome: Batch | Exception | None) -> None:
    """In the event loop: hand out what a runner made."""
    lane.unfinished -= len(jobs) + len(late)
    for job in late:
        if not job.future.done():
            job.future.set_exception(UnavailableError("Request timeout expired"))
    if isinstance(outcome, Batch):
        if lane.observe is not None:
            lane.observe(outcome)
        for job in jobs:
            if not job.future.done():
                job.future.set_result(job.arrays)
    elif outcome is not None:
        for job in jobs:
            if not job.future.done():
                job.future.set_exception(ServiceError("the model failed on this request; the server's log says why"))
