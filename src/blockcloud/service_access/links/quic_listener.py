"""A UDP socket at which QUIC links come in: which datagram is whose, and who is worth a connection.

Routing is by connection id. A first packet makes a connection only while few handshakes are half open; beyond
RETRY_FROM of them the sender first has to return a token, which proves that it receives what we send to its address
(RFC 9000, section 8.1) and costs us nothing to keep. Whatever else comes is dropped without an answer.
"""

from __future__ import annotations

import asyncio
import hmac
import os
from collections.abc import Awaitable, Callable
from typing import Final, cast

from qh3._hazmat import pull_quic_header
from qh3.quic.configuration import QuicConfiguration
from qh3.quic.packet import QuicPacketType, encode_quic_retry, encode_quic_version_negotiation

from blockcloud.service_access.addresses import Address
from blockcloud.service_access.links.kind import Incoming
from blockcloud.service_access.links.link import Link
from blockcloud.service_access.links.quic_link import LinkConnection, PeerAddress, QuicLink

CONNECTION_ID_BYTES: Final = 8
FIRST_DATAGRAM_BYTES: Final = 1_200  # RFC 9000, section 14.1
RETRY_FROM: Final = 64
TOKEN_SECONDS: Final = 10
_LONG_HEADER: Final = 0x80


class RetryTokens:
    """Stateless proofs of address: a MAC over the address, both connection ids and the time."""

    def __init__(self) -> None:
        self._key = os.urandom(32)

    def make(self, address: PeerAddress, original: bytes, source: bytes, now_s: int) -> bytes:
        """The token for a sender at `address` that called us `original` and shall call us `source`."""
        body = now_s.to_bytes(8) + bytes([len(original)]) + original + source
        return self._mac(address, body) + body

    def read(self, address: PeerAddress, token: bytes, now_s: int) -> tuple[bytes, bytes] | None:
        """(original, source) of a good and fresh token; None otherwise."""
        mac, body = token[:32], token[32:]
        if len(body) < 9 or not hmac.compare_digest(mac, self._mac(address, body)):
            return None
        if not 0 <= now_s - int.from_bytes(body[:8]) <= TOKEN_SECONDS:
            return None
        return body[9 : 9 + body[8]], body[9 + body[8] :]

    def _mac(self, address: PeerAddress, body: bytes) -> bytes:
        return hmac.digest(self._key, repr(address[:2]).encode() + b"\x00" + body, "sha256")


class QuicListener(asyncio.DatagramProtocol):
    """See the module's text. The socket stays open until the last link that came in here has ended."""

    def __init__(
        self,
        configuration: QuicConfiguration,
        incoming: Incoming,
        open_link: Callable[[QuicLink], Callable[[], Awaitable[Link]]],
        ended: Callable[[QuicListener], None],
    ) -> None:
        self.address = Address("quic", "", 0)  # set when the socket is bound
        self._configuration = configuration
        self._incoming = incoming
        self._open_link = open_link
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self._tokens = RetryTokens()
        self._routes: dict[bytes, QuicLink] = {}
        self._links: dict[QuicLink, list[bytes]] = {}
        self._half_open: set[QuicLink] = set()
        self._closed = False
        self._transport: asyncio.DatagramTransport | None = None

    def close(self) -> None:
        """Take no more links."""
        self._closed = True
        self._close_if_unused()

    def cut_all(self) -> None:
        """End every link at once."""
        for link in list(self._links):
            link.abort()

    # --- the socket -------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: PeerAddress) -> None:
        self.datagrams_received([data], addr)

    def datagrams_received(self, datagrams: list[bytes], addr: PeerAddress) -> None:
        """As many as the socket gave at once, all from one address; runs of one connection are passed on together."""
        link: QuicLink | None = None
        run: list[bytes] = []
        for data in datagrams:
            owner = self._owner(data, addr)
            if owner is not link and run:
                if link is not None:
                    link.received(run, addr)
                run = []
            link = owner
            run.append(data)
        if link is not None:
            link.received(run, addr)

    def error_received(self, exc: Exception) -> None:
        """An ICMP message about one of many peers; its link will be found dead."""

    def send_all(self, datagrams: list[bytes], address: PeerAddress) -> None:
        send_all(self._transport, datagrams, address)

    # --- whose it is ------------------------------------------------------------------------------------------------

    def _owner(self, data: bytes, addr: PeerAddress) -> QuicLink | None:
        if not data:
            return None
        if not data[0] & _LONG_HEADER:
            return self._routes.get(data[1 : 1 + CONNECTION_ID_BYTES])
        try:
            version, kind, _, destination, source, token, *_ = pull_quic_header(data, 0, CONNECTION_ID_BYTES)
        except ValueError:
            return None
        link = self._routes.get(destination)
        if link is not None or self._closed or len(data) < FIRST_DATAGRAM_BYTES:
            return link
        if version not in self._configuration.supported_versions:
            if version:
                self.send_all([self._known_versions(destination, source)], addr)
            return None
        if kind != QuicPacketType.INITIAL:
            return None
        return self._first(version, destination, source, token, addr)

    def _known_versions(self, destination: bytes, source: bytes) -> bytes:
        return encode_quic_version_negotiation(
            source_cid=destination,
            destination_cid=source,
            supported_versions=self._configuration.supported_versions,
        )

    def _first(
        self, version: int, destination: bytes, source: bytes, token: bytes, addr: PeerAddress
    ) -> QuicLink | None:
        """A new connection for a first packet, if its sender may have one."""
        now_s = int(self._loop.time())
        original, retried = destination, None
        if token:
            proven = self._tokens.read(addr, token, now_s)
            if proven is None:
                return None
            original, retried = proven
        elif len(self._half_open) >= RETRY_FROM:
            own = os.urandom(CONNECTION_ID_BYTES)
            retry = encode_quic_retry(
                version=version,
                source_cid=own,
                destination_cid=source,
                original_destination_cid=destination,
                retry_token=self._tokens.make(addr, destination, own, now_s),
            )
            self.send_all([retry], addr)
            return None
        quic = LinkConnection(
            configuration=self._configuration,
            original_destination_connection_id=original,
            retry_source_connection_id=retried,
        )
        link = QuicLink(quic, self)
        if not self._incoming(self._open_link(link)):
            return None
        self._links[link] = []
        self._half_open.add(link)
        link.established.add_done_callback(lambda _: self._half_open.discard(link))
        self.id_issued(link, destination)
        self.id_issued(link, quic.host_cid)
        return link

    def id_issued(self, link: QuicLink, connection_id: bytes) -> None:
        """The peer may call `link` so from now on."""
        if link in self._links:
            self._routes[connection_id] = link
            self._links[link].append(connection_id)

    def id_retired(self, link: QuicLink, connection_id: bytes) -> None:
        """The peer calls `link` so no more."""
        if self._routes.get(connection_id) is link:
            del self._routes[connection_id]
            self._links[link].remove(connection_id)

    def link_ended(self, link: QuicLink) -> None:
        """Forget `link`."""
        for connection_id in self._links.pop(link, []):
            self._routes.pop(connection_id, None)
        self._close_if_unused()

    def _close_if_unused(self) -> None:
        if self._closed and not self._links and self._transport is not None:
            self._transport.close()
            self._transport = None
            self._ended(self)


def send_all(transport: asyncio.DatagramTransport | None, datagrams: list[bytes], address: PeerAddress) -> None:
    """Send `datagrams`, in as few system calls as the transport can."""
    if transport is None or transport.is_closing():
        return
    many = getattr(transport, "sendto_many", None)
    if many is not None:
        many(datagrams, address)
        return
    for data in datagrams:
        transport.sendto(data, address)
