"""The application of a node, and the server that runs it inside the node's event loop."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from importlib import resources
from typing import Final
from urllib.parse import urlsplit

import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.types import ASGIApp

from blockcloud import __version__
from blockcloud.api.agreements import agreement_routes
from blockcloud.api.connections import LimitedConnection
from blockcloud.api.contracts import contract_routes
from blockcloud.api.description import described
from blockcloud.api.events import event_routes
from blockcloud.api.guard import Guard
from blockcloud.api.markets import market_routes
from blockcloud.api.namespaces import namespace_routes
from blockcloud.api.policies import policy_routes
from blockcloud.api.problems import RequestFailed, UnknownRoute, WrongMethod, problem
from blockcloud.api.queries import query_routes
from blockcloud.api.routing import routing_routes
from blockcloud.api.state import state_routes
from blockcloud.api.transactions import transaction_routes
from blockcloud.node.validator import Validator
from blockcloud.primitives.errors import BlockCloudError, Malformed, Unreachable

SHUTDOWN_SECONDS: Final = 2
# Longer than clients keep an idle connection, so that they do not send into one that is just being closed.
KEEP_ALIVE_SECONDS: Final = 75
BACKLOG: Final = 512
TEXT: Final = "text/plain"


def build_app(validator: Validator, host: str) -> ASGIApp:
    """The ASGI application over `validator`, whose API listens on `host`."""
    app = FastAPI(title="BlockCloud node", version=__version__, docs_url=None, redoc_url=None, redirect_slashes=False)
    for kind in (BlockCloudError, HTTPException, RequestValidationError, Exception):
        app.add_exception_handler(kind, _on_error)
    ledger = (transaction_routes, query_routes, namespace_routes, state_routes, contract_routes, policy_routes)
    for routes in (*ledger, market_routes, agreement_routes, routing_routes, event_routes):
        app.include_router(routes(validator))
    _add_operations(app, validator)
    candidate = validator.chain.candidate(validator.node_key)
    announced = urlsplit(candidate.api_url).hostname if candidate is not None else None
    return Guard(app, host, [announced] if announced else [])


async def _on_error(request: Request, error: Exception) -> Response:
    """Whatever goes wrong is a problem+json with a code; our own bugs show nothing but that."""
    match error:
        case BlockCloudError():
            return problem(error)
        case HTTPException(status_code=404):
            return problem(UnknownRoute(path=request.url.path[:200]))
        case HTTPException(status_code=405):
            return problem(WrongMethod(method=request.method[:20]), error.headers)
        case HTTPException() | RequestValidationError():
            return problem(Malformed("the request does not have the expected form"))
    return problem(RequestFailed())


def _add_operations(app: FastAPI, validator: Validator) -> None:
    plain = described(answers=(TEXT,))

    @app.get("/livez", tags=["operations"], summary="The process runs", openapi_extra=plain)
    async def livez() -> Response:
        return PlainTextResponse("ok\n")

    @app.get("/readyz", tags=["operations"], summary="The node follows the ledger", openapi_extra=plain)
    async def readyz() -> Response:
        ready, reason = validator.readiness()
        return PlainTextResponse(reason + "\n", 200 if ready else 503)

    @app.get("/metrics", tags=["operations"], summary="Metrics for Prometheus", openapi_extra=plain)
    async def metrics() -> Response:
        return Response(generate_latest(validator.metrics), media_type=CONTENT_TYPE_LATEST)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        page = resources.files("blockcloud.api").joinpath("docs.html").read_text(encoding="utf-8")
        return HTMLResponse(page)


class ApiServer:
    """uvicorn in the running loop, without its signal handlers: the node decides when to stop."""

    def __init__(
        self, app: ASGIApp, host: str, port: int, *, connection: type[LimitedConnection] = LimitedConnection
    ) -> None:
        self._host, self._port = host, port
        self._server = uvicorn.Server(
            uvicorn.Config(
                app,
                http=connection,
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="critical",  # what clients send is not worth a line each; our own faults are logged by us
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=SHUTDOWN_SECONDS,
            )
        )
        self._listener: socket.socket | None = None
        self._task: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()

    async def start(self) -> None:
        """Listen; returns once the socket accepts. Raises Unreachable if the address cannot be had."""
        self._listener = listener = _listen(self._host, self._port)
        self._port = listener.getsockname()[1]
        config = self._server.config
        config.load()
        self._server.lifespan = config.lifespan_class(config)
        await self._server.startup([listener])
        self._task = asyncio.create_task(self._serve(listener), name="api")

    @property
    def port(self) -> int:
        """The port in use; differs from the configured one where that was 0."""
        return self._port

    async def _serve(self, listener: socket.socket) -> None:
        # Not uvicorn's own loop: it wakes an idle process ten times a second, to renew the Date header once in ten.
        while not self._stopping.is_set():
            await self._server.on_tick(0)
            with suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await self._stopping.wait()
        await self._server.shutdown([listener])
        for connection in list(self._server.server_state.connections):  # whose clients do not read
            if isinstance(connection, LimitedConnection):
                connection.transport.abort()

    async def stop(self) -> None:
        """Finish what runs, within SHUTDOWN_SECONDS. Does nothing if it was never started."""
        self._server.should_exit = True
        self._stopping.set()
        if self._task is not None:
            await self._task


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol is named because asyncio turns Nagle's delay off only then.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise Unreachable(f"the API cannot listen: {error.strerror}", address=f"{host}:{port}") from None
    listener.setblocking(False)
    return listener
