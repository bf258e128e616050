"""Pictures that came with a request: which models take them, and what is answered if one is none."""

import base64
import io

import numpy as np
from PIL import Image

import pictures
from pictures import Framing, Layout, Polarity, layout_of
from service.errors import BadRequestError, TooLargeError, UnsupportedMediaError
from service.protocol.signature import Signature
from service.protocol.tensors import Array


def image_layout(signature: Signature) -> Layout:
    """The layout of a model that takes pictures.

    Raises:
        BadRequestError: the model does not take one uint8 picture a row.
    """
    tensor = signature.inputs[0]
    if len(signature.inputs) == 1 and signature.batched and tensor.datatype.name == "UINT8":
        layout = layout_of(tensor.shape[1:])
        if layout is not None:
            return layout
    raise BadRequestError(
        f"model '{signature.model}' does not take pictures (one UINT8 input of shape [batch,height,width,1 or 3]); "
        f"send tensors to /v2/models/{signature.model}/infer"
    )


def decode(
    data: bytes, layout: Layout, max_pixels: int, polarity: Polarity = "auto", framing: Framing = "auto"
) -> tuple[Array, bool]:
    """`pictures.decode`, with the errors that have a status.

    Raises:
        UnsupportedMediaError: no picture of a known format.
        TooLargeError: more than `max_pixels`.
        BadRequestError: broken.
    """
    try:
        return pictures.decode(data, layout, max_pixels, polarity, framing)
    except pictures.UnknownFormatError as error:
        raise UnsupportedMediaError(str(error)) from None
    except pictures.TooManyPixelsError as error:
        raise TooLargeError(str(error)) from None
    except pictures.BrokenPictureError as error:
        raise BadRequestError(str(error)) from None


def data_uri(array: Array, layout: Layout) -> str:
    """One picture as the model takes it, uint8 [height, width, channels] or [channels, height, width], as a PNG."""
    pixels = np.squeeze(array if layout.channels_last else array.transpose(1, 2, 0))
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
