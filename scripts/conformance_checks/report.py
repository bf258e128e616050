"""Checks, what came of them, and the table that is printed."""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Literal

from scripts.conformance_checks.target import Target

Result = Literal["pass", "fail", "skip"]


class MismatchError(AssertionError):
    """The server answered something else than the protocol says."""


class SkippedError(Exception):
    """The check does not apply here; the text says why."""


@dataclass(frozen=True)
class Check:
    """One thing to hold.

    Attributes:
        group: of checks that belong together.
        name: what must hold, in a few words.
        run: returns what was seen; raises `MismatchError` if it does not hold, `SkippedError` if it is no question.
    """

    group: str
    name: str
    run: Callable[[Target], str]


@dataclass(frozen=True)
class Outcome:
    """What came of a check."""

    group: str
    name: str
    result: Result
    seen: str
    seconds: float


def checks(group: str, *functions: Callable[[Target], str]) -> tuple[Check, ...]:
    """Checks that are named by the first line of their docstrings."""
    return tuple(Check(group, (f.__doc__ or f.__name__).partition("\n")[0].rstrip("."), f) for f in functions)


def expect(condition: object, seen: str) -> None:
    """Fail the running check with what was seen, unless the condition holds.

    Raises:
        MismatchError: it does not.
    """
    if not condition:
        raise MismatchError(seen)


def perform(check: Check, target: Target) -> Outcome:
    """Run one check; whatever it raises is an outcome."""
    start = time.perf_counter()
    result: Result
    try:
        result, seen = "pass", check.run(target)
    except SkippedError as reason:
        result, seen = "skip", str(reason)
    except MismatchError as mismatch:
        result, seen = "fail", str(mismatch)
    except Exception as error:  # a client that breaks on an answer is a finding, not an end
        result, seen = "fail", f"{type(error).__name__}: {error}"
    return Outcome(check.group, check.name, result, " ".join(seen.split()), round(time.perf_counter() - start, 3))


def summary(outcomes: Iterable[Outcome]) -> str:
    """`74 pass, 0 fail, 1 skip`."""
    counts = Counter(outcome.result for outcome in outcomes)
    return ", ".join(f"{counts[result]} {result}" for result in ("pass", "fail", "skip"))


def as_table(outcomes: Iterable[Outcome], width: int = 100) -> str:
    """The outcomes as a Markdown table, what was seen cut to `width` characters."""
    rows = [(f"{o.group}: {o.name}", o.result.upper() if o.result == "fail" else o.result, o.seen) for o in outcomes]
    first = max((len(name) for name, _, _ in rows), default=5)
    lines = [f"| {'check':<{first}} | result | seen |", f"|{'-' * (first + 2)}|--------|------|"]
    for name, result, seen in rows:
        text = (seen if len(seen) <= width else seen[: width - 1] + "…").replace("|", "\\|")
        lines.append(f"| {name:<{first}} | {result:<6} | {text} |")
    return "\n".join(lines)


def as_json(target: Target, outcomes: Iterable[Outcome]) -> str:
    """Everything, for a program."""
    listed = list(outcomes)
    return json.dumps(
        {"url": target.url, "model": target.model, "summary": summary(listed), "checks": [asdict(o) for o in listed]},
        indent=2,
        ensure_ascii=False,
    )
