"""The generated parts of docs/statistics.md: tables between markers, so that no figure is written by hand."""

import re
from collections.abc import Mapping, Sequence

import numpy as np

from bundle import GuardResult
from scripts.evidence.study import Condition, Results
from scripts.evidence.windows import table
from scripts.recalibrating.guards import FEWEST

ENOUGH_LOSS = 0.05  # of accuracy, above which a corruption must be detected
NO_LOSS = 0.005  # below it there is nothing to regain
OURS = "statistics of the layers"
SHORT = ("layers", "pixels", "softmax", "classes")  # the scores, in their order


def fill(text: str, parts: Mapping[str, str]) -> str:
    """Put every part between its markers, `<!-- begin: NAME -->` and `<!-- end: NAME -->`.

    Raises:
        ValueError: a part has no markers in the text, or the text has a marker without a part.
    """
    for name, part in parts.items():
        begin, end = f"<!-- begin: {name} -->", f"<!-- end: {name} -->"
        if begin not in text or end not in text:
            raise ValueError(f"the page has no markers for {name!r}: {begin} … {end}")
        head, _, rest = text.partition(begin)
        text = f"{head}{begin}\n\n{part.strip()}\n\n{end}{rest.partition(end)[2]}"
    left = set(re.findall(r"<!-- begin: (.*?) -->", text)) - set(parts)
    if left:
        raise ValueError(f"nothing was measured for {', '.join(sorted(left))}")
    return text


def parts(found: Results) -> dict[str, str]:
    """Every generated part of the page, by name."""
    return {
        "targets": _targets(found),
        "alarms": _alarms(found),
        "grades": _grades(found),
        "detection": _detection(found),
        "needed": _needed(found),
        "recovery": _recovery(found),
        "severities": _severities(found),
        "clean": _on_clean(found),
        "pseudo-count": _pseudo_counts(found),
        "guards": _cases(found),
    }


def _targets(found: Results) -> str:
    """What is asked, what was measured, and whether it holds."""
    clean, plan, amount = found.clean, found.plan, found.plan.usual
    assert clean.accuracy is not None
    costly = [c for c in found.conditions if c.severity >= 3 and _loss(c, clean) > ENOUGH_LOSS]
    worst = min(costly, key=lambda c: c.auc[OURS])
    missed = sum(c.auc[OURS] < 0.99 for c in costly)
    means = _means(found)
    best = max(value for name, value in means.items() if name != OURS)
    third = [c for c in found.conditions if c.severity == 3]
    photometric = [c for c in third if c.photometric and _loss(c, clean) > NO_LOSS]
    regained = float(np.mean([_regained(c, clean, amount) for c in photometric]))
    others = [c for c in third if not c.photometric]
    worse = min(others, key=lambda c: _change(c, amount))
    through = min((_change(c, amount) for c in others if all(g.passed for g in c.guards)), default=0.0)
    cost = clean.accuracy - min(mean for count, (mean, _) in found.on_clean.items() if count >= FEWEST)
    kept = not all(guard.passed for guard in found.cases[0].guards)
    ones = [c for c in found.cases if c.name.startswith("only class")]
    refused = sum(not all(g.passed for g in c.guards) for c in ones)
    low, high = min(found.alarms.values()), max(found.alarms.values())
    rows = [
        (
            "false alarms on held-out windows between 0.3 % and 2 %",
            f"{low:.2%} to {high:.2%}",
            low >= 0.003 and high <= 0.02,
        ),
        (
            f"AUC of at least 0.99 in windows of {plan.window}, from severity 3, where accuracy falls by over 5 points",
            f"{len(costly) - missed} of {len(costly)} conditions; lowest {worst.auc[OURS]:.4f} "
            f"({worst.name}, severity {worst.severity})",
            not missed,
        ),
        ("a better mean AUC than every baseline", f"{means[OURS]:.4f} against {best:.4f}", means[OURS] > best),
        (
            f"{amount} pictures at severity 3 regain 70 % of the loss to photometric corruptions",
            f"{regained:.0%} on average",
            regained >= 0.7,
        ),
        (
            f"{amount} pictures at severity 3 make no other corruption worse",
            f"{_points(through)} at worst where the guard rails let it; "
            f"{_points(_change(worse, amount))} where they do not ({worse.name})",
            through >= 0,
        ),
        (
            f"from {FEWEST} clean pictures on, at most 0.5 points lost on clean pictures",
            f"{_points(-cost)} on average if forced; the guard rails {'refuse' if kept else 'let it'}",
            cost <= 0.005 or kept,
        ),
        ("pictures of one class only are refused", f"{refused} of {len(ones)}", refused == len(ones)),
    ]  # fmt: skip
    return table(("asked", "measured", "holds"), [(a, m, "yes" if holds else "**no**") for a, m, holds in rows])


def _alarms(found: Results) -> str:
    shares = (f"{rate:.2%}" for rate in found.alarms.values())
    return table(("pictures in the window", *map(str, found.alarms)), [("false alarms", *shares)])


def _grades(found: Results) -> str:
    rows = [
        (c.name, _percent(c.accuracy), f"{c.score:.4f}", *(f"{share:.0%}" for share in c.grades.values()))
        for c in (found.validation, found.clean, *found.strangers)
    ]
    return table(("pictures", "accuracy", "score", *found.clean.grades), rows)


def _detection(found: Results) -> str:
    rows: list[tuple[str, ...]] = []
    for c in found.conditions:
        grade = max(c.grades, key=lambda g: c.grades[g])
        numbers = (_percent(c.accuracy), f"{c.score:.3f}", grade, _count(c.needed[OURS]))
        rows.append((f"{c.name}, {c.severity}", *numbers, *(f"{value:.3f}" for value in c.auc.values())))
    rows.append(("**mean**", "", "", "", "", *(f"**{value:.3f}**" for value in _means(found).values())))
    heads = (f"AUC {name}" for name in SHORT)
    return table(("corruption, severity", "accuracy", "score", "verdict", "pictures needed", *heads), rows)


def _needed(found: Results) -> str:
    rows = [(c.name, *map(_count, c.needed.values())) for c in found.conditions if c.severity == 3]
    return table(("pictures needed at severity 3", *SHORT), rows)


def _recovery(found: Results) -> str:
    usual, rows = found.plan.usual, []
    for c in (c for c in found.conditions if c.severity == 3):
        gain = f"{_regained(c, found.clean, usual):.0%}".replace("-", "−") if _loss(c, found.clean) > NO_LOSS else ""
        after = (_percent(c.recalibrated.get(amount)) for amount in found.plan.amounts)
        rows.append((c.name, _percent(c.accuracy), *after, gain, _verdict(c.guards)))
    amounts = (f"{amount:,}" for amount in found.plan.amounts)
    return table(("severity 3", "before", *amounts, f"regained with {usual}", f"guard rails at {usual}"), rows)


def _severities(found: Results) -> str:
    rows = []
    for name in dict.fromkeys(c.name for c in found.conditions):
        ours = [c for c in found.conditions if c.name == name]
        rows.append(
            (name, *(f"{_percent(c.accuracy)} → {_percent(c.recalibrated.get(found.plan.usual))}" for c in ours))
        )
    return table((f"{found.plan.usual} pictures", *(f"severity {s}" for s in found.plan.severities)), rows)


def _on_clean(found: Results) -> str:
    rows = [
        ("mean", _percent(found.clean.accuracy), *(_percent(mean) for mean, _ in found.on_clean.values())),
        ("lowest", "", *(_percent(lowest) for _, lowest in found.on_clean.values())),
    ]
    return table(("clean pictures", "before", *(f"{amount:,}" for amount in found.on_clean)), rows)


def _pseudo_counts(found: Results) -> str:
    counts = list(dict.fromkeys(count for _, count in found.pseudo_counts))
    rows = []
    for amount in dict.fromkeys(amount for amount, _ in found.pseudo_counts):
        for kind in found.pseudo_counts[amount, counts[0]]:
            changes = (_points(found.pseudo_counts[amount, count][kind]) for count in counts)
            rows.append((f"{amount} pictures, {kind}", *changes))
    return table(("pseudo-count", *(f"{count:g}" for count in counts)), rows)


def _cases(found: Results) -> str:
    rows = [(c.name, _percent(c.before), _percent(c.after), _verdict(c.guards)) for c in found.cases]
    return table(("recalibrated on", "before", "after, if forced", "guard rails"), rows)


def _means(found: Results) -> dict[str, float]:
    return {name: float(np.mean([c.auc[name] for c in found.conditions])) for name in found.clean.auc}


def _verdict(guards: Sequence[GuardResult]) -> str:
    refused = [guard.name for guard in guards if not guard.passed]
    return f"refused: {', '.join(refused)}" if refused else "made"


def _count(needed: int | None) -> str:
    return "more" if needed is None else str(needed)


def _loss(condition: Condition, clean: Condition) -> float:
    assert condition.accuracy is not None
    assert clean.accuracy is not None
    return clean.accuracy - condition.accuracy


def _change(condition: Condition, amount: int) -> float:
    assert condition.accuracy is not None
    return condition.recalibrated[amount] - condition.accuracy


def _regained(condition: Condition, clean: Condition, amount: int) -> float:
    return _change(condition, amount) / _loss(condition, clean)


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


def _points(value: float) -> str:
    return f"{100 * value:+.1f} points".replace("-", "−")
