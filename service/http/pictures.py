"""The short way of a small picture: as `service.http.infer.InferCall`, for what `POST …/predict` is mostly asked.

One picture of the model's own size as the body, without options. It is decoded in the event loop: that takes less time
than handing it to a thread. Everything else is left to the framework's route, `service.http.predict`.
"""

from collections.abc import Callable, Mapping

import orjson

from service.dataplane import DataPlane
from service.engine.job import Job
from service.engine.scheduler import overloaded
from service.errors import TooLargeError
from service.http.infer import JSON, Headers, Target
from service.http.predict import report
from service.images import decode, image_layout
from service.protocol.request import InferRequest

SMALL_BODY = 2**16  # bytes
SMALL_PICTURE = 2**16  # pixels


class ElsewhereError(Exception):
    """This request is not for the short way."""


class PictureCall:
    """One request; the methods are those of `InferCall`.

    Raises:
        ServiceError: it can be refused before its body is read.
        ElsewhereError: it is for the framework's route.
    """

    __slots__ = ("_inverted", "_layout", "_plane", "model")

    _inverted: bool

    def __init__(self, plane: DataPlane, target: Target, headers: Mapping[bytes, bytes]) -> None:
        length, kind = headers.get(b"content-length"), headers.get(b"content-type", b"")
        if length is None or int(length) > SMALL_BODY or b"multipart" in kind.lower() or b"content-encoding" in headers:
            raise ElsewhereError
        self._plane = plane
        self.model = plane.repository.get(*target) if target[0] else plane.repository.default()
        self._layout = image_layout(self.model.signature)
        if self.model.lane.full:
            self.model.statistics.failure("REJECTED")
            raise overloaded()

    def start(self, body: bytes, then: Callable[[Job], None] | None = None) -> Job:
        """Decode the picture and queue it; `then` is called when it is done.

        Raises:
            ServiceError: it is no picture.
            ElsewhereError: it is not of the model's size, and so takes longer to prepare.
        """
        pixels = self._layout.height * self._layout.width
        try:
            array, self._inverted = decode(body, self._layout, min(pixels, SMALL_PICTURE))
        except TooLargeError:
            raise ElsewhereError from None
        return self._plane.submit(self.model, InferRequest(None, [array], 1, []), then)

    def finish(self, job: Job) -> tuple[Headers, bytes]:
        """Headers and body of the answer."""
        (scores, *_) = self._plane.collect(self.model, job)
        found = report(self.model, scores, [self._inverted])
        return [JSON], orjson.dumps(found, option=orjson.OPT_SERIALIZE_NUMPY)
