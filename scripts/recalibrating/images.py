"""Images from a folder of pictures, an .npz or an .npy file, as the network takes them."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bundle import Manifest, TensorSpec
from pictures import SUFFIXES, PictureError, decode, layout_of
from scripts.recalibrating.errors import RecalibrationError

Images = NDArray[Any]
MOST_PIXELS = 2**27  # of a picture file, before it is fitted in
_KINDS = {"UINT8": np.uint8, "FP32": np.float32}


def read_images(path: Path, spec: TensorSpec) -> tuple[Images, NDArray[np.int64] | None]:
    """Read images, and labels where the file has them.

    Args:
        path: an `.npz` with `images` and perhaps `labels`, an `.npy` with the images, or a folder of pictures, which
            become what a server makes of them (`pictures.decode`) and are taken in the order of their names.
        spec: of the network's input.

    Returns:
        Images [n, …] of the input's type, and labels [n] or None.

    Raises:
        RecalibrationError: nothing there that can be read, or it does not fit the network.
    """
    labels = None
    try:
        if path.is_dir():
            images = _pictures(path, spec)
        else:
            with path.open("rb") as file:
                found = np.load(file, allow_pickle=False)
                if isinstance(found, np.ndarray):
                    images = found
                elif "images" in found:
                    images = found["images"]
                    labels = found.get("labels")
                else:
                    raise RecalibrationError(f"{path}: expected an array `images`, found {', '.join(found) or 'none'}")
    except (OSError, ValueError, EOFError) as error:
        raise RecalibrationError(f"{path}: not readable as images: {error}") from error
    return fitting(images, spec, str(path)), None if labels is None else read_labels(labels, len(images), str(path))


def read_labels(labels: NDArray[Any], count: int, where: str) -> NDArray[np.int64]:
    """Labels as numbers of classes.

    Raises:
        RecalibrationError: not one whole number an image.
    """
    if labels.shape != (count,) or labels.dtype.kind not in "iu":
        raise RecalibrationError(
            f"{where}: labels: expected {count} whole numbers, found {labels.dtype} {labels.shape}"
        )
    return labels.astype(np.int64)


def fitting(images: Images, spec: TensorSpec, where: str) -> Images:
    """The images if they fit the network's input, with a channel axis where only that was missing.

    Raises:
        RecalibrationError: they do not fit.
    """
    kind = _KINDS.get(spec.datatype)
    if kind is None:
        raise RecalibrationError(f"the network takes {spec.datatype}; only UINT8 and FP32 are supported")
    shape = spec.shape[1:]
    if images.ndim == len(shape) and shape[-1] == 1:
        images = images[..., None]
    fits = images.ndim == len(shape) + 1 and all(s in (-1, n) for s, n in zip(shape, images.shape[1:], strict=True))
    same = images.dtype == kind or (kind is np.float32 and images.dtype.kind in "fiu")
    if not fits or not same or not len(images):
        wanted = f"{spec.datatype} [n, {', '.join(map(str, shape))}]"
        raise RecalibrationError(f"{where}: images: the network takes {wanted}, found {images.dtype} {images.shape}")
    images = images.astype(kind, copy=False)
    if kind is np.float32 and not np.isfinite(images).all():
        raise RecalibrationError(f"{where}: images: some values are not finite")
    return images


def only_input(manifest: Manifest) -> TensorSpec:
    """The network's input.

    Raises:
        RecalibrationError: it has several.
    """
    if len(manifest.inputs) != 1:
        raise RecalibrationError(f"{manifest.name}: networks with {len(manifest.inputs)} inputs are not supported")
    return manifest.inputs[0]


def digest(images: Images) -> str:
    """sha256 of the type, the shape and the bytes."""
    content = hashlib.sha256(f"{images.dtype.str}{images.shape}".encode())
    content.update(np.ascontiguousarray(images).tobytes())
    return content.hexdigest()


def _pictures(folder: Path, spec: TensorSpec) -> Images:
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise RecalibrationError(f"{folder}: no pictures in it ({', '.join(SUFFIXES)})")
    layout = layout_of(spec.shape[1:]) if spec.datatype == "UINT8" else None
    if layout is None:
        raise RecalibrationError(
            f"{folder}: the network takes no pictures ({spec.datatype} {list(spec.shape[1:])}); give an .npz"
        )
    images = []
    for path in paths:
        try:
            images.append(decode(path.read_bytes(), layout, MOST_PIXELS)[0])
        except PictureError as error:
            raise RecalibrationError(f"{path}: {error}") from error
    return np.concatenate(images)
