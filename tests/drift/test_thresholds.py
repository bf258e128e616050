"""The documented false-alarm rate holds on fresh windows of the same distribution, and drift is above the limit."""

import numpy as np
import pytest

from drift import LayerReference, Layout, Moments, Reference, Thresholds, calibrate, judge, window_scores

CHANNELS = 6
LAYERS = {
    "bn": LayerReference(1e-3, np.zeros(CHANNELS), np.ones(CHANNELS), np.ones(CHANNELS, bool)),
}
LAYOUT = Layout.of({"bn": CHANNELS})


def pictures(count: int, seed: int, shift: float = 0.0) -> np.ndarray:
    """Moments of pictures of 4 values a channel, correlated over channels and values, and skewed."""
    random = np.random.default_rng(seed)
    mixed = random.exponential(1, (count, 1, CHANNELS)) @ (np.eye(CHANNELS) + 0.5) / 3
    z = mixed + random.normal(0.2 + shift, 0.5, (count, 4, CHANNELS))
    return np.concatenate([np.ones((count, 1)), np.full((count, 1), 4.0), z.sum(1), (z**2).sum(1)], axis=1)


@pytest.fixture(scope="module")
def calibrated() -> tuple[Reference, Thresholds]:
    return calibrate(LAYERS, pictures(1000, seed=1), sizes=(32, 128, 512), windows=3000)


@pytest.mark.parametrize("size", [32, 128, 512])
def test_one_window_in_a_hundred_is_a_false_alarm(calibrated: tuple[Reference, Thresholds], size: int) -> None:
    """Over many calibrations: one alone has a share in its own pictures' luck."""
    rates = []
    for seed in range(12):
        reference, thresholds = calibrate(LAYERS, pictures(400, seed=100 + seed), sizes=(size,), windows=1000)
        windows = pictures(300 * size, seed=seed).reshape(300, size, -1).sum(1)
        rates.append(np.mean(reference.score(windows) > thresholds.limit[0]))
    assert 0.003 <= np.mean(rates) <= 0.02


def test_drift_is_above_the_limit(calibrated: tuple[Reference, Thresholds]) -> None:
    reference, thresholds = calibrated
    scores = window_scores(reference, pictures(1000, seed=3, shift=0.3), 128, 200, np.random.default_rng(0))
    assert np.mean(scores > thresholds.at(128)[1]) > 0.99


def test_the_same_seed_gives_the_same_thresholds(calibrated: tuple[Reference, Thresholds]) -> None:
    _, again = calibrate(LAYERS, pictures(1000, seed=1), sizes=(32, 128, 512), windows=3000)
    assert again == calibrated[1]


def test_windows_without_replacement_have_no_picture_twice() -> None:
    moments = pictures(200, seed=1)
    reference = Reference(LAYERS, Moments(LAYOUT, moments.sum(0)))
    whole = window_scores(reference, moments, 200, 3, np.random.default_rng(0), replace=False)
    np.testing.assert_allclose(whole, 0, atol=1e-12)


def test_limits_are_interpolated_over_the_logarithm() -> None:
    thresholds = Thresholds((32, 128), (0.4, 0.2), (0.8, 0.4))
    np.testing.assert_allclose(thresholds.at(64), (0.3, 0.6))
    assert thresholds.at(10_000) == (0.2, 0.4)


def test_too_few_pictures_are_refused() -> None:
    with pytest.raises(ValueError, match="99 held-out pictures: thresholds need at least 100"):
        calibrate(LAYERS, pictures(99, seed=1))


THRESHOLDS = Thresholds((32, 1024), (0.02, 0.01), (0.04, 0.02))


@pytest.mark.parametrize(
    ("score", "images", "thresholds", "grade", "says"),
    [
        (9.0, 31, THRESHOLDS, "too few", "31 images are too few for a verdict; 32 are needed."),
        (9.0, 0, None, "too few", "0 images"),
        (9.0, 100, None, "not calibrated", "without held-out data"),
        (0.02, 1024, THRESHOLDS, "none", "No drift: the last 1024 images"),
        (0.03, 1024, THRESHOLDS, "mild", "Mild drift"),
        (0.109, 5000, THRESHOLDS, "mild", "by more than chance"),
        (0.111, 5000, THRESHOLDS, "strong", "Strong drift"),
    ],
)
def test_the_verdict(score: float, images: int, thresholds: Thresholds | None, grade: str, says: str) -> None:
    verdict = judge(score, images, thresholds)
    assert verdict.grade == grade
    assert says in verdict.text
    assert (verdict.limit is None) == (grade in ("too few", "not calibrated"))
    assert (verdict.score is None) == (grade == "too few")
