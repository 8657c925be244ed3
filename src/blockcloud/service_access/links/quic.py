"""Links of the kind `quic`: one QUIC connection over UDP each, for paths that pass only UDP and for datagrams.

The channel's name is the hash of the server's certificate, as with TLS. `qh3` checks that the server holds the
certificate's key, whether it asks who issued it or not; nobody has to have issued ours (a self-signed one would not
even pass). A connection that hears nothing for three times the time after which a session takes its link for dead is
given up by itself.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import Final, cast

from qh3.asyncio._transport import create_optimized_datagram_transport
from qh3.quic.configuration import QuicConfiguration

from blockcloud.primitives.errors import TimedOut, Unreachable
from blockcloud.primitives.hashes import sha256
from blockcloud.primitives.limits import SESSION_BUFFER_BYTES
from blockcloud.service_access import tls
from blockcloud.service_access.addresses import QUIC, Address
from blockcloud.service_access.links.kind import Incoming
from blockcloud.service_access.links.link import Link, LinkBroken
from blockcloud.service_access.links.quic_link import LinkConnection, PeerAddress, QuicLink
from blockcloud.service_access.links.quic_listener import CONNECTION_ID_BYTES, QuicListener, send_all
from blockcloud.service_access.session import SessionParameters

APPLICATION: Final = "blockcloud-link/1"
UDP_PAYLOAD_BYTES: Final = 1_232  # what every IPv6 path carries; larger ones are found by probing
DATAGRAM_FRAME_BYTES: Final = 1_220
WINDOW_BYTES: Final = 2 * SESSION_BUFFER_BYTES
IDLE_FACTOR: Final = 3
UDP_BUFFER_BYTES: Final = 4 * 1024 * 1024

logging.getLogger("quic").setLevel(logging.ERROR)  # it warns of every connection that a peer closes


class QuicLinks:
    """See the module's text. The certificate is made by the first listener and kept for all."""

    def __init__(self, parameters: SessionParameters) -> None:
        self._idle_seconds = IDLE_FACTOR * parameters.dead_after_ms / 1_000
        self._server: tuple[QuicConfiguration, bytes] | None = None
        self._dialled: set[_DialledSocket] = set()
        self._listeners: set[QuicListener] = set()

    def close(self) -> None:
        """Cut what is still there: links that wait until their peer has everything."""
        for dialled in list(self._dialled):
            dialled.link.abort()
        for listener in list(self._listeners):
            listener.close()
            listener.cut_all()

    # --- dialling ---------------------------------------------------------------------------------------------------

    async def dial(
        self, address: Address, *, peer: bytes, source: str | None, timeout_ms: float, first: bytes = b""
    ) -> Link:
        """See LinkKind."""
        dialled: _DialledSocket | None = None
        try:
            async with asyncio.timeout(timeout_ms / 1_000):
                bound, target = await _connected(address, source)
                dialled = _DialledSocket(LinkConnection(configuration=self._configuration()), self._dialled)
                await create_optimized_datagram_transport(asyncio.get_running_loop(), lambda: dialled, bound)
                dialled.link.connect(target)
                await dialled.link.established
        except TimeoutError:
            if dialled is not None:
                dialled.link.abort()
            raise TimedOut("no answer to a new link", address=str(address)) from None
        except OSError as error:
            raise Unreachable(f"no link: {error.strerror or error}", address=str(address)) from None
        except LinkBroken:
            raise Unreachable("no link: nobody speaks QUIC there", address=str(address)) from None
        except asyncio.CancelledError:
            if dialled is not None:
                dialled.link.abort()
            raise
        certificate = dialled.link.quic.get_peercert()
        if certificate is None:
            dialled.link.abort()
            raise Unreachable("the TLS peer showed no certificate", address=str(address))
        dialled.link.binding = sha256(certificate.public_bytes())
        if first:
            dialled.link.send(first)
        return dialled.link

    def _configuration(self, *, is_client: bool = True) -> QuicConfiguration:
        return QuicConfiguration(
            is_client=is_client,
            alpn_protocols=[APPLICATION],
            connection_id_length=CONNECTION_ID_BYTES,
            idle_timeout=self._idle_seconds,
            max_data=WINDOW_BYTES,
            max_stream_data=WINDOW_BYTES,
            max_datagram_size=UDP_PAYLOAD_BYTES,
            max_datagram_frame_size=DATAGRAM_FRAME_BYTES,
            verify_mode=ssl.CERT_NONE,
        )

    # --- listening --------------------------------------------------------------------------------------------------

    async def listen(self, address: Address, incoming: Incoming) -> QuicListener:
        """See LinkKind."""
        bound = socket.socket(_family(address.host), socket.SOCK_DGRAM)
        try:
            bound.setblocking(False)
            bound.bind((address.host, address.port))
        except OSError as error:
            bound.close()
            raise Unreachable(f"cannot listen: {error.strerror}", address=str(address)) from None
        if self._server is None:
            private, public, certificate_hash = tls.new_certificate()
            configuration = self._configuration(is_client=False)
            configuration.load_cert_chain(public, private)
            self._server = configuration, certificate_hash
        configuration, certificate_hash = self._server

        def open_link(link: QuicLink) -> Callable[[], Awaitable[Link]]:
            link.binding = certificate_hash

            async def established() -> Link:
                try:
                    await link.established
                except asyncio.CancelledError:
                    link.abort()
                    raise
                return link

            return established

        listener = QuicListener(configuration, incoming, open_link, self._listeners.discard)
        listener.address = Address(QUIC, address.host, int(bound.getsockname()[1]))
        _widen(bound)
        await create_optimized_datagram_transport(asyncio.get_running_loop(), lambda: listener, bound)
        self._listeners.add(listener)
        return listener


class _DialledSocket(asyncio.DatagramProtocol):
    """The UDP socket of one link that we dialled."""

    def __init__(self, quic: LinkConnection, among: set[_DialledSocket]) -> None:
        self.link = QuicLink(quic, self)
        self._transport: asyncio.DatagramTransport | None = None
        self._among = among
        among.add(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: PeerAddress) -> None:
        self.link.received([data], addr)

    def datagrams_received(self, datagrams: list[bytes], addr: PeerAddress) -> None:
        """As many as the socket gave at once."""
        self.link.received(datagrams, addr)

    def error_received(self, exc: Exception) -> None:
        """The socket is connected: nobody listens there any more."""
        if isinstance(exc, ConnectionRefusedError):
            self.link.cut()

    def send_all(self, datagrams: list[bytes], address: PeerAddress) -> None:
        send_all(self._transport, datagrams, address)

    def id_issued(self, link: QuicLink, connection_id: bytes) -> None:
        """One link, one socket: nothing is routed."""

    def id_retired(self, link: QuicLink, connection_id: bytes) -> None:
        """One link, one socket: nothing is routed."""

    def link_ended(self, link: QuicLink) -> None:
        self._among.discard(self)
        if self._transport is not None:
            self._transport.close()


async def _connected(address: Address, source: str | None) -> tuple[socket.socket, PeerAddress]:
    """(UDP socket that is connected to `address`, that address as numbers). Raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(address.host, address.port, type=socket.SOCK_DGRAM)
    family, _, _, _, target = found[0]
    bound = socket.socket(family, socket.SOCK_DGRAM)
    try:
        bound.setblocking(False)
        if source is not None and _family(source) == family:
            bound.bind((source, 0))
        _widen(bound)
        bound.connect(target)
    except OSError:
        bound.close()
        raise
    return bound, target


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _widen(bound: socket.socket) -> None:
    """A kernel's default holds a moment of bulk only; it may give less than is asked for."""
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, UDP_BUFFER_BYTES)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, UDP_BUFFER_BYTES)
