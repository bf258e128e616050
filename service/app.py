"""The application: a factory, so that every test and every process has its own."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from service.dataplane import VERSION, DataPlane
from service.http import errors, predict, routes, tfserving, triton
from service.http.front import Front
from service.settings import Settings


def create_app(settings: Settings | None = None, plane: DataPlane | None = None) -> FastAPI:
    """The server as an ASGI application.

    Args:
        settings: from the environment by default.
        plane: what it serves; made from the settings by default, and then started with the application.
    """
    data_plane = plane or DataPlane(settings or Settings())

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        data_plane.start()
        try:
            yield
        finally:
            data_plane.stop()

    app = FastAPI(
        title="Foldserve",
        version=VERSION,
        description="Serves networks whose batch normalisation was folded exactly into their weights.",
        lifespan=lifespan,
        redirect_slashes=False,
    )
    app.state.plane = data_plane
    app.add_middleware(Front, plane=data_plane)
    errors.install(app)
    app.include_router(triton.router)
    app.include_router(routes.router)
    app.include_router(predict.router)
    app.include_router(tfserving.router)
    return app
