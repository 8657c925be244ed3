"""A link: one connection that carries frames, whatever is below it. Each kind of carrier is a subclass.

Until somebody binds it, frames are taken one at a time with `next_frame`, nothing larger than a handshake message is
accepted, and reading stops when the peer sends ahead. Bound, it hands every frame to its session at once.
"""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from typing import Any, Final, Protocol, cast

from blockcloud.primitives.errors import PeerFault, TimedOut, Unreachable
from blockcloud.service_access.frames import Frame, FrameDecoder, Rst, datagram_header, encode_frame

UNBOUND_BYTES: Final = 128 * 1024
WRITE_BUFFER_BYTES: Final = 256 * 1024


class LinkBroken(Unreachable):
    """The connection ended before the peer said what was expected of it."""

    code = "link_broken"


class LinkOwner(Protocol):
    """What a bound link talks to."""

    def link_small(self, link: Link, data: bytes) -> bool:
        """`data` has come where a frame begins. True: it was one small frame, and is done with."""

    def link_frame(self, link: Link, frame: Frame) -> None: ...

    def link_settled(self, link: Link) -> None:
        """All frames that had arrived were handed over, or the link takes output again."""

    def link_fault(self, link: Link, fault: PeerFault) -> None: ...

    def link_lost(self, link: Link) -> None: ...


class Link(ABC):
    """See the module's text. `counter` is the session's number for this link, set by whoever binds it.

    `binding` are 32 bytes that name this channel, the same at both ends and another in the middle: the hash of the TLS
    server's certificate, say. `paused`: the carrier's bounded buffer is full, send no more until `link_settled`.
    """

    def __init__(self) -> None:
        self.counter = 0
        self.lost = False
        self.paused = False
        self.binding = b""
        self._decoder = FrameDecoder()
        self._owner: LinkOwner | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._reading = True

    # --- the carrier's side -----------------------------------------------------------------------------------------

    def _received(self, data: bytes) -> None:
        """Bytes of frames have come; they must not be changed afterwards."""
        owner = self._owner
        if owner is not None:
            if self._decoder.buffered or not owner.link_small(self, data):
                self._decoder.feed(data)
                self._deliver(owner)
            return
        self._decoder.feed(data)
        if self._reading and self._decoder.buffered > UNBOUND_BYTES:
            self._reading = False
            self._pause_reading()
        self._wake()

    def _broken(self) -> None:
        """The carrier is gone."""
        self.lost = True
        self._wake()
        if self._owner is not None:
            self._owner.link_lost(self)

    def _writable(self) -> None:
        """The carrier takes output again."""
        self.paused = False
        if self._owner is not None:
            self._owner.link_settled(self)

    @abstractmethod
    def _pause_reading(self) -> None:
        """The peer sends ahead of its handshake: take no more from it for now."""

    @abstractmethod
    def _resume_reading(self) -> None: ...

    # --- before it is bound -----------------------------------------------------------------------------------------

    async def next_frame(self) -> Frame:
        """The next frame of a link that nobody has bound. Raises LinkBroken, or a PeerFault of the decoder."""
        while (frame := self._decoder.next()) is None:
            if self.lost:
                raise LinkBroken
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return frame

    def bind(self, owner: LinkOwner, counter: int) -> None:
        """The peer is authenticated: from now on every frame goes to `owner`, those that wait already first."""
        self._owner = owner
        self.counter = counter
        self._decoder.authenticated()
        self._deliver(owner)
        if not self._reading and not self.lost:
            self._reading = True
            self._resume_reading()
        if self.lost:
            owner.link_lost(self)

    def _deliver(self, owner: LinkOwner) -> None:
        decoder = self._decoder
        try:
            while decoder.buffered and (frame := decoder.next()) is not None:
                owner.link_frame(self, frame)
        except PeerFault as fault:
            owner.link_fault(self, fault)
            return
        owner.link_settled(self)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # --- output -----------------------------------------------------------------------------------------------------

    @abstractmethod
    def send(self, *pieces: bytes | memoryview) -> None:
        """Write `pieces` in this order; nothing happens on a broken link (`link_lost` tells)."""

    @abstractmethod
    def send_datagram(self, data: bytes) -> None:
        """Send `data` beside the frames, or lose it."""

    @abstractmethod
    def close(self) -> None:
        """Close when everything is sent."""

    @abstractmethod
    def abort(self) -> None:
        """Close at once."""

    @abstractmethod
    def peer_host(self) -> str:
        """The address that the peer's packets come from; empty if there is none."""

    def refuse(self, fault: PeerFault) -> None:
        """Say why, and close."""
        self.send(encode_frame(Rst(fault.code, fault.message[:200])))
        self.close()


class StreamLink(Link, asyncio.Protocol):
    """A link over a stream transport of asyncio: TLS, or a Unix socket. `first` leaves when it is there."""

    def __init__(self, first: bytes = b"") -> None:
        super().__init__()
        self._first = first
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)
        if self._first:
            self._transport.write(self._first)
            self._first = b""

    data_received = Link._received

    def eof_received(self) -> None:
        """Close: a link has no half-open state."""

    def connection_lost(self, exc: Exception | None) -> None:
        self._broken()

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self._writable()

    def _pause_reading(self) -> None:
        if self._transport is not None:
            self._transport.pause_reading()

    def _resume_reading(self) -> None:
        if self._transport is not None:
            self._transport.resume_reading()

    def send(self, *pieces: bytes | memoryview) -> None:
        transport = self._transport
        if transport is None or self.lost or transport.is_closing():
            return
        if len(pieces) == 1:
            transport.write(pieces[0])
        else:
            transport.writelines(pieces)

    def send_datagram(self, data: bytes) -> None:
        self.send(datagram_header(len(data)), data)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def peer_host(self) -> str:
        peer: Any = self._transport.get_extra_info("peername") if self._transport is not None else None
        return str(peer[0]) if peer and isinstance(peer, tuple) else ""

    def carrier_info(self, name: str) -> Any:
        """What the transport knows under `name`. Raises LinkBroken if it is gone."""
        found = self._transport.get_extra_info(name) if self._transport is not None else None
        if found is None:
            raise LinkBroken
        return found


@contextlib.asynccontextmanager
async def time_limit(timeout_ms: float, what: str) -> AsyncIterator[None]:
    """TimedOut instead of asyncio's own."""
    try:
        async with asyncio.timeout(timeout_ms / 1_000):
            yield
    except TimeoutError:
        raise TimedOut(what) from None
