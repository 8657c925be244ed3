"""A link: one TLS connection that carries frames, as an asyncio protocol.

Until somebody binds it, frames are taken one at a time with `next_frame`, nothing larger than a handshake message is
accepted, and reading stops when the peer sends ahead. Bound, it hands every frame to its session at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from typing import Any, Final, Protocol, cast

from blockcloud.primitives.errors import PeerFault, TimedOut, Unreachable
from blockcloud.service_access.addresses import TLS, Address
from blockcloud.service_access.frames import Frame, FrameDecoder, Rst, encode_frame
from blockcloud.service_access.tls import peer_certificate_hash

UNBOUND_BYTES: Final = 128 * 1024
WRITE_BUFFER_BYTES: Final = 256 * 1024
TLS_SHUTDOWN_SECONDS: Final = 1.0


class LinkBroken(Unreachable):
    """The connection ended before the peer said what was expected of it."""

    code = "link_broken"


class LinkOwner(Protocol):
    """What a bound link talks to."""

    def link_frame(self, link: Link, frame: Frame) -> None: ...

    def link_settled(self, link: Link) -> None:
        """All frames that had arrived were handed over, or the link takes output again."""

    def link_fault(self, link: Link, fault: PeerFault) -> None: ...

    def link_lost(self, link: Link) -> None: ...


class Link(asyncio.Protocol):
    """See the module's text. `counter` is the session's number for this link, set by whoever binds it."""

    def __init__(self) -> None:
        self.counter = 0
        self.lost = False
        self.paused = False
        self._decoder = FrameDecoder()
        self._owner: LinkOwner | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._transport: asyncio.Transport | None = None
        self._reading = True

    # --- asyncio.Protocol -------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)

    def data_received(self, data: bytes) -> None:
        self._decoder.feed(data)
        if self._owner is not None:
            self._deliver()
            return
        if self._reading and self._decoder.buffered > UNBOUND_BYTES and self._transport is not None:
            self._reading = False
            self._transport.pause_reading()
        self._wake()

    def eof_received(self) -> None:
        """Close: a link has no half-open state."""

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self._wake()
        if self._owner is not None:
            self._owner.link_lost(self)

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        if self._owner is not None:
            self._owner.link_settled(self)

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
        self._deliver()
        if not self._reading and self._transport is not None and not self.lost:
            self._reading = True
            self._transport.resume_reading()
        if self.lost:
            owner.link_lost(self)

    def _deliver(self) -> None:
        owner = self._owner
        if owner is None:
            return
        try:
            while (frame := self._decoder.next()) is not None:
                owner.link_frame(self, frame)
        except PeerFault as fault:
            owner.link_fault(self, fault)
            return
        owner.link_settled(self)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # --- output -----------------------------------------------------------------------------------------------------

    def send(self, *pieces: bytes | memoryview) -> None:
        """Write `pieces` in this order; nothing happens on a broken link (`link_lost` tells)."""
        if self._transport is not None and not self.lost and not self._transport.is_closing():
            self._transport.writelines(pieces)

    def refuse(self, fault: PeerFault) -> None:
        """Say why, and close."""
        self.send(encode_frame(Rst(fault.code, fault.message[:200])))
        self.close()

    def close(self) -> None:
        """Close when everything is sent."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    def peer_host(self) -> str:
        """The address that the peer's packets come from; empty if there is no connection."""
        peer: Any = self._transport.get_extra_info("peername") if self._transport is not None else None
        return str(peer[0]) if peer else ""

    def peer_certificate_hash(self) -> bytes:
        """SHA-256 of the certificate of the TLS server at the other end."""
        tls: Any = self._transport.get_extra_info("ssl_object") if self._transport is not None else None
        if tls is None:
            raise LinkBroken
        return peer_certificate_hash(cast("ssl.SSLObject", tls))


async def dial(address: Address, context: ssl.SSLContext, *, source: str | None, timeout_ms: float) -> Link:
    """A new link to `address`, from the local address `source`. Raises Unreachable or TimedOut."""
    link = Link()
    if address.kind != TLS:
        raise Unreachable("no links of this kind are made here", address=str(address))
    try:
        async with asyncio.timeout(timeout_ms / 1_000):
            await asyncio.get_running_loop().create_connection(
                lambda: link,
                address.host,
                address.port,
                ssl=context,
                local_addr=(source, 0) if source is not None else None,
                ssl_handshake_timeout=timeout_ms / 1_000,
                ssl_shutdown_timeout=TLS_SHUTDOWN_SECONDS,
            )
    except TimeoutError:
        link.abort()
        raise TimedOut("no answer to a new link", address=str(address)) from None
    except ssl.SSLError as error:
        raise Unreachable(f"no link: TLS failed: {error.reason or error}", address=str(address)) from None
    except OSError as error:
        raise Unreachable(f"no link: {error.strerror or error}", address=str(address)) from None
    return link


@contextlib.asynccontextmanager
async def time_limit(timeout_ms: float, what: str) -> AsyncIterator[None]:
    """TimedOut instead of asyncio's own."""
    try:
        async with asyncio.timeout(timeout_ms / 1_000):
            yield
    except TimeoutError:
        raise TimedOut(what) from None
