"""Moments add up, and hold what numpy says of the values themselves."""

import numpy as np
import pytest

from drift import Layout, Moments

LAYOUT = Layout.of({"bn1": 3, "bn2": 2})


def outputs(values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What a probe says of z [images, positions, channels]."""
    found: dict[str, np.ndarray] = {}
    for name, z in values.items():
        flat = z.reshape(-1, z.shape[-1])
        found |= {
            f"{name}/count": np.asarray(len(flat)),
            f"{name}/sum": flat.sum(0),
            f"{name}/sum_of_squares": (flat**2).sum(0),
        }
    return found


def batch(seed: int, images: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {"bn1": random.normal(size=(images, 5, 3)), "bn2": random.normal(size=(images, 1, 2))}


def test_batches_add_up_to_the_whole() -> None:
    first, second = batch(1, 4), batch(2, 7)
    whole = {name: np.concatenate([first[name], second[name]]) for name in first}

    added = Moments.of(LAYOUT, outputs(first), 4) + Moments.of(LAYOUT, outputs(second), 7)

    assert added.images == 11
    for name, z in whole.items():
        number, total, squares = added.layer(name)
        assert number == z.size / z.shape[-1]
        np.testing.assert_allclose(total / number, z.mean((0, 1)), atol=1e-12)
        np.testing.assert_allclose(squares / number, (z**2).mean((0, 1)), atol=1e-12)


def test_arrays_and_back() -> None:
    moments = Moments.of(LAYOUT, outputs(batch(1, 4)), 4)

    again = Moments.from_arrays(LAYOUT, moments.to_arrays())

    np.testing.assert_array_equal(again.values, moments.values)
    assert len(moments.values) == LAYOUT.length == 1 + (1 + 6) + (1 + 4)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"13 numbers, not \[4\]"):
        Moments(LAYOUT, np.zeros(4))
    with pytest.raises(ValueError, match="13 numbers"):
        Moments.of(LAYOUT, outputs(batch(1, 4)) | {"bn1/sum": np.zeros(5)}, 4)
    with pytest.raises(KeyError, match="bn2/count"):
        Moments.of(LAYOUT, {key: value for key, value in outputs(batch(1, 4)).items() if key != "bn2/count"}, 4)
    with pytest.raises(ValueError, match="other layers"):
        Moments(LAYOUT) + Moments(Layout.of({"bn1": 3}))
