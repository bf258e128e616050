"""What the tests of the scripts share."""

import keras
import pytest


@pytest.fixture(autouse=True)
def _same_weights_in_every_run() -> None:
    """Networks of random weights differ in how far they magnify rounding: the same ones in whatever order tests run."""
    keras.utils.set_random_seed(0)
