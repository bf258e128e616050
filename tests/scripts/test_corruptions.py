"""Corruptions do what their names say, at rising strength, the same from the same seed."""

import numpy as np
import pytest

from scripts.evidence.corruptions import CORRUPTIONS, SEVERITIES, Corruption, random_noise

BY_NAME = {corruption.name: corruption for corruption in CORRUPTIONS}


@pytest.fixture(scope="module")
def strokes() -> np.ndarray:
    """Light bars of different places and widths on dark ground, with a soft edge."""
    random = np.random.default_rng(0)
    images = np.zeros((24, 28, 28, 1), np.uint8)
    for image in images:
        left, width = random.integers(8, 14), random.integers(4, 7)
        image[5:23, left : left + width] = 255
        image[5:23, left - 1] = image[5:23, left + width] = 120
    return images


@pytest.mark.parametrize("corruption", CORRUPTIONS, ids=lambda c: c.name)
def test_every_severity_keeps_the_form_and_goes_further(corruption: Corruption, strokes):
    results = [corruption(strokes, severity, seed=3) for severity in SEVERITIES]

    for result in results:
        assert result.shape == strokes.shape
        assert result.dtype == np.uint8
    away = [np.abs(result.astype(float) - strokes).mean() for result in results]
    assert away[0] > 0
    assert away[-1] > away[0]
    if corruption.name != "JPEG":  # whose blocks may fall well on edges that are straight
        assert away == sorted(away)
    np.testing.assert_array_equal(corruption(strokes, 3, seed=3), results[2])


def test_the_generator_is_the_seed_and_nothing_else(strokes):
    noise = BY_NAME["Gaussian noise"]

    assert (noise(strokes, 3, seed=1) != noise(strokes, 3, seed=2)).any()
    assert (random_noise(strokes, 1) == random_noise(strokes, 1)).all()


def test_photometric_ones_have_the_mean_and_deviation_that_they_name(strokes):
    grey = np.full((50, 28, 28, 1), 128, np.uint8)
    assert BY_NAME["Gaussian noise"](grey, 2).std() == pytest.approx(0.2 * 255, rel=0.05)
    assert BY_NAME["brightness"](grey, 3).mean() == pytest.approx(128 + 0.3 * 255, abs=0.6)
    assert BY_NAME["contrast"](strokes, 2)[0].std() == pytest.approx(0.5 * strokes[0].std(), rel=0.02)
    assert BY_NAME["contrast"](strokes, 2)[0].mean() == pytest.approx(strokes[0].mean(), abs=0.6)
    np.testing.assert_array_equal(BY_NAME["inversion"](strokes, 5), 255 - strokes)


def test_blur_spreads_a_point_as_a_gaussian_does():
    point = np.zeros((1, 27, 27, 1), np.uint8)
    point[0, 13, 13] = 255

    spread = BY_NAME["blur"](np.repeat(point, 1, 0), 2)[0, ..., 0].astype(float)

    rows = np.arange(27)
    weights = np.exp(-0.5 * (rows - 13) ** 2)
    np.testing.assert_allclose(spread, 255 * np.outer(weights, weights) / weights.sum() ** 2, atol=1)


def test_geometric_ones_move_the_ink_and_keep_what_they_should(strokes):
    small = BY_NAME["scale"](strokes, 5, seed=1).astype(float).sum(axis=(1, 2, 3)) / strokes.sum(axis=(1, 2, 3))
    assert set(np.round(np.log2(small)).tolist()) <= {-2.0, 0.0, 1.0, 2.0}  # a quarter, or larger as far as it fits

    middle = np.zeros((40, 29, 29, 1), np.uint8)
    middle[:, 14, 14] = 255
    for image in BY_NAME["shift"](middle, 4, seed=2)[..., 0].astype(float):
        row, column = (np.average(np.arange(29), weights=image.sum(axis)) for axis in (1, 0))
        assert np.hypot(row - 14, column - 14) == pytest.approx(4, abs=0.1)

    bar = np.zeros((40, 29, 29, 1), np.uint8)
    bar[:, 14, 14:24] = 255
    for image in BY_NAME["rotation"](bar, 3, seed=2)[..., 0].astype(float):
        row, column = (np.average(np.arange(29), weights=image.sum(axis)) for axis in (1, 0))
        assert abs(np.degrees(np.arctan2(row - 14, column - 14))) == pytest.approx(30, abs=2)


def test_strokes_grow_and_shrink_by_a_pixel_at_each_side():
    bar = np.zeros((1, 28, 28, 1), np.uint8)
    bar[0, 5:23, 10:15] = 255

    assert (BY_NAME["stroke thickening"](bar, 2) > 0)[0, 14].sum() == 7
    assert (BY_NAME["stroke thinning"](bar, 4) > 0)[0, 14].sum() == 3


def test_occlusion_covers_a_square_inside_the_picture():
    grey = np.zeros((30, 28, 28, 1), np.uint8)

    covered = BY_NAME["occlusion"](grey, 4) == 128

    assert (covered.sum(axis=(1, 2, 3)) == 15**2).all()
    assert {int(c.any(1).sum()) for c in covered[..., 0]} == {15}
