"""The measurements behind docs/statistics.md."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from bnfold.reestimate import reestimate
from bundle import Bundle, BundleError, GuardResult
from bundle.statistics import layer_references, read_reference, read_statistics
from drift import Reference, Thresholds, Verdict, calibrate, judge
from scripts.evidence.corruptions import CORRUPTIONS, SEVERITIES, Corruption
from scripts.evidence.windows import Detectors, Pictures, auc, draw, measure, scores
from scripts.recalibrating import guards
from scripts.recalibrating.assemble import PSEUDO_COUNT
from scripts.recalibrating.measure import answers, early_features

GRADES = ("none", "mild", "strong")
Images = NDArray[np.uint8]
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes:
        pool: test pictures that windows are drawn from and accuracy is measured on.
        window: pictures in the windows of the AUC.
        windows: drawn for each figure.
        sizes: of windows, for the number of pictures that is needed.
        amounts: of unlabelled pictures to recalibrate with, others than the pool's.
        usual: the one of them that every severity is tried with.
        severities: that are tried; the third is tried with every amount.
        corruptions: that are tried.
    """

    pool: int = 2000
    window: int = 256
    windows: int = 150
    sizes: tuple[int, ...] = (8, 16, 32, 64, 128, 256, 512, 1024)
    amounts: tuple[int, ...] = (32, 128, 512, 2048)
    usual: int = 512
    severities: tuple[int, ...] = SEVERITIES
    corruptions: tuple[Corruption, ...] = CORRUPTIONS


@dataclass
class Condition:
    """One corruption at one severity, or other data.

    Attributes:
        name: of the corruption or the data.
        severity: 0 for what is no corruption.
        photometric: see `Corruption`.
        accuracy: on the pool; None where there are no right answers.
        auc: by score.
        score: median of ours over windows.
        needed: pictures needed to detect, by score; None where no size is enough.
        grades: share of the windows by verdict.
        recalibrated: accuracy on the pool by the number of pictures.
        guards: what the guards say of `usual` pictures, at severity 3.
    """

    name: str
    severity: int
    photometric: bool
    accuracy: float | None
    auc: dict[str, float]
    score: float
    needed: dict[str, int | None]
    grades: dict[str, float]
    recalibrated: dict[int, float] = field(default_factory=dict)
    guards: tuple[GuardResult, ...] = ()


@dataclass(frozen=True)
class Case:
    """A set of pictures that the guard rails are tried on, and what the recalibration would do to its accuracy."""

    name: str
    before: float | None
    after: float | None
    guards: tuple[GuardResult, ...]


@dataclass(frozen=True)
class Results:
    """All that the page reports.

    Attributes:
        plan: how much was measured.
        validation: windows of held-out pictures of the training set; no detection.
        clean: KMNIST's test pictures as they are.
        strangers: other data.
        conditions: every corruption at every severity.
        alarms: share of false alarms by the windows' size.
        on_clean: mean and lowest accuracy after recalibrating on clean pictures, by their number.
        cases: of the guard rails.
        pseudo_counts: see `Study.pseudo_counts`.
    """

    plan: Plan
    validation: Condition
    clean: Condition
    strangers: tuple[Condition, ...]
    conditions: tuple[Condition, ...]
    alarms: dict[int, float]
    on_clean: dict[int, tuple[float, float]]
    cases: tuple[Case, ...]
    pseudo_counts: dict[tuple[int, float], dict[str, float]]


class Study:
    """One bundle on one data set.

    Args:
        bundle: with a reference, a probe and its statistics.
        held_out: pictures of the training's kind that the network did not learn from.
        test: pictures and classes.
        plan: how much is measured.
        say: is told what is being done.

    Raises:
        BundleError: the bundle cannot be watched.
    """

    def __init__(
        self,
        bundle: Bundle,
        held_out: Images,
        test: tuple[Images, NDArray[Any]],
        plan: Plan,
        say: Callable[[str], None],
    ) -> None:
        self.bundle, self.plan, self._say, self._start = bundle, plan, say, time.monotonic()
        self._reference = onnx.load_model(str(bundle.path("reference.onnx")))
        self._probe = onnx.load_model(str(bundle.path("probe.onnx")))
        self._input = self._reference.graph.input[0].name
        order = np.random.default_rng(0).permutation(len(test[0]))
        pool, rest = order[: plan.pool], order[plan.pool : plan.pool + max(plan.amounts)]
        self.images, self.labels = test[0][pool], test[1][pool].astype(np.int64)
        self.others, self.other_labels = test[0][rest], test[1][rest].astype(np.int64)
        self.watched, self.thresholds, self.held_out = self._expected(held_out)
        self.scores = scores(self.watched, self.held_out)
        self.clean = measure(self._probe, self.watched.layout, self.images)
        self._detectors = Detectors(self.scores, self.clean, plan.sizes, plan.windows)
        self._negative = self._windows(self.clean, 1)

    def _expected(self, held_out: Images) -> tuple[Reference, Thresholds, Pictures]:
        """The bundle's own thresholds, or, where it has none, thresholds from half of the held-out pictures."""
        found = read_reference(self.bundle)
        if found is None:
            raise BundleError(f"{self.bundle.folder}: no layer can be watched")
        watched, thresholds = found
        pictures = measure(self._probe, watched.layout, held_out)
        if thresholds is None:
            order = np.random.default_rng(0).permutation(len(held_out))[: len(held_out) // 2]
            layers = layer_references(read_statistics(self.bundle))
            watched, thresholds = calibrate(layers, pictures.moments[order])
        return watched, thresholds, pictures

    def conditions(self) -> list[Condition]:
        """Every corruption at every severity."""
        found = []
        for corruption in self.plan.corruptions:
            for severity in self.plan.severities:
                self.say(f"{corruption.name}, severity {severity}")
                images = corruption(self.images, severity, seed=1)
                condition = self.condition(corruption.name, images, severity, corruption.photometric)
                amounts = self.plan.amounts if severity == 3 else (self.plan.usual,)
                others = corruption(self.others, severity, seed=2)
                for amount in amounts:
                    renewed = self._renewed(others[:amount])
                    condition.recalibrated[amount] = self._accuracy(answers(renewed, images))
                    if amount == self.plan.usual and severity == 3:
                        condition.guards = self._guards(others[:amount], renewed)
                found.append(condition)
        return found

    def condition(
        self, name: str, images: Images, severity: int = 0, photometric: bool = False, *, known: bool = True
    ) -> Condition:
        """Detection of one kind of pictures; `known` if they are the pool's, whose classes are known."""
        pictures = measure(self._probe, self.watched.layout, images)
        positive = self._windows(pictures, 2)
        verdicts = self.verdicts(positive)
        return Condition(
            name,
            severity,
            photometric,
            self._accuracy(pictures.answers) if known else None,
            {name: auc(score(self._negative), score(positive)) for name, score in self.scores.items()},
            float(np.median(self.watched.score(positive.moments))),
            self._detectors.needed(pictures),
            {grade: float(np.mean([v.grade == grade for v in verdicts])) for grade in GRADES},
        )

    def on_held_out(self, labels: Labels) -> Condition:
        """The verdicts on windows of held-out pictures; they are what the rest is compared with, so nothing else."""
        windows = self._windows(self.held_out, 9)
        verdicts = self.verdicts(windows)
        return Condition(
            "held-out training pictures",
            0,
            False,
            float(np.mean(self.held_out.classes == labels)),
            {},
            float(np.median(self.watched.score(windows.moments))),
            {},
            {grade: float(np.mean([v.grade == grade for v in verdicts])) for grade in GRADES},
        )

    def verdicts(self, windows: Pictures) -> list[Verdict]:
        """What the server would say of windows."""
        found = self.watched.score(windows.moments)
        return [
            judge(float(s), round(float(n)), self.thresholds) for s, n in zip(found, windows.moments[:, 0], strict=True)
        ]

    def on_clean(self, repeats: int = 3) -> dict[int, tuple[float, float]]:
        """Mean and lowest accuracy on clean pictures after recalibrating on clean ones, by their number."""
        found = {}
        for amount in self.plan.amounts:
            if amount > len(self.others):
                continue
            accuracies = []
            for repeat in range(repeats if amount * 2 <= len(self.others) else 1):
                chosen = np.random.default_rng(repeat).permutation(len(self.others))[:amount]
                accuracies.append(self._accuracy(answers(self._renewed(self.others[chosen]), self.images)))
            found[amount] = float(np.mean(accuracies)), min(accuracies)
        return found

    def pseudo_counts(
        self, held_out: Images, labels: Labels, counts: tuple[float, ...], amounts: tuple[int, ...]
    ) -> dict[tuple[int, float], dict[str, float]]:
        """Change of accuracy on held-out pictures by (pictures, pseudo-count), for each kind of corruption."""
        images, known, others = held_out[:800], labels[:800], held_out[800 : 800 + max(amounts)]
        found: dict[tuple[int, float], dict[str, list[float]]] = {}
        for corruption in (None, *self.plan.corruptions):
            kind = (
                "clean" if corruption is None else f"{'photometric' if corruption.photometric else 'other'} corruptions"
            )
            shown = images if corruption is None else corruption(images, 3, seed=4)
            given = others if corruption is None else corruption(others, 3, seed=5)
            self.say(f"pseudo-counts, {corruption.name if corruption else 'clean'}")
            before = np.mean(answers(self._reference, shown).argmax(1) == known)
            for amount in amounts:
                for count in counts:
                    after = np.mean(answers(self._renewed(given[:amount], count), shown).argmax(1) == known)
                    found.setdefault((amount, count), {}).setdefault(kind, []).append(float(after - before))
        return {key: {kind: float(np.mean(v)) for kind, v in kinds.items()} for key, kinds in found.items()}

    def cases(self) -> list[Case]:
        """What the guard rails say of pictures that must not be recalibrated on, and of some that may be."""
        size, classes, random = self.plan.usual, self.other_labels, np.random.default_rng(6)
        chosen: dict[str, Any] = {"as in the test set": np.arange(size), "32 of them": np.arange(32)}
        for label in range(int(classes.max()) + 1):
            chosen[f"only class {label}"] = np.flatnonzero(classes == label)[:size]
        chosen["two classes"] = np.flatnonzero(classes < 2)[:size]
        chosen["five of the ten classes"] = np.flatnonzero(classes < 5)[:size]
        weights = 1.0 / (1 + classes)
        chosen["class frequencies as 1, 1/2, …, 1/10"] = random.choice(
            len(classes), size, replace=False, p=weights / weights.sum()
        )
        found = [self.case(name, self.others[rows], classes[rows]) for name, rows in chosen.items()]
        for corruption in (c for c in self.plan.corruptions if c.photometric):
            one = np.flatnonzero(classes == 0)
            images = corruption(self.others[one], 3, seed=7)
            found.append(self.case(f"only class 0, {corruption.name}", images, classes[one]))
            half = size // 2
            mixed = np.concatenate([self.others[:half], corruption(self.others[half:size], 3, seed=7)])
            found.append(self.case(f"half of them with {corruption.name}", mixed, classes[:size]))
        return found

    def case(self, name: str, images: Images, labels: Labels | None) -> Case:
        """The guards on one set of pictures; accuracies on these very pictures."""
        self.say(f"guard rails, {name}")
        renewed = self._renewed(images)
        before, after = answers(self._reference, images), answers(renewed, images)
        old, new = (None if labels is None else float(np.mean(a.argmax(1) == labels)) for a in (before, after))
        return Case(name, old, new, self._guards(images, renewed))

    def _guards(self, images: Images, renewed: onnx.ModelProto) -> tuple[GuardResult, ...]:
        before, after = answers(self._reference, images), answers(renewed, images)
        kind = guards.one_kind(early_features(self._reference, images))
        return guards.enough(len(images)), kind, guards.surer(before, after), guards.balanced(before, after)

    def _renewed(self, images: Images, pseudo_count: float = PSEUDO_COUNT) -> onnx.ModelProto:
        return reestimate(self._reference, {self._input: images}, pseudo_count=pseudo_count).model

    def _windows(self, pictures: Pictures, seed: int) -> Pictures:
        count = len(pictures.moments)
        return pictures.windows(
            draw(count, min(self.plan.window, count // 2), self.plan.windows, np.random.default_rng(seed))
        )

    def _accuracy(self, found: NDArray[np.float64]) -> float:
        return float(np.mean(found.argmax(1) == self.labels))

    def say(self, what: str) -> None:
        """Tell what is being done, and when."""
        self._say(f"{time.monotonic() - self._start:5.0f} s  {what}")
