"""What the replicas have in common, without Ray: replicas that count, come, go and lose the blackboard."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import numpy as np
import pytest

from deploy.ray.blackboard import Blackboard
from deploy.ray.member import Member, SharedControl
from drift import LayerReference, Layout, Moments, Reference
from service.metrics.http import HttpStatistics
from service.metrics.statistics import Statistics
from service.watch.tally import Tally
from service.watch.windows import Windows

LAYOUT = Layout.of({"bn": 2})
REFERENCE = Reference({"bn": LayerReference(1e-3, np.zeros(2), np.ones(2), np.ones(2, bool))})
KEY = "drift/m/0123"


class Cluster:
    """Where replicas reach a blackboard, which may be lost, and whose answers may be lost."""

    def __init__(self) -> None:
        self.blackboard = Blackboard()
        self.silent = False

    async def ask(self, method: str, *arguments: Any) -> Any:
        answer = getattr(self.blackboard, method)(*arguments)
        if self.silent:
            raise ConnectionError("the answer did not arrive")
        return answer


class Replica:
    """What a data plane has of a member: sums, windows, statistics of a model and of HTTP."""

    def __init__(self, cluster: Cluster, name: str, began: float = 100.0) -> None:
        self.member = Member(name, cluster.ask)
        self.tally = Tally(self.member.sums, KEY, LAYOUT)
        self.windows = Windows(self.member.sums, KEY, LAYOUT, now=began)
        self.statistics = Statistics(self.member.ledger, "m", "1")
        self.http = HttpStatistics(self.member.ledger)

    def see(self, seed: int) -> Moments:
        """Sample three images."""
        moments = batch(seed)
        self.tally.add(moments)
        return moments

    def close(self, now: float) -> None:
        """Close the open window."""
        self.windows.close(self.windows.closed, self.tally.total(), now, REFERENCE)


def batch(seed: int) -> Moments:
    z = np.random.default_rng(seed).normal(size=(3, 2))
    return Moments.from_arrays(
        LAYOUT, {"images": 3, "bn/count": 3, "bn/sum": z.sum(0), "bn/sum_of_squares": (z**2).sum(0)}
    )


async def all_exchange(*replicas: Replica, times: int = 2) -> None:
    for _ in range(times):  # the first that speaks hears of the others when it speaks again
        for replica in replicas:
            await replica.member.exchange()


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 60))


def same(found: Moments, *wanted: Moments) -> None:
    np.testing.assert_allclose(found.values, np.sum([moments.values for moments in wanted], axis=0), atol=1e-12)


def test_what_one_counts_all_report() -> None:
    async def test() -> None:
        cluster = Cluster()
        one, two, three = (Replica(cluster, name) for name in "abc")
        seen = [replica.see(seed) for seed, replica in enumerate([one, two, two, three, one])]
        for replica, status in ((one, 200), (one, 404), (two, 200)):
            replica.http.observe("GET", "/v2", status, 0.2)
            replica.statistics.failure("OTHER", 7)
        await all_exchange(one, two, three)
        for replica in (one, two, three):
            same(replica.tally.total(), *seen)
            assert replica.tally.images == 15
            assert replica.statistics.report()["inference_stats"]["fail"] == {"count": 3, "ns": 21}
            assert sum(replica.member.ledger.total("http GET /v2 200")[:-1]) == 2
            assert replica.member.ledger.total("http GET /v2 404")[-1] == pytest.approx(0.2)
            assert replica.member.replicas == 3
        # And once more, with counts that were there already.
        seen.append(three.see(9))
        await all_exchange(one, two, three)
        for replica in (one, two, three):
            same(replica.tally.total(), *seen)

    run(test())


def test_what_is_true_of_one_replica_at_one_moment_is_not_added_up() -> None:
    async def test() -> None:
        cluster = Cluster()
        one, two = Replica(cluster, "a"), Replica(cluster, "b")
        one.statistics.gauge(5, 7)
        one.member.ledger.series("connections", 1)[0] = 4
        one.statistics.failure("OTHER")
        await all_exchange(one, two)
        at = two.statistics.numbers
        assert sum(two.member.ledger.total("connections")) == 0
        assert two.statistics.report()["inference_stats"]["fail"]["count"] == 1
        two.statistics.gauge(1, 2)
        await all_exchange(one, two)
        total = two.member.ledger.total("model/m/1")
        assert [total[i] for i, value in enumerate(at) if value in (1.0, 2.0)] == [1.0, 2.0]

    run(test())


def test_what_a_replica_counted_stays_when_it_is_gone() -> None:
    async def test() -> None:
        cluster = Cluster()
        old, gone = Replica(cluster, "a"), Replica(cluster, "b")
        seen = [old.see(1), gone.see(2)]
        await all_exchange(old, gone)
        successor = Replica(cluster, "c")
        seen += [successor.see(3), old.see(4)]
        await all_exchange(old, successor)
        for replica in (old, successor):
            same(replica.tally.total(), *seen)

    run(test())


def test_what_is_said_twice_counts_once() -> None:
    async def test() -> None:
        cluster = Cluster()
        one, two = Replica(cluster, "a"), Replica(cluster, "b")
        await all_exchange(one, two)
        seen = [one.see(1)]
        cluster.silent = True
        with pytest.raises(ConnectionError):
            await one.member.exchange()
        cluster.silent = False
        seen.append(one.see(2))
        await all_exchange(one, two)
        same(one.tally.total(), *seen)
        same(two.tally.total(), *seen)

    run(test())


def test_a_blackboard_that_is_lost_is_filled_again() -> None:
    async def test() -> None:
        cluster = Cluster()
        one, two, gone = (Replica(cluster, name) for name in "abc")
        seen = [one.see(1), two.see(2), gone.see(3)]
        await all_exchange(one, two, gone)
        one.close(200.0)
        await all_exchange(one, two)
        await cluster.ask("wish", "m", False)
        await all_exchange(one, two)
        cluster.blackboard = Blackboard()
        assert await asyncio.to_thread(one.member.journal.write, "n", True) == 2
        seen += [two.see(4), one.see(5)]
        await all_exchange(two, one)
        newcomer = Replica(cluster, "d", began=999.0)
        seen.append(newcomer.see(6))
        await all_exchange(newcomer, one, two)
        for replica in (one, two, newcomer):
            same(replica.tally.total(), *seen)
            assert replica.windows.closed == 1
            assert replica.windows.began == 100.0
            assert replica.member.journal.read() == (2, {"m": (1, False), "n": (2, True)})

    run(test())


def test_a_window_that_one_closes_is_closed_for_all_and_never_twice() -> None:
    async def test() -> None:
        cluster = Cluster()
        one, two = Replica(cluster, "a"), Replica(cluster, "b", began=101.0)
        first = [one.see(1), two.see(2)]
        await all_exchange(one, two)
        one.close(200.0)
        await all_exchange(one, two)
        both = (one.windows, two.windows)
        assert [windows.closed for windows in both] == [1, 1]
        assert one.windows.history() == two.windows.history()
        for windows in both:
            last = windows.last()
            assert last is not None
            same(last, *first)
        # Both find the next one due before they hear of each other: one of the two stands.
        second = [one.see(3), two.see(4)]
        one.close(210.0)
        two.close(211.0)
        await all_exchange(one, two)
        assert one.windows.history() == two.windows.history()
        assert [window.images for window in one.windows.history()] == [6, 3]
        rest = second[1] if one.windows.history()[-1].closed == 210.0 else second[0]
        for replica in (one, two):
            same(replica.windows.open(replica.tally.total()), rest)

    run(test())


def test_a_replica_that_comes_later_goes_on_with_the_windows_that_there_are() -> None:
    async def test() -> None:
        cluster = Cluster()
        old = Replica(cluster, "a")
        seen = [old.see(1)]
        old.close(200.0)
        await all_exchange(old)
        new = Replica(cluster, "b", began=300.0)  # its own windows begin later, and yet are not newer
        seen.append(new.see(2))
        await all_exchange(new, old)
        for replica in (old, new):
            assert replica.windows.began == 100.0
            assert replica.windows.closed == 1
            same(replica.windows.open(replica.tally.total()), seen[1])

    run(test())


def test_what_one_forgets_all_forget() -> None:
    async def test() -> None:
        cluster = Cluster()
        one, two = Replica(cluster, "a"), Replica(cluster, "b")
        one.see(1)
        two.see(2)
        one.close(200.0)
        await all_exchange(one, two)
        two.windows.reset(two.tally.total(), 300.0)
        await all_exchange(two, one)
        for replica in (one, two):
            assert replica.windows.history() == []
            assert replica.windows.everything(replica.tally.total()).images == 0
        later = one.see(3)
        await all_exchange(one, two)
        same(two.windows.everything(two.tally.total()), later)

    run(test())


def test_a_wish_reaches_every_replica_with_a_number_of_its_own() -> None:
    async def test() -> None:
        cluster = Cluster()
        one, two = Replica(cluster, "a"), Replica(cluster, "b")
        called = []
        controls = [SharedControl(replica.member, lambda: called.append(1)) for replica in (one, two)]
        await all_exchange(one, two)
        numbers = [
            await asyncio.to_thread(controls[0].publish, "m", False),
            await asyncio.to_thread(controls[1].publish, "n", True),
            await asyncio.to_thread(controls[1].publish, "m", True),
        ]
        assert numbers == [1, 2, 3]
        controls[1].wait_for_others(3)
        assert called == [1]
        assert controls[0].behind
        await one.member.exchange()
        assert controls[0].changes() == {"m": True, "n": True}
        controls[0].done()
        assert not controls[0].behind
        assert controls[0].alive() == 2
        await asyncio.to_thread(controls[0].publish, "n", False)
        newcomer = Replica(cluster, "c")
        await newcomer.member.exchange()
        assert SharedControl(newcomer.member, list).unloaded() == {"n"}

    run(test())
