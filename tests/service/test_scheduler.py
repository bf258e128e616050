"""The batcher: everybody gets exactly their rows, nobody waits for others, and what is hopeless is given up."""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.engine.job import Job
from service.engine.scheduler import Batch, Lane, Scheduler
from service.errors import ServiceError, UnavailableError
from tests.service.bundles import Array


class Gate:
    """A model that can be held: doubles its input, and remembers what ran together."""

    def __init__(self, closed: bool = False) -> None:
        self.open = threading.Event()
        self.entered = threading.Semaphore(0)
        self.runs: list[Array] = []
        self.fail = False
        if not closed:
            self.open.set()

    def __call__(self, arrays: list[Array]) -> list[Array]:
        self.entered.release()
        assert self.open.wait(60)
        if self.fail:
            raise ValueError("broken")
        self.runs.append(arrays[0])
        return [arrays[0] * 2, arrays[0] + 1]


@asynccontextmanager
async def scheduler(runners: int = 1) -> AsyncIterator[Scheduler]:
    made = Scheduler(runners)
    try:
        yield made
    finally:
        made.close()


def rows(*values: int) -> list[Array]:
    return [np.array(values, np.int64).reshape(-1, 1)]


def run(test: Callable[[], Awaitable[Any]]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(test(), 60)

    asyncio.run(bounded())


async def busy(gate: Gate) -> None:
    """Until a run has begun."""
    await asyncio.to_thread(gate.entered.acquire)


def test_what_arrives_during_a_run_runs_together_next() -> None:
    async def test() -> None:
        gate = Gate(closed=True)
        lane = Lane(gate, run_batch=8, merge=True, max_queue=100)
        async with scheduler() as s:
            first = s.submit(lane, rows(0), 1)
            await busy(gate)
            others = [s.submit(lane, rows(*range(n)), n) for n in (1, 2, 3, 2, 9, 1)]
            gate.open.set()
            answers = await asyncio.gather(first.future, *(job.future for job in others))
        for answer, n in zip(answers, (1, 1, 2, 3, 2, 9, 1), strict=True):
            np.testing.assert_array_equal(answer[0][:, 0], 2 * np.arange(n))
            np.testing.assert_array_equal(answer[1][:, 0], 1 + np.arange(n))
        # 1 + 2 + 3 + 2 fill a run; 9 is more than a run takes and goes in slices, by itself
        assert [len(r) for r in gate.runs] == [1, 8, 8, 1, 1]
        assert lane.unfinished == 0

    run(test)


@settings(max_examples=30, deadline=None)
@given(sizes=st.lists(st.integers(1, 20), min_size=1, max_size=40), runners=st.integers(1, 3), merge=st.booleans())
def test_everybody_gets_their_own_rows(sizes: list[int], runners: int, merge: bool) -> None:
    async def test() -> None:
        gate = Gate()
        seen: list[Batch] = []
        lane = Lane(gate, run_batch=8, merge=merge, max_queue=100, observe=seen.append)
        async with scheduler(runners) as s:
            starts = np.cumsum([0, *sizes])
            jobs = [s.submit(lane, rows(*range(a, b)), b - a) for a, b in pairwise(starts)]
            answers = await asyncio.gather(*(job.future for job in jobs))
        for answer, (a, b) in zip(answers, pairwise(starts), strict=True):
            np.testing.assert_array_equal(answer[0][:, 0], 2 * np.arange(a, b))
        assert sum(batch.rows for batch in seen) == sum(sizes)
        assert max(len(r) for r in gate.runs) <= 8
        if not merge:
            assert all(len(batch.jobs) == 1 for batch in seen)

    run(test)


def test_a_full_queue_refuses_at_once() -> None:
    async def test() -> None:
        gate = Gate(closed=True)
        lane = Lane(gate, run_batch=8, merge=True, max_queue=2)
        async with scheduler() as s:
            jobs = [s.submit(lane, rows(0), 1)]
            await busy(gate)
            jobs += [s.submit(lane, rows(i), 1) for i in (1, 2)]
            with pytest.raises(UnavailableError, match="Exceeds maximum queue size") as error:
                s.submit(lane, rows(3), 1)
            assert error.value.headers == {"Retry-After": "1"}
            gate.open.set()
            await asyncio.gather(*(job.future for job in jobs))

    run(test)


def test_a_timeout_ends_the_wait_and_not_the_run() -> None:
    async def test() -> None:
        gate = Gate(closed=True)
        lane = Lane(gate, run_batch=8, merge=True, max_queue=10)
        async with scheduler() as s:
            running = s.submit(lane, rows(0), 1, timeout=0.001)
            await busy(gate)
            waiting = s.submit(lane, rows(1), 1, timeout=0.001)
            with pytest.raises(UnavailableError, match="Request timeout expired"):
                await waiting.future
            gate.open.set()
            np.testing.assert_array_equal((await running.future)[0], [[0]])
            np.testing.assert_array_equal((await s.submit(lane, rows(5), 1).future)[0], [[10]])
        assert [r[0, 0] for r in gate.runs] == [0, 5]
        assert lane.unfinished == 0

    run(test)


def test_who_left_is_not_run() -> None:
    async def test() -> None:
        gate = Gate(closed=True)
        lane = Lane(gate, run_batch=1, merge=True, max_queue=10)
        async with scheduler() as s:
            jobs = [s.submit(lane, rows(0), 1)]
            await busy(gate)
            jobs += [s.submit(lane, rows(i), 1) for i in (1, 2)]
            jobs[1].future.cancel()
            await asyncio.sleep(0)  # a future tells in the loop's next turn that it was cancelled
            gate.open.set()
            await asyncio.gather(jobs[0].future, jobs[2].future)
        assert [r[0, 0] for r in gate.runs] == [0, 2]
        assert lane.unfinished == 0

    run(test)


def test_who_is_called_back_is_called_once_with_what_became_of_it() -> None:
    async def test() -> None:
        gate = Gate(closed=True)
        lane = Lane(gate, run_batch=2, merge=True, max_queue=10)
        ended: list[Job] = []

        def clumsy(job: Job) -> None:
            raise RuntimeError("cannot be answered")

        async with scheduler() as s:
            first = s.submit(lane, rows(0), 1, then=ended.append)
            await busy(gate)
            left = s.submit(lane, rows(1), 1, then=ended.append)
            left.cancel()
            assert ended == [left]
            s.submit(lane, rows(2), 1, then=clumsy)
            beside = s.submit(lane, rows(3), 1, then=ended.append)
            gate.open.set()
            await beside.future
            left.cancel()
            first.cancel()  # too late
        assert ended == [left, first, beside]
        assert [int(job.result()[0][0, 0]) for job in ended[1:]] == [0, 6]
        with pytest.raises(asyncio.CancelledError):
            left.result()

    run(test)


def test_a_run_that_fails_fails_its_own_requests_only() -> None:
    async def test() -> None:
        gate = Gate()
        gate.fail = True
        lane = Lane(gate, run_batch=8, merge=True, max_queue=10)
        async with scheduler() as s:
            with pytest.raises(ServiceError, match="the model failed"):
                await s.submit(lane, rows(1), 1).future
            gate.fail = False
            np.testing.assert_array_equal((await s.submit(lane, rows(3), 1).future)[0], [[6]])
        assert lane.unfinished == 0

    run(test)


def test_a_delay_lets_a_run_fill_and_no_longer() -> None:
    async def test() -> None:
        gate = Gate()
        lane = Lane(gate, run_batch=4, merge=True, max_queue=10, delay=30.0)
        async with scheduler() as s:
            jobs = [s.submit(lane, rows(i), 1) for i in range(3)]
            await asyncio.sleep(0.05)
            assert not any(job.future.done() for job in jobs)
            jobs.append(s.submit(lane, rows(3), 1))  # full: nobody waits for the half minute
            await asyncio.gather(*(job.future for job in jobs))
            lane.delay = 1_000_000
            await s.submit(lane, rows(4), 1).future  # alone: it runs when the delay is over
        assert [len(r) for r in gate.runs] == [4, 1]

    run(test)


def test_closing_finishes_what_is_queued() -> None:
    async def test() -> None:
        gate = Gate(closed=True)
        lane = Lane(gate, run_batch=1, merge=True, max_queue=10)
        s = Scheduler(1)
        jobs = [s.submit(lane, rows(i), 1) for i in range(5)]
        gate.open.set()
        await asyncio.to_thread(s.close)
        answers = await asyncio.gather(*(job.future for job in jobs))
        assert [int(a[0][0, 0]) for a in answers] == [0, 2, 4, 6, 8]

    run(test)
