"""Connections of an edge node to the providers of one name, kept for the next request. An adaptor."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

from blockcloud.service_access.edge.errors import ServerFailed
from blockcloud.service_access.edge.exchange import ClientSide
from blockcloud.service_access.edge.http_message import Request, ResponseHead
from blockcloud.service_access.edge.streams import ByteStream

CONNECTIONS: Final = 64
IDLE_CONNECTIONS: Final = 16
IDLE_SECONDS: Final = 50.0  # less than the other side waits


class Upstream:
    """At most CONNECTIONS at once; whoever comes then waits. `dial` makes a new one."""

    def __init__(self, dial: Callable[[], Awaitable[ByteStream]]) -> None:
        self._dial = dial
        self._idle: list[tuple[float, ClientSide]] = []
        self._free = asyncio.Semaphore(CONNECTIONS)

    @asynccontextmanager
    async def asked(
        self, request: Request, content: AsyncIterator[bytes] | None = None, length: int | None = 0
    ) -> AsyncIterator[tuple[ClientSide, ResponseHead]]:
        """The answer to `request`, while it is read. Raises as `dial` and `ClientSide.ask`."""
        async with self._free:
            side, head = await self._ask(request, content, length)
            try:
                yield side, head
            finally:
                if side.reusable and len(self._idle) < IDLE_CONNECTIONS:
                    self._idle.append((asyncio.get_running_loop().time(), side))
                else:
                    side.abort()

    async def _ask(
        self, request: Request, content: AsyncIterator[bytes] | None, length: int | None
    ) -> tuple[ClientSide, ResponseHead]:
        """Over a connection that is kept, unless it has gone meanwhile; what cannot be sent twice gets a new one."""
        used = self._take() if content is None and request.method in ("GET", "HEAD") else None
        if used is not None:
            try:
                return used, await used.ask(request)
            except ServerFailed:
                used.abort()
            except BaseException:
                used.abort()
                raise
        side = ClientSide(await self._dial())
        try:
            return side, await side.ask(request, content, length)
        except BaseException:
            side.abort()
            raise

    def _take(self) -> ClientSide | None:
        now = asyncio.get_running_loop().time()
        while self._idle:
            since, side = self._idle.pop()
            if now - since <= IDLE_SECONDS:
                return side
            side.abort()
        return None

    def close(self) -> None:
        """Close what is idle."""
        while self._idle:
            self._idle.pop()[1].abort()
