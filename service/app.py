"""The application: a factory, so that every test and every process has its own."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI

from service.dataplane import VERSION, DataPlane
from service.http import docs, errors, openapi, page, predict, recalibration, routes, statistics, tfserving, triton
from service.http.front import Front
from service.settings import Settings


class Application(FastAPI):
    """FastAPI behind our own front, which answers inference before the framework's layers, telemetry included."""

    front: Front

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """ASGI."""
        await self.front(scope, receive, send)

    async def framework(self, scope: Any, receive: Any, send: Any) -> None:
        """ASGI, as FastAPI has it."""
        await super().__call__(scope, receive, send)


def create_app(settings: Settings | None = None, plane: DataPlane | None = None) -> Application:
    """The server as an ASGI application.

    Args:
        settings: from the environment by default.
        plane: what it serves; made from the settings by default, and then started with the application.
    """
    data_plane = plane or DataPlane(settings or Settings())

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        data_plane.start()
        tasks = [asyncio.create_task(t) for t in (data_plane.poll(), data_plane.follow(), data_plane.examine())]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            data_plane.stop()

    app = Application(
        title="Foldserve",
        version=VERSION,
        description="Serves networks whose batch normalisation was folded exactly into their weights.",
        lifespan=lifespan,
        telemetry={"auto_configure": True},  # by OpenTelemetry's environment variables, if they name a collector
        redirect_slashes=False,
        docs_url=None,  # it would load its scripts from elsewhere
        redoc_url=None,
    )
    app.state.plane = data_plane
    app.front = Front(app.framework, data_plane)
    errors.install(app)
    # Triton first: its `/v2/models/stats` is nobody's name.
    for module in (triton, statistics, routes, predict, tfserving, recalibration, page):
        app.include_router(module.router, responses=openapi.ERRORS)
    app.include_router(docs.router)
    openapi.describe(app)
    return app
