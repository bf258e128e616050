"""Pictures as they go wrong in the world: twelve corruptions of light strokes on dark ground, at five severities.

In the spirit of ImageNet-C (Hendrycks & Dietterich, arXiv:1903.12261) and MNIST-C (Mu & Gilmer, arXiv:1906.02337), with
strengths for pictures of 28x28 pixels. Every function takes uint8 [n, height, width, 1], the strength and a random
generator, and gives the same shape and type. Nothing but numpy and Pillow: the same bytes from the same seed.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Images = NDArray[np.uint8]
Floats = NDArray[np.float32]
SEVERITIES = (1, 2, 3, 4, 5)


@dataclass(frozen=True)
class Corruption:
    """One way of going wrong.

    Attributes:
        name: as the page calls it.
        photometric: it changes the values of the pixels, not the shapes of the strokes.
        unit: what the strengths are.
        strengths: one for each severity.
        change: the function.
    """

    name: str
    photometric: bool
    unit: str
    strengths: tuple[float, ...]
    change: Callable[[Images, float, np.random.Generator], Images]

    def __call__(self, images: Images, severity: int, seed: int = 0) -> Images:
        """Corrupt pictures at a severity from 1 to 5; the same result for the same seed."""
        return self.change(images, self.strengths[severity - 1], np.random.default_rng([seed, severity]))


def noise(images: Images, deviation: float, random: np.random.Generator) -> Images:
    """Gaussian noise; deviation as a share of the range of the pixels."""
    return _pixels(images + 255 * deviation * random.standard_normal(images.shape, np.float32))


def blur(images: Images, radius: float, _: np.random.Generator) -> Images:
    """A Gaussian blur; deviation in pixels, the ground goes on beyond the border."""
    reach = int(np.ceil(3 * radius))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / radius) ** 2).astype(np.float32)
    kernel /= kernel.sum()
    return _pixels(_slide(_slide(images.astype(np.float32), kernel, 1), kernel, 2))


def contrast(images: Images, kept: float, _: np.random.Generator) -> Images:
    """Every picture nearer to its own mean; the share of the contrast that is kept."""
    means = images.mean(axis=(1, 2, 3), keepdims=True, dtype=np.float32)
    return _pixels(means + kept * (images - means))


def brightness(images: Images, added: float, _: np.random.Generator) -> Images:
    """Everything lighter, clipped at white; as a share of the range."""
    return _pixels(images + np.float32(255 * added))


def inversion(images: Images, share: float, _: np.random.Generator) -> Images:
    """Towards the negative: 0 is the picture, 0.5 plain grey, 1 the whole negative."""
    return _pixels((1 - share) * images.astype(np.float32) + share * (255 - images.astype(np.float32)))


def rotation(images: Images, degrees: float, random: np.random.Generator) -> Images:
    """Turned by an angle, to the left or to the right."""
    angles = np.deg2rad(degrees) * _signs(len(images), random)
    return _sample(images, np.cos(angles), np.sin(angles))


def shift(images: Images, pixels: float, random: np.random.Generator) -> Images:
    """Moved by so many pixels, in any direction."""
    angles = random.uniform(0, 2 * np.pi, len(images))
    return _sample(
        images, np.ones(len(images)), np.zeros(len(images)), pixels * np.cos(angles), pixels * np.sin(angles)
    )


def scale(images: Images, factor: float, random: np.random.Generator) -> Images:
    """Smaller or larger by a factor below 1 or its inverse."""
    factors = np.where(_signs(len(images), random) > 0, factor, 1 / factor)
    return _sample(images, 1 / factors, np.zeros(len(images)))


def thinning(images: Images, strength: float, _: np.random.Generator) -> Images:
    """Strokes eaten from both sides: whole steps of a 3x3 minimum, and a part of one more."""
    return _morph(images, strength, np.min)


def thickening(images: Images, strength: float, _: np.random.Generator) -> Images:
    """Strokes grown to both sides: whole steps of a 3x3 maximum, and a part of one more."""
    return _morph(images, strength, np.max)


def jpeg(images: Images, quality: float, _: np.random.Generator) -> Images:
    """Through JPEG at a quality from 1 to 95."""
    return np.stack([_through_jpeg(image[..., 0], int(quality)) for image in images])[..., None]


def occlusion(images: Images, side: float, random: np.random.Generator) -> Images:
    """A grey square over a part of the picture; side in pixels."""
    changed, size = images.copy(), int(side)
    height, width = images.shape[1:3]
    tops, lefts = (random.integers(0, extent - size + 1, len(images)) for extent in (height, width))
    for image, top, left in zip(changed, tops, lefts, strict=True):
        image[top : top + size, left : left + size] = 128
    return changed


CORRUPTIONS = (
    Corruption("Gaussian noise", True, "σ", (0.1, 0.2, 0.3, 0.4, 0.5), noise),
    Corruption("blur", True, "σ, pixels", (0.5, 1.0, 1.5, 2.0, 2.5), blur),
    Corruption("contrast", True, "share kept", (0.7, 0.5, 0.3, 0.2, 0.1), contrast),
    Corruption("brightness", True, "added", (0.1, 0.2, 0.3, 0.4, 0.5), brightness),
    Corruption("inversion", False, "share", (0.2, 0.4, 0.6, 0.8, 1.0), inversion),
    Corruption("rotation", False, "degrees", (10, 20, 30, 45, 60), rotation),
    Corruption("shift", False, "pixels", (1, 2, 3, 4, 5), shift),
    Corruption("scale", False, "factor", (0.9, 0.8, 0.7, 0.6, 0.5), scale),
    Corruption("stroke thinning", False, "3x3 minima", (0.25, 0.5, 0.75, 1.0, 1.5), thinning),
    Corruption("stroke thickening", False, "3x3 maxima", (0.5, 1.0, 1.5, 2.0, 2.5), thickening),
    Corruption("JPEG", True, "quality", (50, 25, 15, 10, 5), jpeg),
    Corruption("occlusion", False, "pixels", (6, 9, 12, 15, 18), occlusion),
)


def random_noise(like: Images, seed: int = 0) -> Images:
    """Pixels of no picture at all: uniform noise of the same shape."""
    return np.random.default_rng(seed).integers(0, 256, like.shape, np.uint8)


def _pixels(values: NDArray[Any]) -> Images:
    return np.asarray(np.rint(values).clip(0, 255), np.uint8)


def _signs(count: int, random: np.random.Generator) -> NDArray[np.float64]:
    return random.choice([-1.0, 1.0], count)


def _slide(values: Floats, kernel: Floats, axis: int) -> Floats:
    """Correlate along one axis, with the border's value beyond it."""
    reach = len(kernel) // 2
    padded = np.pad(values, [(reach, reach) if a == axis else (0, 0) for a in range(values.ndim)], mode="edge")
    size = values.shape[axis]
    total = np.zeros_like(values)
    for place, weight in enumerate(kernel):
        total += weight * padded[(slice(None),) * axis + (slice(place, place + size),)]
    return total


def _morph(images: Images, strength: float, extreme: Callable[..., Images]) -> Images:
    """Take the least or largest of each 3x3 neighbourhood, `strength` times."""
    changed = images.astype(np.float32)
    for step in range(int(np.ceil(strength))):
        padded = np.pad(changed, [(0, 0), (1, 1), (1, 1), (0, 0)], mode="edge")
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
        part = min(strength - step, 1.0)
        changed = (1 - part) * changed + part * extreme(windows, axis=(-2, -1))
    return _pixels(changed)


def _sample(images: Images, a: Any, b: Any, down: Any = 0.0, right: Any = 0.0) -> Images:
    """Pictures looked up at (a·r - b·c, b·r + a·c) about the middle, bilinearly; 0 beyond the border."""
    count, height, width, _ = images.shape
    rows, columns = np.meshgrid(np.arange(height) - (height - 1) / 2, np.arange(width) - (width - 1) / 2, indexing="ij")
    a, b, down, right = (np.broadcast_to(np.asarray(v, np.float64), count)[:, None, None] for v in (a, b, down, right))
    y = a * rows - b * columns + (height - 1) / 2 - down
    x = b * rows + a * columns + (width - 1) / 2 - right
    padded = np.pad(images[..., 0].astype(np.float32), [(0, 0), (1, 1), (1, 1)])
    y, x = (np.clip(place + 1, 0, extent + 1) for place, extent in ((y, height), (x, width)))
    top, left = (np.minimum(np.floor(v).astype(int), extent) for v, extent in ((y, height), (x, width)))
    dy, dx = (y - top).astype(np.float32), (x - left).astype(np.float32)
    each = np.arange(count)[:, None, None]
    upper = (1 - dx) * padded[each, top, left] + dx * padded[each, top, left + 1]
    lower = (1 - dx) * padded[each, top + 1, left] + dx * padded[each, top + 1, left + 1]
    return _pixels((1 - dy) * upper + dy * lower)[..., None]


def _through_jpeg(picture: Images, quality: int) -> Images:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file), np.uint8)
