"""The divergence is that of two Gaussians, by numerical integration; dead and unseen channels do no harm."""

import numpy as np
import pytest

from drift import LayerReference, Layout, Moments, Reference, divergence


def layer(variance: list[float], *, epsilon: float = 1e-3, seen: list[bool] | None = None) -> LayerReference:
    values = np.array(variance)
    return LayerReference(epsilon, np.linspace(-1, 2, len(values)), values, np.array(seen or [True] * len(values)))


def moments_of(reference: LayerReference, inputs: np.ndarray, name: str = "bn") -> Moments:
    """The moments of a layer's inputs [values, channels]."""
    z = (inputs - reference.mean) / np.sqrt(reference.variance + reference.epsilon)
    arrays = {f"{name}/count": len(z), f"{name}/sum": z.sum(0), f"{name}/sum_of_squares": (z**2).sum(0)}
    return Moments.of(Layout.of({name: inputs.shape[1]}), arrays, len(z))


@pytest.mark.parametrize(("shift", "ratio"), [(0.0, 1.0), (0.5, 1.0), (0.0, 3.0), (-1.5, 0.25)])
def test_the_divergence_is_the_integral(shift: float, ratio: float) -> None:
    x = np.linspace(-40, 40, 400_001)

    def log_density(mean: float, variance: float) -> np.ndarray:
        return np.asarray(-((x - mean) ** 2) / (2 * variance) - np.log(2 * np.pi * variance) / 2)

    live, trained = log_density(shift, ratio), log_density(0, 1)
    integral = np.trapezoid((np.exp(live) - np.exp(trained)) * (live - trained), x)

    assert divergence(np.array(shift), np.array(ratio)) == pytest.approx(integral, abs=1e-6)


def test_live_statistics_are_those_of_the_inputs() -> None:
    trained = layer([0.5, 2.0, 0.01])
    inputs = np.random.default_rng(0).normal([3, -1, 0], [0.1, 5, 0.3], (1000, 3))

    mean, variance = Reference({"bn": trained}).live(moments_of(trained, inputs).values, "bn")

    np.testing.assert_allclose(mean, inputs.mean(0), atol=1e-9)
    np.testing.assert_allclose(variance, inputs.var(0), rtol=1e-6)


def test_inputs_with_the_moving_statistics_have_no_drift() -> None:
    trained = layer([0.5, 2.0, 1e-5])
    unit = np.random.default_rng(0).normal(size=(500, 3))
    inputs = trained.mean + np.sqrt(trained.variance) * (unit - unit.mean(0)) / unit.std(0)

    drift = Reference({"bn": trained}).channels(moments_of(trained, inputs).values, "bn")

    for part in drift:
        np.testing.assert_allclose(part, 0, atol=1e-9)


def test_a_known_shift_and_spread_are_found() -> None:
    trained = layer([1.0, 4.0], epsilon=0.0)
    unit = np.random.default_rng(0).normal(size=(500, 2))
    unit = (unit - unit.mean(0)) / unit.std(0)
    deviation = np.sqrt(trained.variance)

    drift = Reference({"bn": trained}).channels(
        moments_of(trained, trained.mean + deviation * (0.5 + 3 * unit)).values, "bn"
    )

    np.testing.assert_allclose(drift.shift, 0.5)
    np.testing.assert_allclose(drift.log_ratio, np.log(9))


def test_a_dead_channel_is_silent_while_it_is_dead_and_bounded_when_it_wakes() -> None:
    trained = layer([1.0, 0.0], epsilon=1e-3)
    reference = Reference({"bn": trained})
    unit = np.random.default_rng(0).normal(size=(500, 2))
    unit = (unit - unit.mean(0)) / unit.std(0)
    still = trained.mean + unit * [1.0, 0.0]
    awake = trained.mean + unit * [1.0, 0.1]  # three times sqrt(epsilon)

    assert trained.dead.tolist() == [False, True]
    np.testing.assert_allclose(reference.channels(moments_of(trained, still).values, "bn").divergence, 0, atol=1e-9)
    woken = reference.channels(moments_of(trained, awake).values, "bn")
    np.testing.assert_allclose(woken.log_ratio[1], np.log(11), rtol=1e-6)
    assert np.isfinite(reference.score(moments_of(trained, trained.mean + unit * [1.0, 1e6]).values))


def test_what_is_expected_is_measured_where_it_is_known() -> None:
    """Pictures like the held-out ones show no drift although they are far from the moving statistics."""
    trained = layer([0.5, 2.0])
    inputs = np.random.default_rng(0).normal([9, 9], [4, 0.1], (1000, 2))
    moments = moments_of(trained, inputs)

    assert Reference({"bn": trained}).score(moments.values) > 1
    assert Reference({"bn": trained}, moments).score(moments.values) == pytest.approx(0)


def test_unseen_channels_are_left_out() -> None:
    both, one = layer([1.0, 1.0]), layer([1.0, 1.0], seen=[True, False])
    inputs = both.mean + np.random.default_rng(0).normal([0, 50], 1, (100, 2))

    assert Reference({"bn": both}).score(moments_of(both, inputs).values) > 1
    assert Reference({"bn": one}).score(moments_of(one, inputs).values) < 0.1


def test_scores_of_a_stack_are_those_of_its_windows() -> None:
    trained = layer([1.0, 2.0])
    stack = np.stack([moments_of(trained, np.random.default_rng(i).normal(size=(50, 2))).values for i in range(4)])
    reference = Reference({"bn": trained})

    np.testing.assert_allclose(reference.score(stack), [reference.score(values) for values in stack])
    assert reference.layer_scores(stack).shape == (4, 1)
