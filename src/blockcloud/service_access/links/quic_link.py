"""One QUIC connection as a link: its first bidirectional stream carries the frames, DATAGRAM frames the datagrams.

The asyncio side of `qh3`'s connection, which does no IO itself. Its own adaptor buffers without limit; here what waits
for its first transmission is bounded (`paused`, as with a stream transport), and what is on its way is bounded by the
windows that each side grants. At most one datagram at a time waits inside the connection, a few wait here.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Final, Protocol, TypeAlias

from qh3.quic.connection import QuicConnection, QuicConnectionError
from qh3.quic.events import (
    ConnectionIdIssued,
    ConnectionIdRetired,
    ConnectionTerminated,
    DatagramFrameReceived,
    HandshakeCompleted,
    QuicEvent,
    StopSendingReceived,
    StreamDataReceived,
    StreamReset,
)

from blockcloud.primitives.limits import SESSION_DATAGRAM_BYTES
from blockcloud.service_access.frames import Datagram
from blockcloud.service_access.links.link import WRITE_BUFFER_BYTES, Link, LinkBroken

STREAM: Final = 0  # the first that a client opens
DATAGRAMS_UNSENT: Final = 64
CLOSE_SECONDS: Final = 1.0
RESUME_BYTES: Final = WRITE_BUFFER_BYTES // 4

PeerAddress: TypeAlias = Any  # (host, port), or four fields for IPv6


class LinkConnection(QuicConnection):
    """The library's connection, which takes every datagram apart again for a log that we do not keep: not here. It
    costs a sender a quarter of its processor time."""

    def datagrams_to_send(self, now: float) -> list[tuple[bytes, PeerAddress]]:
        """What is to be sent, with its destination. Raises QuicConnectionError."""
        if self._core is None:
            return []
        return self._call_core(list, iter(partial(self._core.poll_transmit, now), None))


class Carrier(Protocol):
    """The UDP socket below a link: its own if we dialled, the listener's otherwise."""

    def send_all(self, datagrams: list[bytes], address: PeerAddress) -> None: ...

    def id_issued(self, link: QuicLink, connection_id: bytes) -> None: ...

    def id_retired(self, link: QuicLink, connection_id: bytes) -> None: ...

    def link_ended(self, link: QuicLink) -> None: ...


class QuicLink(Link):
    """See the module's text. `established` is done when the TLS handshake is; LinkBroken if it failed."""

    def __init__(self, quic: QuicConnection, carrier: Carrier) -> None:
        super().__init__()
        self.quic = quic
        self._carrier = carrier
        self._loop = asyncio.get_running_loop()
        self._peer: PeerAddress = ("", 0)
        self.established: asyncio.Future[None] = self._loop.create_future()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at: float | None = None
        self._closing_timer: asyncio.TimerHandle | None = None
        self._flush_soon: asyncio.Handle | None = None
        self._unsent: deque[bytes] = deque()  # datagrams
        self._waiting_bytes = 0  # of the one datagram that may wait inside the connection
        self._closing = False
        self._over = False

    # --- the network ------------------------------------------------------------------------------------------------

    def connect(self, address: PeerAddress) -> None:
        """Begin the handshake with the server at `address`."""
        self._peer = address
        self.quic.connect(address, now=self._loop.time())
        self._flush()

    def received(self, datagrams: list[bytes], address: PeerAddress) -> None:
        """UDP datagrams of this connection have come."""
        if self._over:
            return
        if self._peer[0] != address[0]:
            self._peer = address
        self._run(lambda: self.quic.receive_many_datagrams(datagrams, address, now=self._loop.time()))

    def cut(self) -> None:
        """The socket says that nobody is there."""
        self._end()

    def _on_timer(self) -> None:
        now = max(self._timer_at or 0.0, self._loop.time())
        self._timer = self._timer_at = None
        self._run(lambda: self.quic.handle_timer(now=now))

    def _run(self, step: Callable[[], None]) -> None:
        """One step of the connection, then what came of it, then what it wants to send."""
        try:
            step()
        except QuicConnectionError:  # the peer broke QUIC in a way that its core does not close for
            self.abort()
            return
        self._take_events()
        if self.quic._close_event is not None:  # the peer has closed; the event comes only when it is forgotten, too
            self._end()
        self._flush()

    def _take_events(self) -> None:
        pieces: list[bytes] = []
        ended = False
        while (event := self.quic.next_event()) is not None:
            if isinstance(event, StreamDataReceived) and event.stream_id == STREAM:
                pieces.append(event.data)
                ended = ended or event.end_stream
            elif isinstance(event, DatagramFrameReceived):
                self._datagram_received(event.data)
            elif self._is_fatal(event):
                ended = True
            else:
                self._take_control(event)
        if pieces:
            self._received(b"".join(pieces) if len(pieces) > 1 else pieces[0])
        if ended and not self._over:
            self.abort()  # a link has no half-open state

    @staticmethod
    def _is_fatal(event: QuicEvent) -> bool:
        """The peer uses what a link has no use for, or takes its one stream back."""
        return isinstance(event, StreamDataReceived | StreamReset | StopSendingReceived)

    def _take_control(self, event: QuicEvent) -> None:
        if isinstance(event, ConnectionIdIssued):
            self._carrier.id_issued(self, event.connection_id)
        elif isinstance(event, ConnectionIdRetired):
            self._carrier.id_retired(self, event.connection_id)
        elif isinstance(event, HandshakeCompleted) and not self.established.done():
            self.established.set_result(None)
        elif isinstance(event, ConnectionTerminated):
            self._end()

    def _datagram_received(self, data: bytes) -> None:
        if self._owner is not None and len(data) <= SESSION_DATAGRAM_BYTES:
            self._owner.link_frame(self, Datagram(memoryview(data)))
            self._owner.link_settled(self)

    # --- Link -------------------------------------------------------------------------------------------------------

    def _pause_reading(self) -> None:
        """A connection cannot be stopped from outside; whoever sends so much before its handshake is cut off."""
        self.abort()

    def _resume_reading(self) -> None:
        """Nothing was stopped."""

    def send(self, *pieces: bytes | memoryview) -> None:
        if self._over or self._closing:
            return
        try:
            for piece in pieces:
                self.quic.send_stream_data(STREAM, piece)
        except QuicConnectionError:  # closed by its core, which tells us later
            self._end()
            return
        if self.quic.get_send_buffer_size(STREAM) > WRITE_BUFFER_BYTES:
            self.paused = True
        self._schedule_flush()

    def send_datagram(self, data: bytes) -> None:
        if self._over or self._closing or len(self._unsent) >= DATAGRAMS_UNSENT:
            return
        self._unsent.append(data)
        self._schedule_flush()

    def close(self) -> None:
        if self._over or self._closing:
            return
        self._closing = True
        if not self.established.done():
            self.abort()
            return
        self.quic.send_stream_data(STREAM, b"", end_stream=True)  # the peer closes when it has all
        self._closing_timer = self._loop.call_later(CLOSE_SECONDS, self.abort)
        self._schedule_flush()

    def abort(self) -> None:
        if self._over:
            return
        self.quic.close()
        self._transmit()
        self._end()

    def peer_host(self) -> str:
        return str(self._peer[0]).removeprefix("::ffff:")

    # --- output -----------------------------------------------------------------------------------------------------

    def _schedule_flush(self) -> None:
        if self._flush_soon is None:
            self._flush_soon = self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        if self._flush_soon is not None:
            self._flush_soon.cancel()
            self._flush_soon = None
        if self._over:
            return
        self._transmit()
        while self._unsent and not self._waiting_bytes:
            datagram = self._unsent.popleft()
            self.quic.send_datagram_frame(datagram)
            self._waiting_bytes = len(datagram)
            self._transmit()
        if self.paused and self.quic.get_send_buffer_size(STREAM) <= RESUME_BYTES:
            self._writable()
        self._arm()

    def _transmit(self) -> None:
        datagrams: list[bytes] = []
        address: PeerAddress = None
        for data, to, *_ in self.quic.datagrams_to_send(now=self._loop.time()):
            if datagrams and to != address:
                self._carrier.send_all(datagrams, address)
                datagrams = []
            datagrams.append(data)
            address = to
            if len(data) >= self._waiting_bytes:  # datagrams go before the stream, so this one had it
                self._waiting_bytes = 0
        if datagrams:
            self._carrier.send_all(datagrams, address)

    def _arm(self) -> None:
        due = self.quic.get_timer()
        if due == self._timer_at and self._timer is not None:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = due
        self._timer = self._loop.call_at(due, self._on_timer) if due is not None else None

    def _end(self) -> None:
        """The connection is gone; tell so in a moment, as a transport does."""
        if self._over:
            return
        self._over = True
        for handle in (self._timer, self._closing_timer, self._flush_soon):
            if handle is not None:
                handle.cancel()
        self._unsent.clear()
        if not self.established.done():
            self.established.set_exception(LinkBroken())
            self.established.exception()  # nobody may be waiting
        self._loop.call_soon(self._broken)
        self._carrier.link_ended(self)
