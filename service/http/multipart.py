"""Files of a multipart body."""

from fastapi import Request
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from service.errors import BadRequestError


class _InMemory(MultiPartParser):
    """Keeps files in memory: bodies are bounded anyway, and there may be no disk to write to."""

    spool_max_size = 2**62


async def read_files(request: Request, most: int) -> list[bytes]:
    """Every file of a multipart body, in its order.

    Args:
        request: whose body is multipart/form-data.
        most: files that are accepted.

    Raises:
        BadRequestError: the body is broken, has no file, or too many.
    """
    parser = _InMemory(request.headers, request.stream(), max_files=most, max_fields=8)
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, ValueError):  # broken, without a boundary, or more than that
        raise BadRequestError(f"the multipart body cannot be read, or has more than {most} files") from None
    try:
        files = [await value.read() for _, value in form.multi_items() if isinstance(value, UploadFile)]
    finally:
        await form.close()
    if not files:
        message = "the multipart body has no file; send pictures as file fields, e.g. curl -F image=@picture.png"
        raise BadRequestError(message)
    return files
