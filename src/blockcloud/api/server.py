"""The application of a node, and the server that runs it inside the node's event loop."""

from __future__ import annotations

import asyncio
from importlib import resources
from ipaddress import ip_address

import uvicorn
from fastapi import FastAPI, Request
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.types import ASGIApp

from blockcloud import __version__
from blockcloud.api.events import event_routes
from blockcloud.api.guard import Guard
from blockcloud.api.problems import problem
from blockcloud.api.queries import query_routes
from blockcloud.api.routing import routing_routes
from blockcloud.api.transactions import transaction_routes
from blockcloud.node.validator import Validator
from blockcloud.primitives.errors import BlockCloudError
from blockcloud.primitives.limits import HTTP_CONNECTIONS

SHUTDOWN_SECONDS = 2


def build_app(validator: Validator, host: str) -> ASGIApp:
    """The ASGI application over `validator`, which may be addressed as `host` or as loopback."""
    app = FastAPI(title="BlockCloud node", version=__version__, docs_url=None, redoc_url=None)

    async def on_error(_: Request, error: Exception) -> Response:
        if not isinstance(error, BlockCloudError):
            raise error
        return problem(error)

    app.add_exception_handler(BlockCloudError, on_error)
    for routes in (transaction_routes, query_routes, routing_routes, event_routes):
        app.include_router(routes(validator))

    @app.get("/livez", tags=["operations"], summary="The process runs")
    async def livez() -> Response:
        return PlainTextResponse("ok\n")

    @app.get("/readyz", tags=["operations"], summary="The node follows the ledger")
    async def readyz() -> Response:
        ready, reason = validator.readiness()
        return PlainTextResponse(reason + "\n", 200 if ready else 503)

    @app.get("/metrics", tags=["operations"], summary="Metrics for Prometheus")
    async def metrics() -> Response:
        return Response(generate_latest(validator.metrics), media_type=CONTENT_TYPE_LATEST)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        page = resources.files("blockcloud.api").joinpath("docs.html").read_text(encoding="utf-8")
        return HTMLResponse(page)

    return Guard(app, _host_names(host))


def _host_names(host: str) -> set[str]:
    """Names under which a node that listens on `host` may be addressed."""
    names = {"localhost", "127.0.0.1", "::1", host}
    return names if ip_address(host).is_loopback else names | {""}


class ApiServer:
    """uvicorn in the running loop, without its signal handlers: the node decides when to stop."""

    def __init__(self, app: ASGIApp, host: str, port: int) -> None:
        self._server = uvicorn.Server(
            uvicorn.Config(
                app,
                host=host,
                port=port,
                http="httptools",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                limit_concurrency=HTTP_CONNECTIONS,
                timeout_graceful_shutdown=SHUTDOWN_SECONDS,
            )
        )
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listen; returns once the socket accepts. Raises OSError if the address is taken."""
        config = self._server.config
        config.load()
        self._server.lifespan = config.lifespan_class(config)
        await self._server.startup()
        self._task = asyncio.create_task(self._serve(), name="api")

    @property
    def port(self) -> int:
        """The port in use; differs from the configured one where that was 0."""
        port: int = self._server.servers[0].sockets[0].getsockname()[1]
        return port

    async def _serve(self) -> None:
        await self._server.main_loop()
        await self._server.shutdown()

    async def stop(self) -> None:
        """Finish what runs, within SHUTDOWN_SECONDS."""
        self._server.should_exit = True
        if self._task is not None:
            await self._task
