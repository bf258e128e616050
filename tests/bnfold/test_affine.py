import doctest
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import bnfold
from bnfold import Affine, affine

NUMBERS = st.floats(-1e3, 1e3, allow_nan=False)
VECTORS = hnp.arrays(np.float64, 3, elements=NUMBERS)
NONZERO = hnp.arrays(np.float64, 3, elements=st.floats(0.01, 1e3) | st.floats(-1e3, -0.01))


@given(VECTORS, VECTORS, VECTORS, VECTORS, VECTORS)
def test_compose_is_application_in_turn(s1: Any, t1: Any, s2: Any, t2: Any, x: Any) -> None:
    inner, outer = Affine(s1, t1), Affine(s2, t2)
    np.testing.assert_allclose(outer.compose(inner)(x), outer(inner(x)), rtol=1e-9, atol=1e-6)


@given(NONZERO, VECTORS, VECTORS)
def test_inverse_undoes(s: Any, t: Any, x: Any) -> None:
    there = Affine(s, t)
    np.testing.assert_allclose(there.inverse()(there(x)), x, rtol=1e-6, atol=1e-6)


@given(VECTORS, VECTORS, VECTORS, hnp.arrays(np.float64, 3, elements=st.floats(0, 1e3)), VECTORS)
def test_of_batchnorm_is_the_formula(g: Any, b: Any, m: Any, v: Any, x: Any) -> None:
    gamma, beta, mean, variance, data = (np.asarray(a) for a in (g, b, m, v, x))
    expected = gamma * (data - mean) / np.sqrt(variance + 1e-3) + beta
    found = Affine.of_batchnorm(gamma, beta, mean, variance, 1e-3)(data)
    np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-4)


def test_a_zero_scale_has_no_inverse() -> None:
    with pytest.raises(ZeroDivisionError, match="no inverse"):
        Affine([1.0, 0.0], 0.0).inverse()


@pytest.mark.parametrize("scale", [np.nan, np.inf])
def test_only_finite_numbers(scale: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        Affine(scale, 0.0)


def test_variance_must_not_cancel_epsilon() -> None:
    with pytest.raises(ValueError, match="must be positive"):
        Affine.of_batchnorm(1.0, 0.0, 0.0, -1.0, 1e-3)


def test_it_cannot_be_changed() -> None:
    given = np.ones(2)
    made = Affine(given, 0.0)
    given[0] = 5
    assert made.scale[0] == 1
    with pytest.raises(ValueError, match="read-only"):
        made.scale[0] = 2


def test_compressed_drops_only_constant_axes() -> None:
    scale = np.broadcast_to(np.array([1.0, 2.0]).reshape(1, 2, 1), (1, 2, 5))
    assert Affine(scale, 0.0).compressed().scale.shape == (1, 2, 1)
    shift = np.arange(5.0)
    assert Affine(scale, shift).compressed().scale.shape == (1, 2, 5)


@pytest.mark.parametrize("module", [bnfold, affine])
def test_the_examples_in_the_documentation_run(module: Any) -> None:
    result = doctest.testmod(module, raise_on_error=False)
    assert result.attempted > 0
    assert result.failed == 0
