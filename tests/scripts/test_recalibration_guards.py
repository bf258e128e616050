"""Guard rails on answers and features whose nature is known."""

import numpy as np
import pytest

from scripts.recalibrating import guards


def answers(classes: np.ndarray, sure: float, count: int = 10) -> np.ndarray:
    """Probabilities: `sure` for the class, the rest spread over the others."""
    rows = np.full((len(classes), count), (1 - sure) / (count - 1))
    rows[np.arange(len(classes)), classes] = sure
    return rows


def test_entropy_and_effective_classes_are_those_of_the_textbook():
    assert guards.entropy(np.full((3, 10), 0.1)) == pytest.approx(np.log(10))
    assert guards.entropy(np.eye(10)) == pytest.approx(0, abs=1e-9)
    assert guards.effective_classes(np.array([5, 5, 0, 5])) == pytest.approx(3)
    assert guards.effective_classes(np.array([7])) == pytest.approx(1)


def test_balance_is_judged_by_the_network_that_is_surer():
    random = np.random.default_rng(0)
    all_classes, one = random.integers(0, 10, 500), np.full(500, 3)

    assert guards.balanced(answers(one, 0.5), answers(all_classes, 0.9)).passed
    assert not guards.balanced(answers(one, 0.9), answers(all_classes, 0.5)).passed
    assert not guards.balanced(answers(all_classes, 0.5), answers(one, 0.9)).passed


@pytest.mark.parametrize("count", [64, 1000])
@pytest.mark.parametrize("classes", [2, 10, 300])
def test_ordinary_imbalance_passes_and_few_classes_do_not(count, classes):
    random = np.random.default_rng(1)
    weights = 1 / np.arange(1, classes + 1) ** 0.7
    ordinary = random.choice(classes, count, p=weights / weights.sum())
    single = np.zeros(count, int)

    assert guards.balanced(answers(ordinary, 0.8, classes), answers(ordinary, 0.8, classes)).passed
    assert not guards.balanced(answers(single, 0.8, classes), answers(single, 0.8, classes)).passed


def test_a_network_that_is_not_surer_is_refused():
    some = np.arange(100) % 10

    assert guards.surer(answers(some, 0.4), answers(some, 0.9)).passed
    assert not guards.surer(answers(some, 0.9), answers(some, 0.9)).passed
    assert not guards.surer(answers(some, 0.9), answers(some, 0.4)).passed
    assert not guards.surer(answers(some, 0.1), answers(some, 0.6)).passed  # surer, but near guessing


def test_two_groups_are_a_mixture_and_one_group_or_a_few_outliers_are_not():
    random = np.random.default_rng(2)
    one = random.normal(0, 1, (400, 6)) * [3, 1, 1, 1, 1, 0]
    two = one + 10 * (np.arange(400) < 100)[:, None]
    outliers = one + 1e3 * (np.arange(400) < 8)[:, None]

    assert guards.separation(one) == pytest.approx(2 / np.pi, abs=0.05)  # of a normal distribution
    assert guards.one_kind({"a": one}).passed
    assert not guards.one_kind({"a": one, "b": two}).passed
    assert "at b" in guards.one_kind({"a": one, "b": two}).text
    assert guards.separation(outliers) < guards.MIXTURE
    assert guards.separation(np.ones((50, 3))) == 0
    assert guards.separation(np.ones((1, 3))) == 0
