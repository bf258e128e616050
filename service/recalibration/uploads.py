"""Images from an .npz file that somebody sent."""

import io
import zipfile

import numpy as np

from service.errors import BadRequestError, TooLargeError
from service.protocol.signature import Signature
from service.protocol.tensors import Array


def read_npz(body: bytes, limit: int) -> tuple[Array, Array | None]:
    """`images` and, if it is there, `labels` of an .npz file.

    Args:
        body: the file.
        limit: most bytes after decompression.

    Raises:
        BadRequestError: no such file, or no images in it.
        TooLargeError: it is larger when it is decompressed.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(body)) as archive:
            sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
        if sum(sizes.values()) > limit:  # before anything is decompressed; a lie is found out by the archive's reader
            raise TooLargeError(f"the images exceed the maximum allowed value of {limit} bytes")
        with np.load(io.BytesIO(body), allow_pickle=False) as arrays:
            if "images" not in arrays:
                raise BadRequestError("the .npz file has no array 'images'")
            return arrays["images"], arrays.get("labels")
    except (zipfile.BadZipFile, ValueError, OSError, EOFError, NotImplementedError):
        raise BadRequestError("the body is not an .npz file as numpy.savez writes it, without objects") from None


def check(images: Array, labels: Array | None, signature: Signature) -> None:
    """See to it that the images are what the model takes.

    Raises:
        BadRequestError: they are not.
    """
    tensor = signature.inputs[0]
    if len(signature.inputs) != 1 or not signature.batched:
        raise BadRequestError(
            f"model '{signature.model}' does not take batches of one input; it cannot be recalibrated"
        )
    wanted, found = tensor.shape[1:], images.shape[1:]
    fits = len(wanted) == len(found) and all(w in (-1, f) for w, f in zip(wanted, found, strict=True))
    if images.dtype != tensor.datatype.dtype or not fits or not len(images):
        takes = f"{tensor.datatype.name} {['n', *wanted]}"
        raise BadRequestError(f"images: the model takes {takes}, found {images.dtype} {list(images.shape)}")
    if labels is not None and (labels.shape != (len(images),) or labels.dtype.kind not in "iu"):
        raise BadRequestError(
            f"labels: expected {len(images)} whole numbers, found {labels.dtype} {list(labels.shape)}"
        )
