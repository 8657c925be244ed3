"""Limits on the API's connections, which the HTTP server does not have by itself.

Their number; how long a client may take to send a request, from the connection or its first byte on; how much of a
body is read and thrown away after it was refused (some, because most clients look at the answer only when they have
sent everything); and how long a client may leave an answer unread. Whoever passes one is cut off: the memory and the
sockets belong to all clients.
"""

from __future__ import annotations

import asyncio
from typing import Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from blockcloud.primitives.limits import HTTP_BODY_BYTES, HTTP_CONNECTIONS

REQUEST_SECONDS: Final = 20
STALLED_SECONDS: Final = 30


class LimitedConnection(HttpToolsProtocol):
    """uvicorn's connection, with the limits."""

    connections_max = HTTP_CONNECTIONS
    request_seconds: float = REQUEST_SECONDS
    stalled_seconds: float = STALLED_SECONDS

    ignored_bytes_max = HTTP_BODY_BYTES

    _arriving: asyncio.TimerHandle | None = None
    _stalled: asyncio.TimerHandle | None = None
    _ignored_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        if len(self.connections) > self.connections_max:
            transport.abort()
            return
        self._arriving = self.loop.call_later(self.request_seconds, transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        self._clear_timers()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        if self._arriving is None:
            self._arriving = self.loop.call_later(self.request_seconds, self.transport.abort)
        self._ignored_bytes = 0
        super().on_message_begin()

    def on_body(self, body: bytes) -> None:
        if self.cycle.response_complete:
            self._ignored_bytes += len(body)
            if self._ignored_bytes > self.ignored_bytes_max:
                self.transport.abort()
            return
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self._arriving is not None:
            self._arriving.cancel()
            self._arriving = None
        super().on_message_complete()

    def pause_writing(self) -> None:
        if self._stalled is None:
            self._stalled = self.loop.call_later(self.stalled_seconds, self.transport.abort)
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
