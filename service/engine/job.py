"""One request between the protocol and the model."""

import asyncio
import logging
import time
from collections.abc import Callable

from service.errors import UnavailableError
from service.protocol.tensors import Array

log = logging.getLogger(__name__)


class Job:
    """One request on its way through a lane. Times are `time.perf_counter_ns`.

    Attributes:
        arrays: one for each input of the model; once it is done, for each output.
        rows: how many rows of a batch they are.
        then: called with the job, in the event loop, as soon as it is done. That costs less than a future.
        done: it has its outputs, or an error.
        error: why it has no outputs; None if it has, or is not done.
        arrived, started, finished: when it was queued, when its run began and ended.
        timer: gives it up when its time is over; None if it has time.
    """

    __slots__ = ("_future", "arrays", "arrived", "done", "error", "finished", "rows", "started", "then", "timer")

    def __init__(self, arrays: list[Array], rows: int, then: "Callable[[Job], None] | None" = None) -> None:
        self.arrays = arrays
        self.rows = rows
        self.then = then
        self.done = False
        self.error: BaseException | None = None
        self.arrived = time.perf_counter_ns()
        self.started = self.finished = 0
        self.timer: asyncio.TimerHandle | None = None
        self._future: asyncio.Future[list[Array]] | None = None

    @property
    def future(self) -> "asyncio.Future[list[Array]]":
        """The same for who would rather await it; of the running event loop. Cancelling it gives the job up."""
        if self._future is None:
            self._future = asyncio.get_running_loop().create_future()
            if self.done:
                self._resolve(self._future)
            else:
                self._future.add_done_callback(lambda future: self.cancel() if future.cancelled() else None)
        return self._future

    def result(self) -> list[Array]:
        """The outputs, once it is done.

        Raises:
            ServiceError: it was not run, or failed.
            asyncio.CancelledError: it was given up.
        """
        if self.error is not None:
            raise self.error
        return self.arrays

    def settle(self, error: BaseException | None = None) -> None:
        """End it, in the event loop; what comes later is too late."""
        if self.done:
            return
        self.done, self.error = True, error
        if self.timer is not None:
            self.timer.cancel()
        if self._future is not None and not self._future.done():
            self._resolve(self._future)
        then, self.then = self.then, None  # it is not to keep alive what keeps this one alive
        if then is not None:
            try:
                then(self)
            except Exception:
                log.exception("an answer was not sent")  # and the others' are
        if error is not None:
            error.__traceback__ = None  # whoever raised it left frames there that know this job, which knows the error

    def cancel(self) -> None:
        """Give it up: its client has left."""
        self.settle(asyncio.CancelledError())

    def expire(self) -> None:
        """Give up waiting; what has started is left to end."""
        if not self.started:
            self.settle(UnavailableError("Request timeout expired"))

    def _resolve(self, future: "asyncio.Future[list[Array]]") -> None:
        if self.error is None:
            future.set_result(self.arrays)
        elif isinstance(self.error, asyncio.CancelledError):
            future.cancel()
        else:
            future.set_exception(self.error)
