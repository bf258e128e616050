"""Scikit-learn's handwritten digits, enlarged to 28x28: real handwriting that needs no download.

1,797 digits of 8x8 pixels and 17 levels of ink, part of scikit-learn's wheel (E. Alpaydin and C. Kaynak, 1998,
UCI Machine Learning Repository, doi:10.24432/C50P49). Every fifth one is for testing.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from scripts.datasets.base import Dataset

LICENCE = "CC BY 4.0"
ATTRIBUTION = "Optical Recognition of Handwritten Digits, E. Alpaydin and C. Kaynak, UCI, doi:10.24432/C50P49"


def load() -> Dataset:
    """Read the digits from scikit-learn's wheel and enlarge them with a margin of 2 pixels."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.stack([_enlarge(image) for image in digits.images])[..., None]
    classes = digits.target.astype(np.uint8)
    test = np.arange(len(classes)) % 5 == 0
    return Dataset(
        "digits", images[~test], classes[~test], images[test], classes[test],
        labels=tuple("0123456789"), licence=LICENCE, attribution=ATTRIBUTION,
    )  # fmt: skip


def _enlarge(image: NDArray[np.float64]) -> NDArray[np.uint8]:
    pixels = Image.fromarray(np.rint(image * 255 / 16).astype(np.uint8))
    return np.pad(np.asarray(pixels.resize((24, 24), Image.Resampling.BICUBIC)), 2)
