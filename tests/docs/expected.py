"""Whether a command printed what the documentation shows.

`…` (or `...`) in a text stands for anything within its line, and alone on a line for any number of lines. In JSON, the
string "…" stands for any value, as the last element of a list for any further ones, and as a key for any further keys;
numbers that are not whole may differ by 0.001, since the last digits belong to the machine.
"""

import json
import math
import re
from typing import Any

ANYTHING = ("…", "...")


def same_text(expected: str, actual: str) -> bool:
    """Compare two texts, apart from white space at the ends of lines."""
    pattern = ""
    for line in expected.strip().splitlines():
        if line.strip() in ANYTHING:
            pattern += r"(?:.*\n)*"
        else:
            pieces = re.split(r"…|\.\.\.", line.rstrip())
            pattern += ".*".join(map(re.escape, pieces)) + "\n"
    lines = "".join(line.rstrip() + "\n" for line in actual.strip().splitlines())
    return re.fullmatch(pattern, lines) is not None


def same_json(expected: str, actual: str) -> bool:
    """Compare two JSON documents; what is not JSON is never the same."""
    try:
        return _same(json.loads(expected), json.loads(actual))
    except ValueError:
        return False


def _same(expected: Any, actual: Any) -> bool:
    if expected in ANYTHING:
        return True
    if isinstance(expected, dict) and isinstance(actual, dict):
        named = expected.keys() - set(ANYTHING)
        complete = named == actual.keys() or (named != expected.keys() and named <= actual.keys())
        return complete and all(_same(expected[key], actual[key]) for key in named)
    if isinstance(expected, list) and isinstance(actual, list):
        if expected and expected[-1] in ANYTHING:
            expected = expected[:-1]
            actual = actual[: len(expected)]
        return len(expected) == len(actual) and all(map(_same, expected, actual))
    if isinstance(expected, float) and isinstance(actual, int | float):
        return math.isclose(expected, actual, rel_tol=0, abs_tol=1e-3)
    return type(expected) is type(actual) and bool(expected == actual)
