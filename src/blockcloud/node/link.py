"""One connection between two validators as an asyncio protocol that cuts the byte stream into frames."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, cast

from blockcloud.primitives.errors import Oversized, PeerFault, Unreachable
from blockcloud.primitives.limits import FRAME_BYTES

LENGTH_BYTES: Final = 4
HANDSHAKE_FRAME_BYTES: Final = 4 * 1024  # before the peer is known
UNREAD_BYTES: Final = 256 * 1024  # buffered before the handshake asks for it; then reading stops


class FrameTooLarge(Oversized):
    """A frame announces more bytes than a message may have."""

    code = "frame_too_large"


class Link(asyncio.Protocol):
    """A connection. Until `open` it is in the handshake: small frames, fetched one by one with `next_frame`."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._limit = HANDSHAKE_FRAME_BYTES
        self._waiter: asyncio.Future[bytes] | None = None
        self._on_frame: Callable[[bytes], None] | None = None
        self._on_end: Callable[[PeerFault | None], None] | None = None
        self._fault: PeerFault | None = None
        self.closed = asyncio.Event()
        self.paused = False
        self.heard_at = self.sent_at = loop.time()

    # For the network

    def send(self, data: bytes) -> None:
        """Queue a frame. Does nothing once the connection is gone."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(len(data).to_bytes(LENGTH_BYTES, "big") + data)
            self.sent_at = self._loop.time()

    @property
    def queued(self) -> int:
        """Bytes that wait for the peer to take them."""
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    async def next_frame(self) -> bytes:
        """The next frame of the handshake. Raises FrameTooLarge, or Unreachable when the connection ends."""
        if self.closed.is_set():
            raise self._fault or Unreachable("the connection was closed during the handshake")
        self._waiter = self._loop.create_future()
        self._cut()
        try:
            return await self._waiter
        finally:
            self._waiter = None

    def open(self, on_frame: Callable[[bytes], None], on_end: Callable[[PeerFault | None], None]) -> None:
        """The peer is known: hand every frame to `on_frame`, and the end of the connection, once, to `on_end`."""
        self._limit, self._on_frame, self._on_end = FRAME_BYTES, on_frame, on_end
        if self.closed.is_set():
            on_end(self._fault)
            return
        self.resume()
        self._cut()

    def pause(self) -> None:
        if self._transport is not None and not self.paused and not self._transport.is_closing():
            self.paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._transport is not None and self.paused and not self._transport.is_closing():
            self.heard_at, self.paused = self._loop.time(), False
            self._transport.resume_reading()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # For asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's does not inherit from it

    def data_received(self, data: bytes) -> None:
        self.heard_at = self._loop.time()
        self._buffer += data
        self._cut()
        if self._on_frame is None and len(self._buffer) > UNREAD_BYTES:
            self.pause()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed.set()
        self._buffer.clear()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(self._fault or Unreachable("the connection was closed during the handshake"))
        if self._on_end is not None:
            self._on_end(self._fault)

    def _cut(self) -> None:
        """Take whole frames off the buffer; in the handshake only one that is waited for: limits change behind it."""
        buffer = self._buffer
        while len(buffer) >= LENGTH_BYTES and self._fault is None:
            on_frame, waiter = self._on_frame, self._waiter
            if on_frame is None and (waiter is None or waiter.done()):
                return
            size = int.from_bytes(buffer[:LENGTH_BYTES], "big")
            if size > self._limit:
                self._blame(FrameTooLarge("frame is larger than its limit", bytes=size, limit=self._limit))
                return
            if len(buffer) < LENGTH_BYTES + size:
                return
            frame = bytes(buffer[LENGTH_BYTES : LENGTH_BYTES + size])
            del buffer[: LENGTH_BYTES + size]
            if on_frame is not None:
                on_frame(frame)
            elif waiter is not None:
                waiter.set_result(frame)

    def _blame(self, fault: PeerFault) -> None:
        self._fault = fault
        self._buffer.clear()
        self.abort()
