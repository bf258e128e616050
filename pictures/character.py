"""A picture of one character, drawn or photographed, to the picture that a network of characters was trained on.

KMNIST's pictures, measured on its training set: the box around the ink is as large as the picture (its longer side is
28 of 28 pixels in more than nine of ten) and stands in its middle (standard deviation 0.2 pixels; that of the centre
of mass is 1.4), and the brightest pixel is 255. So the box is what is centred here, not the mass as for MNIST.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

Polarity = Literal["auto", "keep", "invert"]
Grey = NDArray[np.uint8]
Field = NDArray[np.float64]

WORKING = 224  # pixels of the longer side that are looked at; more show nothing that is left in 28
SAMPLES = 64  # pixels a side from which the ground is estimated
RING = 0.1  # share of each side that is its border
FAINTEST = 12.0  # levels of 255 above which something is ink at all
SMALLEST = 0.125  # of the picture's longer side: what is smaller is not blown up further


def frame(image: Image.Image, size: tuple[int, int], polarity: Polarity = "auto") -> tuple[Grey, bool]:
    """Find the ink, take the light's unevenness away, let it fill the picture, light on dark, uncut and undistorted.

    The ground is a surface of the second degree through what is not ink, so a shadow that falls off across the paper
    goes with it. What differs from it more than its own noise is ink; its strongest part becomes 255. A flat ground
    is taken away exactly: a clean drawing is only moved and scaled.

    Args:
        image: of mode L.
        size: width and height wanted.
        polarity: `keep`: the ink is lighter than its ground; `invert`: darker; `auto`: whichever there is more of.

    Returns:
        The picture, uint8 [height, width], black where there is no ink at all; and whether it was inverted.
    """
    small = image.copy()
    small.thumbnail((WORKING, WORKING), Image.Resampling.BOX)
    pixels = np.asarray(small, np.float64)
    difference = pixels - _ground(pixels)
    # The ground's own noise: the median is blind to ink as long as there is less ink than ground.
    noise = 1.4826 * float(np.median(np.abs(difference)))
    floor = 3 * noise
    if polarity == "auto":
        inverted = float(np.maximum(-difference - floor, 0).sum()) > float(np.maximum(difference - floor, 0).sum())
    else:
        inverted = polarity == "invert"
    ink = np.maximum((-difference if inverted else difference) - floor, 0)
    strong = ink[ink > FAINTEST]
    if not strong.size:
        return np.zeros(size[::-1], np.uint8), inverted
    scaled = Image.fromarray(np.minimum(ink * (255.0 / np.percentile(strong, 95)), 255).round().astype(np.uint8))
    return np.asarray(_fill(scaled, size), np.uint8), inverted


def _ground(pixels: Field) -> Field:
    """What the picture would be without ink: a surface of the second degree.

    At first least absolute deviations over the border, where ink is rare; then, twice, least squares over what is near.
    """
    height, width = pixels.shape
    rows = np.unique(np.linspace(0, height - 1, min(height, SAMPLES)).round().astype(int))
    columns = np.unique(np.linspace(0, width - 1, min(width, SAMPLES)).round().astype(int))
    y, x = np.meshgrid(rows / max(height - 1, 1) * 2 - 1, columns / max(width - 1, 1) * 2 - 1, indexing="ij")
    terms, values = _terms(x, y).reshape(-1, 6), pixels[np.ix_(rows, columns)].ravel()
    edge = (np.maximum(np.abs(x), np.abs(y)) >= 1 - 2 * RING).ravel()
    weights = edge.astype(np.float64)
    start = np.zeros(6)
    start[0] = np.median(values[edge])
    for _ in range(12):
        weights = edge / np.maximum(np.abs(values - terms @ start), 1.0)
        start = _solve(terms, values, weights)
    for _ in range(2):
        off = np.abs(values - terms @ start)
        near = off <= max(3 * 1.4826 * float(np.median(off[edge])), 4.0)
        start = _solve(terms, values, near.astype(np.float64))
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    surface: Field = (_terms(x, y) @ start).round(6)
    return surface


def _terms(x: Field, y: Field) -> Field:
    return np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=-1)


def _solve(terms: Field, values: Field, weights: Field) -> Field:
    weighted = terms * weights[:, None]
    # A little of the identity: a picture one pixel wide does not say how its light changes across.
    return np.linalg.solve(terms.T @ weighted + 1e-9 * np.eye(6), weighted.T @ values).astype(np.float64)


def _fill(ink: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The ink's box in the middle, as large as fits."""
    mask = ink.point([0] * 64 + [255] * 192)
    left, top, right, bottom = mask.filter(ImageFilter.MedianFilter(3)).getbbox() or mask.getbbox() or (0, 0, *ink.size)
    scale = min(size[0] / (right - left), size[1] / (bottom - top), 1 / (SMALLEST * max(ink.size)) * min(size))
    half_width, half_height = size[0] / scale / 2, size[1] / scale / 2
    middle_x, middle_y = (left + right) / 2, (top + bottom) / 2
    margin = int(max(half_width, half_height)) + 2  # `resize` takes no box that leaves the picture
    padded = Image.new("L", (ink.width + 2 * margin, ink.height + 2 * margin))
    padded.paste(ink, (margin, margin))
    box = (
        middle_x - half_width + margin,
        middle_y - half_height + margin,
        middle_x + half_width + margin,
        middle_y + half_height + margin,
    )
    return padded.resize(size, Image.Resampling.BOX if scale < 1 else Image.Resampling.BICUBIC, box=box)
