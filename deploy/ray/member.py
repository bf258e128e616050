"""A replica's part of what all have in common: its counts in one row of the ledgers, those of all others in another.

So everything that the server reports of its ledgers, metrics and drift alike, is of all replicas, and nothing in it has
to know of them. The rows of the others are as old as the last exchange with the blackboard.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.ray.blackboard import Known, News, Rows, Wishes, newest
from service.control import Control, Journal
from service.errors import UnavailableError
from service.metrics.ledger import SUMS, Ledger
from service.metrics.statistics import LAYOUT
from service.watch.tally import replace, room, steady
from service.watch.windows import SUFFIX, age

log = logging.getLogger(__name__)

PERIOD = 5.0  # seconds between exchanges that nobody asked for
PATIENCE = 30.0  # seconds to wait for a blackboard, to write down a wish
MINE, OTHERS = 0, 1  # rows
DRIFT = "drift/"  # how the names of the series begin that are sampled (`service.watch.tally`)
# What is true of one replica at one moment is not added up.
OWN_SERIES = ("connections", "control")
OWN_NUMBERS = [LAYOUT[name] for name in ("pending", "unfinished", "last_inference_ms")]
Array = NDArray[np.float64]


class Member:
    """One replica.

    Args:
        name: of the replica; no other one ever has it.
        ask: calls a method of the blackboard.

    Attributes:
        ledger: what the data plane counts in.
        sums: what it sums up the statistics of the traffic in.
        journal: the operator's wishes.
        replicas: how many serve.
    """

    def __init__(self, name: str, ask: Callable[..., Awaitable[Any]]) -> None:
        self._name, self._ask = name, ask
        self.ledger, self.sums = Ledger(rows=2), Ledger(rows=2, capacity=SUMS)
        self.journal = SharedJournal(self._wish)
        self.replicas = 1
        self._known = Known()
        self._revision = 0
        self._joined = False
        self._followed: set[str] = set()  # the windows that go on from those of the blackboard
        self._exchanging = asyncio.Lock()
        self._loop = asyncio.get_running_loop()

    async def exchange(self) -> None:
        """Tell what was counted here, and take over what was counted elsewhere, and what was wished.

        Raises:
            Exception: whatever `ask` raises; nothing is lost, the next exchange says it all.
        """
        async with self._exchanging:
            news = None
            while news is None:
                if not self._joined:
                    await self._ask("join", self._name, self._known)
                    self._joined, self._revision = True, 0
                # First the windows: their beginnings must not be ahead of the sums.
                windows, counted = self._windows(), self._counted()
                told: tuple[Rows, Rows] = ({}, {})
                for key, series in windows.items():
                    told[key not in self._followed][key] = series
                news = await self._ask("exchange", self._name, self._revision, counted, *told)
                self._joined = news is not None
            self._known.counted |= counted
            self._take(news, windows)

    async def follow(self) -> None:
        """Exchange now and then; until cancelled."""
        said = False
        while True:
            await asyncio.sleep(PERIOD)
            try:
                await self.exchange()
                said = False
            except Exception as error:  # whatever Ray raises; this replica goes on with what it knows
                if not said:
                    log.warning("what the other replicas count is not known: %s", error)
                said = True

    def _wish(self, model: str, serve: bool) -> Wishes:
        """In a thread of an operator's request."""
        told: Wishes = asyncio.run_coroutine_threadsafe(self._told(model, serve), self._loop).result()
        return told

    async def _told(self, model: str, serve: bool) -> Any:
        end = time.monotonic() + PATIENCE
        while True:
            try:
                await self.exchange()  # or a blackboard that is new would begin with another number
                return await self._ask("wish", model, serve)
            except Exception as error:  # whatever Ray raises while there is no blackboard
                if time.monotonic() > end:
                    log.error("the other replicas were not told of %s: %s", model, error)
                    raise UnavailableError("done here, but the other replicas could not be told; ask again") from error
            await asyncio.sleep(0.2)

    def _counted(self) -> Rows:
        """This replica's series, where they are not as the blackboard knows them."""
        found = {key: steady(np.asarray(self.sums.every_row(key)[MINE])) for key in self._sampled()}
        for key in self.ledger.names():
            if key not in OWN_SERIES:
                found[key] = np.array(self.ledger.every_row(key)[MINE])
                if key.startswith("model/"):
                    found[key][OWN_NUMBERS] = 0
        known = self._known.counted
        return {key: row for key, row in found.items() if not np.array_equal(row, known.get(key, np.zeros_like(row)))}

    def _windows(self) -> Rows:
        keys = [key for key in self.sums.names() if key.endswith(SUFFIX)]
        rows = {key: np.asarray(self.sums.every_row(key)[MINE]) for key in keys}
        with self.sums.exclusive():
            return {key: row.copy() for key, row in rows.items()}

    def _sampled(self) -> list[str]:
        return [key for key in self.sums.names() if not key.endswith(SUFFIX)]

    def _take(self, news: News, windows: Rows) -> None:
        self._revision, self.replicas = news.revision, news.replicas
        self._known.totals |= news.totals
        for key, total in news.totals.items():
            others = total - self._known.counted.get(key, 0.0)
            if key.startswith(DRIFT):
                row = _row(self.sums, key, room(len(others)), OTHERS)
                if row is not None:
                    replace(row, others)
            else:
                row = _row(self.ledger, key, len(others), OTHERS)
                if row is not None:
                    row[:] = others
        for key, series in news.windows.items():
            mine = _row(self.sums, key, len(series), MINE)
            if mine is not None:
                with self.sums.exclusive():
                    if key not in self._followed or age(series) > age(mine):
                        mine[:] = series
        self._followed |= set(news.windows) | set(windows)
        self._known.windows = self._windows()
        self._known.wishes = news.wishes
        self.journal.take(news.wishes)


class SharedJournal(Journal):
    """The operator's wishes, as the blackboard numbers them.

    Args:
        tell: writes a wish on the blackboard, and gives all wishes.
    """

    def __init__(self, tell: Callable[[str, bool], Wishes]) -> None:
        super().__init__()
        self._tell = tell
        self._wishes: Wishes = {}

    def take(self, wishes: Wishes) -> None:
        """Take over what is newer."""
        if newest(wishes) > newest(self._wishes):
            self._wishes = wishes

    def number(self) -> int:
        """The number of the last wish."""
        return newest(self._wishes)

    def read(self) -> tuple[int, Wishes]:
        """That number, and the last wish for each model."""
        wishes = self._wishes
        return newest(wishes), wishes

    def write(self, model: str, serve: bool) -> int:
        """Add a wish; its number."""
        wishes = self._tell(model, serve)
        self.take(wishes)
        return wishes[model][0]


class SharedControl(Control):
    """What a data plane does with the journal, where the others are replicas.

    Args:
        member: of this replica.
        call_all: lets every replica follow the wishes, and waits for that.
    """

    def __init__(self, member: Member, call_all: Callable[[], object]) -> None:
        super().__init__(member.ledger, member.journal)
        self._member, self._call_all = member, call_all

    def alive(self) -> int:
        """The replicas that serve."""
        return self._member.replicas

    def wait_for_others(self, number: int) -> None:
        """Wait until they have followed the wishes, but not for ever."""
        self._call_all()


def _row(ledger: Ledger, key: str, length: int, row: int) -> Array | None:
    """A row of a series, which is begun if it is not there; None where there is no room for it."""
    try:
        ledger.series(key, length)
    except MemoryError as error:
        log.warning("what other replicas count is not added here: %s", error)
        return None
    return np.asarray(ledger.every_row(key)[row])
