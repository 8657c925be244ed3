"""`forward NAME --listen HOST:PORT`: unmodified TCP clients reach a service by connecting to a local port.

Every TCP connection is one session, so the client lives through moves of either side without knowing. When a session
ends in an error, its TCP connection is reset: the client sees an error, never a hang and never a short answer that
looks complete.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Final

import structlog

from blockcloud.primitives.errors import BlockCloudError, Unreachable
from blockcloud.service_access.addresses import HostPort
from blockcloud.service_access.connector import Connector
from blockcloud.service_access.splice import TcpSide, splice

FORWARDED_CONNECTIONS: Final = 1_024

log = structlog.get_logger(__name__)


class Forwarder:
    """A local listener for one name. `errors` counts by code why sessions ended."""

    def __init__(self, name: str, connector: Connector) -> None:
        self.name = name
        self.errors: Counter[str] = Counter()
        self.last_error: BlockCloudError | None = None
        self._connector = connector
        self._server: asyncio.Server | None = None
        self._running: set[asyncio.Task[None]] = set()

    async def start(self, host: str, port: int) -> HostPort:
        """Listen; the address. Raises Unreachable."""
        try:
            self._server = await asyncio.get_running_loop().create_server(self._accept, host, port)
        except OSError as error:
            raise Unreachable(f"cannot listen: {error.strerror}", address=f"{host}:{port}") from None
        return host, int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Stop; what is under way is reset."""
        if self._server is not None:
            self._server.close()
        for task in list(self._running):
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    def _accept(self) -> TcpSide:
        tcp = TcpSide()
        task = asyncio.get_running_loop().create_task(self._serve(tcp))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return tcp

    async def _serve(self, tcp: TcpSide) -> None:
        try:
            await tcp.connected()
            if len(self._running) > FORWARDED_CONNECTIONS:
                tcp.reset()
                return
            session = await self._connector.connect(self.name)
        except BlockCloudError as error:
            self._failed(error)
            tcp.reset()
            return
        except asyncio.CancelledError:
            tcp.reset()
            raise
        ended = await splice(session, tcp)
        if ended is not None:
            self._failed(ended)

    def _failed(self, error: BlockCloudError) -> None:
        self.errors[error.code] += 1
        self.last_error = error
        log.warning("forward_failed", name=self.name, code=error.code, reason=str(error), hint=error.hint)
