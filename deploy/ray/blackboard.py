"""What the replicas have in common: the sum of their counts, the windows of drift, and what an operator wished.

A replica writes how much it has counted in all, never how much since, so that what is said twice counts once, and what
it counted stays when it is gone. A blackboard that is new, since the machine of the last one was lost, is filled by the
first replica that comes to it. This is a plain class; `deploy.ray.app` makes an actor of it.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from service.watch.windows import age

Rows = dict[str, NDArray[np.float64]]  # series of numbers, by name
Wishes = dict[str, tuple[int, bool]]  # by model: the number of the last wish, and whether it shall serve
ALIVE = 15.0  # seconds without a word after which a replica is not counted as one that serves
FORGOTTEN = 600.0  # seconds after which what it said is added up for good; it may still come back, and says it again


@dataclass
class Known:
    """What a replica knows, and tells a blackboard that does not know it.

    Attributes:
        counted: by itself, as far as a blackboard has added it up.
        totals: of all replicas.
        windows: the series of windows.
        wishes: of the operator.
    """

    counted: Rows = field(default_factory=dict)
    totals: Rows = field(default_factory=dict)
    windows: Rows = field(default_factory=dict)
    wishes: Wishes = field(default_factory=dict)


@dataclass(frozen=True)
class News:
    """What a replica is told.

    Attributes:
        revision: of the blackboard; to be named the next time.
        totals: of all replicas, where they have changed since the revision that was named.
        windows: the series of windows that are not those that the replica told of.
        wishes: all of them.
        replicas: that serve.
    """

    revision: int
    totals: Rows
    windows: Rows
    wishes: Wishes
    replicas: int


class Blackboard:
    """One for all replicas of a deployment."""

    def __init__(self) -> None:
        self._counted: dict[str, Rows] = {}
        self._heard: dict[str, float] = {}
        self._totals: Rows = {}
        self._changed: dict[str, int] = {}
        self._windows: Rows = {}
        self._wishes: Wishes = {}
        self._revision = 0

    def join(self, replica: str, known: Known) -> None:
        """Begin, or begin again after the last blackboard was lost."""
        self._revision += 1
        for key, values in known.totals.items():
            if key not in self._totals:
                self._totals[key], self._changed[key] = values, self._revision
        self._windows = known.windows | self._windows
        if newest(known.wishes) > newest(self._wishes):
            self._wishes = dict(known.wishes)
        self._counted[replica] = dict(known.counted)
        self._heard[replica] = now = time.monotonic()
        for name in [name for name, heard in self._heard.items() if heard < now - FORGOTTEN]:
            del self._heard[name], self._counted[name]

    def exchange(self, replica: str, revision: int, counted: Rows, windows: Rows, begun: Rows) -> News | None:
        """Add up what a replica has counted.

        Args:
            replica: its name.
            revision: of the news that it had last.
            counted: its series, in all, where they have changed.
            windows: the series of windows that go on from those that are here, as the replica has them.
            begun: those that it has begun by itself; they count if there are none here.

        Returns:
            The news; None to a replica that must `join` first.
        """
        before = self._counted.get(replica)
        if before is None:
            return None
        self._heard[replica] = time.monotonic()
        self._revision += bool(counted)
        for key, values in counted.items():
            self._totals[key] = self._totals.get(key, 0.0) + (values - before.get(key, 0.0))
            self._changed[key] = self._revision
        before |= counted
        for key, series in windows.items():
            if key not in self._windows or age(series) > age(self._windows[key]):
                self._windows[key] = series
        self._windows = begun | self._windows
        told = windows | begun
        return News(
            self._revision,
            {key: total for key, total in self._totals.items() if self._changed[key] > revision},
            {key: found for key, found in self._windows.items() if key not in told or age(told[key]) != age(found)},
            dict(self._wishes),
            sum(heard > time.monotonic() - ALIVE for heard in self._heard.values()),
        )

    def wish(self, model: str, serve: bool) -> Wishes:
        """Write down what an operator wishes; all the wishes, that one with a number of its own."""
        self._wishes[model] = (newest(self._wishes) + 1, serve)
        return dict(self._wishes)


def newest(wishes: Mapping[str, tuple[int, bool]]) -> int:
    """The number of the last wish; 0 if there is none."""
    return max((number for number, _ in wishes.values()), default=0)
