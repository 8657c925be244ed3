"""Limits on the API's connections, which the HTTP server does not have by itself.

Their number; how long a client may take to send a request, from the connection or its first byte on; and how long it
may leave an answer unread. Whoever passes one is cut off: the memory and the sockets belong to all clients.
"""

from __future__ import annotations

import asyncio
from typing import Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from blockcloud.primitives.limits import HTTP_CONNECTIONS

REQUEST_SECONDS: Final = 20
STALLED_SECONDS: Final = 30


class LimitedConnection(HttpToolsProtocol):
    """uvicorn's connection, with the limits."""

    _arriving: asyncio.TimerHandle | None = None
    _stalled: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        if len(self.connections) > HTTP_CONNECTIONS:
            transport.abort()
            return
        self._arriving = self.loop.call_later(REQUEST_SECONDS, transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        self._clear_timers()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        if self._arriving is None:
            self._arriving = self.loop.call_later(REQUEST_SECONDS, self.transport.abort)
        super().on_message_begin()

    def on_message_complete(self) -> None:
        if self._arriving is not None:
            self._arriving.cancel()
            self._arriving = None
        super().on_message_complete()

    def pause_writing(self) -> None:
        if self._stalled is None:
            self._stalled = self.loop.call_later(STALLED_SECONDS, self.transport.abort)
        super().pause_writing()

    def resume_writing(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None
        super().resume_writing()

    def _clear_timers(self) -> None:
        for timer in (self._arriving, self._stalled):
            if timer is not None:
                timer.cancel()
        self._arriving = self._stalled = None
