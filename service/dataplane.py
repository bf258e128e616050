"""What the server does, knowing no HTTP: the routes are thin around it."""

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable
from typing import Any

from service.accept import Connections
from service.control import Control, Journal
from service.engine.job import Job
from service.engine.scheduler import Scheduler
from service.errors import BadRequestError, LoadError, ServiceError, UnavailableError
from service.metrics.ledger import Ledger
from service.model import Model
from service.protocol.request import InferRequest
from service.protocol.tensors import Array
from service.recalibration.jobs import Jobs
from service.repository import Repository
from service.resources import available_cpus
from service.settings import Settings
from service.watch.watcher import Watcher

log = logging.getLogger(__name__)

VERSION = "0.1.0"
TICK = 0.1  # seconds between looks at what other workers say
PATIENCE = 0.05  # seconds of waiting after which it is worth watching whether the client is still there
Left = Callable[[], Awaitable[bool]]
EXTENSIONS = (
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository",
    "parameters",
    "statistics",
    "batchnorm",
)


class DataPlane:
    """The models and the queue in front of them.

    Args:
        settings: the server's.
        ledger: where to count; one of its own by default.
        journal: what the workers tell each other; one of its own by default.
        sums: where to sum up the statistics of the traffic; one of its own by default.

    Attributes:
        draining: the server is about to end: it still answers, but is no longer ready.
        connections: how many this process and the other workers have.
    """

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger | None = None,
        journal: Journal | None = None,
        sums: Ledger | None = None,
    ) -> None:
        self.settings = settings
        self.ledger = ledger or Ledger()
        self.control = Control(self.ledger, journal or Journal())
        self.draining = False
        self.connections = Connections(self.ledger)
        self._operating = threading.Lock()
        self._sick: dict[tuple[str, int], str] = {}
        self._watcher = Watcher(settings, sums)
        self._scheduler: Scheduler | None = None
        self._repository: Repository | None = None
        self._jobs: Jobs | None = None

    def start(self) -> None:
        """Load, warm and test every model; does nothing the second time.

        Raises:
            StartupError: there is nothing to serve, or not where it was asked for.
        """
        if self._repository is not None:
            return
        cpus = available_cpus()
        share = cpus // (self.settings.threads * self.settings.workers)
        scheduler = Scheduler(self.settings.runners or max(1, share))
        log.info("%d cores, %d runners of %d threads", cpus, scheduler.runners, self.settings.threads)
        try:
            repository = Repository(self.settings, scheduler, self.ledger, self._watcher)
            repository.leave_out(self.control.unloaded())
            repository.start()
        except BaseException:
            scheduler.close()
            raise
        self._scheduler, self._repository = scheduler, repository
        self._jobs = Jobs(self.settings.models, self.load)

    def stop(self) -> None:
        """Finish what is queued and end the runners."""
        if self._scheduler is not None:
            self._scheduler.close()
        self._watcher.close()
        if self._jobs is not None:
            self._jobs.close()
        self._scheduler = self._repository = None

    @property
    def repository(self) -> Repository:
        """The models.

        Raises:
            UnavailableError: the server has not started.
        """
        if self._repository is None:
            raise UnavailableError("Server not ready")
        return self._repository

    @property
    def jobs(self) -> Jobs:
        """The recalibrations.

        Raises:
            UnavailableError: the server has not started.
        """
        if self._jobs is None:
            raise UnavailableError("Server not ready")
        return self._jobs

    @property
    def runners(self) -> int:
        """How many runs of models can go on at the same time."""
        return self._scheduler.runners if self._scheduler else 0

    def load(self, name: str) -> None:
        """Load a model, or load it again, here and in the other workers (see `Repository.load`)."""
        self._operate(self.repository.load, name, serve=True)

    def unload(self, name: str) -> None:
        """Take a model out of service, here and in the other workers (see `Repository.unload`)."""
        self._operate(self.repository.unload, name, serve=False)

    def promote(self, name: str, version: str) -> None:
        """Make a version the default, here and in the other workers (see `Repository.promote`)."""
        self._operate(lambda model: self.repository.promote(model, version), name, serve=True)

    def roll_back(self, name: str) -> None:
        """Undo the last promotion, here and in the other workers (see `Repository.roll_back`)."""
        self._operate(self.repository.roll_back, name, serve=True)

    def delete(self, name: str, version: str) -> None:
        """Remove a recalibrated version, here and in the other workers (see `Repository.delete`)."""
        self._operate(lambda model: self.repository.delete(model, version), name, serve=True)

    def _operate(self, change: Callable[[str], None], name: str, *, serve: bool) -> None:
        with self._operating:
            change(name)
            number = self.control.publish(name, serve)
        self.control.wait_for_others(number)

    def pulse(self) -> None:
        """Note what is true of this process at this moment, for whoever reads the ledger."""
        self.control.beat()
        for model in self._repository.everything() if self._repository else ():
            model.statistics.gauge(len(model.lane.jobs), model.lane.unfinished)

    async def follow(self) -> None:
        """Do what the other workers were told, and say that this one is alive; until cancelled."""
        while True:
            self.pulse()
            if self.control.behind:
                await asyncio.to_thread(self._catch_up)
            await asyncio.sleep(TICK)

    def _catch_up(self) -> None:
        with self._operating:  # or a wish that was read here could be followed after a later one that came to us
            for name, serve in self.control.changes().items():
                try:
                    (self.repository.load if serve else self.repository.unload)(name)
                except ServiceError as error:
                    log.warning("%s", error.message)
            self.control.done()

    async def poll(self) -> None:
        """Follow what the repository's folder holds, if the settings say so; until cancelled."""
        while self.settings.poll_interval:
            await asyncio.sleep(self.settings.poll_interval)
            try:
                await asyncio.to_thread(self.repository.refresh)
            except OSError as error:
                log.warning("the model repository cannot be read: %s", error)

    async def examine(self) -> None:
        """Let every model answer its golden inputs again, as often as the settings say; until cancelled."""
        while self.settings.self_test_interval:
            await asyncio.sleep(self.settings.self_test_interval)
            self._sick = await asyncio.to_thread(self._sick_models)

    def _sick_models(self) -> dict[tuple[str, int], str]:
        found = {}
        for model in self.repository.everything():
            try:
                model.self_test()
            except LoadError as error:
                found[model.name, model.version] = str(error)
                if (model.name, model.version) not in self._sick:
                    log.error("not ready: %s", error)
        return found

    @property
    def loaded(self) -> bool:
        """Whether the models are loaded, ready or not."""
        return self._repository is not None

    def not_ready(self) -> str | None:
        """Why the server is not ready, or None if it is."""
        if self._repository is None:
            return "Server not ready: the models are not loaded"
        for name, version in self._sick:  # not the reason, which names files; the log has it
            return f"Server not ready: model '{name}' version {version} fails its self-test"
        return "Server not ready: it is draining" if self.draining else None

    def metadata(self) -> dict[str, Any]:
        """The protocol's server metadata."""
        return {"name": "foldserve", "version": VERSION, "extensions": list(EXTENSIONS)}

    def read(self, model: Model, body: bytes, header_length: bytes | None) -> InferRequest:
        """A request of the Open Inference Protocol, checked against the model; what is wrong with it is counted.

        Args:
            model: that is asked.
            body: decompressed.
            header_length: of the header `Inference-Header-Content-Length`, or None.

        Raises:
            BadRequestError: it says what does not fit.
        """
        try:
            return model.reader.read(body, header_length)
        except BadRequestError:
            model.statistics.failure("OTHER")
            raise

    def submit(self, model: Model, request: InferRequest, then: Callable[[Job], None] | None = None) -> Job:
        """Queue a parsed request; `wait` until it is done, then `collect` its outputs.

        Args:
            model: that is asked.
            request: to it.
            then: called with the job when it is done, for who does not want to wait.

        Raises:
            UnavailableError: the queue is full.
        """
        try:
            return model.submit(request.arrays, request.rows, request.timeout or self.settings.queue_timeout, then)
        except UnavailableError:
            model.statistics.failure("REJECTED")
            raise

    async def wait(self, job: Job, left: Left | None = None) -> None:
        """Wait until the job is done; whether it is well done, `collect` says.

        Args:
            job: as `submit` gave it.
            left: returns, with True, when the client has left; what waits is then given up.
        """
        watch: asyncio.TimerHandle | None = None
        if left is not None:
            # Most requests are answered long before anybody could leave: for them this costs a timer, not a task.
            watch = asyncio.get_running_loop().call_later(PATIENCE, _cancel_when, left, job.future)
        try:
            await job.future
        except (ServiceError, asyncio.CancelledError):
            pass
        finally:
            if watch is not None:
                watch.cancel()

    def collect(self, model: Model, job: Job) -> list[Array]:
        """The model's outputs for a job that is done, counted.

        Raises:
            ServiceError: it was not run, or failed.
            asyncio.CancelledError: the client has left.
        """
        try:
            arrays = job.result()
        except asyncio.CancelledError:
            model.statistics.failure("CANCELED")
            raise
        except UnavailableError:
            model.statistics.failure("REJECTED")
            raise
        except ServiceError:
            model.statistics.failure("BACKEND")
            raise
        model.statistics.success(job)
        return arrays

    async def evaluate(self, model: Model, request: InferRequest) -> list[Array]:
        """Queue, wait and collect."""
        job = self.submit(model, request)
        await self.wait(job)
        return self.collect(model, job)


def _cancel_when(left: Left, future: "asyncio.Future[list[Array]]") -> None:
    async def wait() -> None:
        if await left():
            future.cancel()

    watcher = asyncio.ensure_future(wait())
    future.add_done_callback(lambda _: watcher.cancel())
