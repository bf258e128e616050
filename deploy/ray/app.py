"""Foldserve behind Ray Serve: the same application in every replica, on as many machines as the cluster has.

    serve run deploy.ray.app:app

The settings are those of the server, `FOLDSERVE_…` in the environment of whoever deploys; the folder of models must be
at the same place on every machine. `deploy/ray/environment` says what the machines of a cluster are started with.
"""

import asyncio
import contextlib
import logging
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray.serve.config import DeploymentActorConfig

from deploy.ray.blackboard import Blackboard
from deploy.ray.member import Member, SharedControl
from deploy.ray.retry import Whole
from service.app import create_app
from service.dataplane import DataPlane
from service.settings import Settings

log = logging.getLogger(__name__)

CORES = 1  # of one replica; its runs of the model go one after the other
FRESH = ("/metrics", "/stats", "/drift")  # how the paths end that tell of all replicas, as it is at this moment
CHANGED = "/drift/reset"  # how the path ends that changes what all have in common
PATIENCE, LONGEST = 2.0, 60.0  # seconds to wait for all replicas: to say what they counted, and to load a model
BLACKBOARD = "blackboard"

# A cluster that `serve run` starts itself has this process's environment.
for line in Path(__file__).with_name("environment").read_text(encoding="utf-8").splitlines():
    name, _, value = line.partition("=")
    if value and not name.startswith("#"):
        os.environ.setdefault(name, value)


def environment() -> dict[str, str]:
    """What every replica's server is to be told: the settings here, its share of a machine, where the models are."""
    given = {name: value for name, value in os.environ.items() if name.startswith("FOLDSERVE_")}
    models = Path(given.get("FOLDSERVE_MODELS", "models")).resolve()
    return {"FOLDSERVE_RUNNERS": str(CORES)} | given | {"FOLDSERVE_MODELS": str(models)}


async def ask(method: str, *arguments: Any) -> Any:
    """Call a method of the blackboard; it is looked up each time, since it may have been replaced."""
    return await getattr(serve.get_deployment_actor(BLACKBOARD), method).remote(*arguments)


@serve.ingress()
class Foldserve:
    """One replica."""

    _plane: DataPlane

    def __init__(self) -> None:
        here = serve.get_replica_context()
        self._all = serve.get_deployment_handle(here.deployment, here.app_name)
        self._member = Member(here.replica_id.unique_id, ask)
        self._following = asyncio.create_task(self._member.follow())

    async def __serve_build_asgi_app__(self) -> Any:
        """The application, for Serve; knowing what the operator wished before it loads a model."""
        await self._member.exchange()
        self._plane = DataPlane(Settings(), self._member.ledger, self._member.journal, self._member.sums)
        self._plane.control = SharedControl(self._member, self._let_all_follow)
        return Whole(Fresh(create_app(plane=self._plane), self._gather, self._member.exchange))

    async def __del__(self) -> None:
        """For Serve, before a replica that is no longer needed ends: what it has counted is not to end with it."""
        self._following.cancel()
        with contextlib.suppress(Exception):  # whatever Ray raises; there may be nobody left to tell
            await self._member.exchange()

    def check_health(self) -> None:
        """For Serve, which replaces a replica that fails this.

        Raises:
            RuntimeError: a model fails its self-test.
        """
        if reason := self._plane.not_ready():
            raise RuntimeError(reason)

    async def exchange(self) -> None:
        """Let the others know what was counted here; called by one of them."""
        await self._member.exchange()

    async def catch_up(self) -> None:
        """Do what an operator wished; called by the replica that he told it."""
        await self._member.exchange()
        while self._plane.control.behind:
            await asyncio.sleep(0.02)  # the data plane follows by itself

    async def _gather(self) -> None:
        try:
            await self._all.broadcast("exchange").results_async(timeout_s=PATIENCE, return_exceptions=True)
            await self._member.exchange()
        except Exception as error:  # whatever Ray raises; what was known a few seconds ago is told instead
            log.warning("not all replicas said what they counted: %s", error)

    def _let_all_follow(self) -> None:
        self._all.broadcast("catch_up").results(timeout_s=LONGEST, return_exceptions=True)


class Fresh:
    """ASGI middleware: what tells of all replicas is put together when it is asked for.

    Args:
        app: of one replica.
        gather: brings in what the others have counted.
        exchange: tells the others what has changed here.
    """

    def __init__(
        self, app: Any, gather: Callable[[], Awaitable[None]], exchange: Callable[[], Awaitable[None]]
    ) -> None:
        self._app, self._gather, self._exchange = app, gather, exchange

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """ASGI."""
        path = scope.get("path", "")
        if path.endswith(FRESH):
            await self._gather()
        await self._app(scope, receive, send)
        if path.endswith(CHANGED):
            await self._exchange()


deployment = serve.deployment(
    name="Foldserve",
    max_ongoing_requests=64,
    max_queued_requests=1024,
    autoscaling_config={"min_replicas": 2, "max_replicas": 64, "target_ongoing_requests": 16},
    ray_actor_options={"num_cpus": CORES, "runtime_env": {"env_vars": environment()}},
    deployment_actors=[
        DeploymentActorConfig(name=BLACKBOARD, actor_class=ray.remote(Blackboard), actor_options={"num_cpus": 0})
    ],
    health_check_period_s=5,
    graceful_shutdown_timeout_s=35,
)(Foldserve)
app = deployment.bind()
