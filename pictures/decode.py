"""A picture file to the pixels that a network takes."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from pictures.character import Polarity, frame
from pictures.errors import BrokenPictureError, TooManyPixelsError, UnknownFormatError

# Our own limit is checked before a picture is decoded; Pillow's is global to the process and only warns at first.
Image.MAX_IMAGE_PIXELS = None
FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")
Framing = Literal["auto", "keep"]
Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Layout:
    """How a network's input holds a picture: its size, its channels and where they stand."""

    height: int
    width: int
    channels: int
    channels_last: bool


def layout_of(shape: Sequence[int]) -> Layout | None:
    """The layout of pictures in an array.

    Args:
        shape: of one picture, [height, width, 1 or 3] or [1 or 3, height, width]; a free dimension is below 1.

    Returns:
        The layout; None if these are no pictures of a known size.
    """
    if len(shape) == 3 and shape[2] in (1, 3) and min(shape[:2]) > 0:
        return Layout(shape[0], shape[1], shape[2], channels_last=True)
    if len(shape) == 3 and shape[0] in (1, 3) and min(shape[1:]) > 0:
        return Layout(shape[1], shape[2], shape[0], channels_last=False)
    return None


def decode(
    data: bytes, layout: Layout, max_pixels: int, polarity: Polarity = "auto", framing: Framing = "auto"
) -> tuple[Pixels, bool]:
    """Decode, turn upright, flatten alpha, convert to the network's size and channels.

    A network of one channel expects one light character on dark ground, as KMNIST has them. A picture of the network's
    own size goes in as it is, only inverted if its border is light. In one of another size the character is looked for
    (`pictures.character.frame`). What a network of colours gets, or any network with the framing `keep`, is padded with
    its ground to the network's proportions, never stretched.

    Args:
        data: the file.
        layout: of the network's input.
        max_pixels: width times height above which nothing is decoded.
        polarity: `keep`, `invert` or `auto`.
        framing: `keep` or `auto`.

    Returns:
        The picture, uint8 [1, height, width, channels] or [1, channels, height, width]; and whether it was inverted.

    Raises:
        UnknownFormatError: not one of `FORMATS`.
        TooManyPixelsError: more than `max_pixels`.
        BrokenPictureError: empty or damaged.
    """
    if not data:
        raise BrokenPictureError("the picture is empty")
    try:
        opened = Image.open(io.BytesIO(data), formats=FORMATS)
    except Exception:  # Pillow's plugins raise whatever a broken header makes them raise
        raise UnknownFormatError(f"not a picture of a known format ({', '.join(FORMATS)})") from None
    if opened.width * opened.height > max_pixels:
        raise TooManyPixelsError(
            f"the picture has {opened.width} x {opened.height} pixels; at most {max_pixels} are accepted"
        )
    try:
        image = _flatten(ImageOps.exif_transpose(opened))
    except Exception:
        raise BrokenPictureError(f"the {opened.format} picture is broken or incomplete") from None
    image = image.convert("L" if layout.channels == 1 else "RGB")
    if layout.channels == 1 and framing == "auto" and image.size != (layout.width, layout.height):
        framed, inverted = frame(image, (layout.width, layout.height), polarity)
        return _tensor(framed, layout), inverted
    ground = _ground(image)
    invert = polarity == "invert" or (polarity == "auto" and layout.channels == 1 and ground[0] > 127)
    if invert:
        image = ImageOps.invert(image)
        ground = tuple(255 - value for value in ground)
    if image.size != (layout.width, layout.height):
        fill = ground[0] if layout.channels == 1 else ground
        image = ImageOps.pad(image, (layout.width, layout.height), Image.Resampling.BILINEAR, color=fill)
    return _tensor(np.asarray(image, np.uint8), layout), invert


def _tensor(pixels: Pixels, layout: Layout) -> Pixels:
    array = pixels.reshape(1, layout.height, layout.width, layout.channels)
    return array if layout.channels_last else np.ascontiguousarray(array.transpose(0, 3, 1, 2))


def _flatten(image: Image.Image) -> Image.Image:
    """Without alpha and with 8 bits: transparency becomes the ground that the ink stands out from."""
    if image.mode.startswith(("I", "F")):  # 16 or more bits of grey, which `convert` would clip at 255
        values = np.asarray(image).astype(np.float64)
        top = 65535.0 if values.max(initial=0.0) > 255 else 255.0
        return Image.fromarray((values.clip(0, top) * (255.0 / top)).round().astype(np.uint8))
    if not image.has_transparency_data:
        return image.convert("RGB") if image.mode not in ("L", "RGB") else image
    rgba = image.convert("RGBA")
    pixels = np.asarray(rgba).astype(np.float64)
    alpha = pixels[..., 3]
    ink = float((pixels[..., :3].mean(axis=-1) * alpha).sum() / max(alpha.sum(), 1.0))
    ground = Image.new("RGBA", rgba.size, (0, 0, 0, 255) if ink > 127 else (255, 255, 255, 255))
    return Image.alpha_composite(ground, rgba).convert("RGB")


def _ground(image: Image.Image) -> tuple[int, ...]:
    """The median colour of the picture's border."""
    pixels = np.asarray(image)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    return tuple(int(value) for value in np.atleast_1d(np.median(border, axis=0)))
