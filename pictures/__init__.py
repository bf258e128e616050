"""Pictures as people send them, to the array that a network takes: the same for whoever trains, serves or recalibrates.

numpy and Pillow alone: no HTTP, no ONNX, no training framework.
"""

from pictures.character import Polarity, frame
from pictures.decode import FORMATS, SUFFIXES, Framing, Layout, decode, layout_of
from pictures.errors import BrokenPictureError, PictureError, TooManyPixelsError, UnknownFormatError

__all__ = [
    "FORMATS",
    "SUFFIXES",
    "BrokenPictureError",
    "Framing",
    "Layout",
    "PictureError",
    "Polarity",
    "TooManyPixelsError",
    "UnknownFormatError",
    "decode",
    "frame",
    "layout_of",
]
