"""Links of the kind `relay`: TLS over two TCP connections that a relay has spliced. The channel's name is, as without
a relay, the hash of the server's certificate; the relay is no party to it."""

from __future__ import annotations

import asyncio
import socket

from blockcloud.primitives.errors import Unreachable
from blockcloud.service_access.addresses import Address
from blockcloud.service_access.links.kind import Incoming, LinkListener
from blockcloud.service_access.links.link import Link, StreamLink
from blockcloud.service_access.links.tcp_tls import TlsLinks
from blockcloud.service_access.relay.dialling import open_connection
from blockcloud.service_access.relay.messages import Preamble, Wish


class RelayedLink(StreamLink):
    """A link whose packets come from a relay."""

    def peer_host(self) -> str:
        """Empty: the relay's address is not the peer's, and no policy may take it for that."""
        return ""


class RelayLinks:
    """See the module's text. The TLS is that of `tls_links`."""

    def __init__(self, tls_links: TlsLinks) -> None:
        self._tls_links = tls_links

    async def dial(
        self, address: Address, *, peer: bytes, source: str | None, timeout_ms: float, first: bytes = b""
    ) -> Link:
        """See LinkKind. Raises NotRelayed, too."""
        if not peer:
            raise Unreachable("a relay has to be told which instance is meant", address=str(address))
        loop = asyncio.get_running_loop()
        started_s = loop.time()
        connection = await open_connection(
            (address.host, address.port), Preamble(Wish.DIAL, peer), source=source, timeout_ms=timeout_ms
        )
        left_ms = max(1.0, timeout_ms - (loop.time() - started_s) * 1_000)
        return await self._tls_links.begin_over(connection, RelayedLink(first), address, timeout_ms=left_ms)

    async def listen(self, address: Address, incoming: Incoming) -> LinkListener:
        """There is no listening at a relay's address: an endpoint registers at a relay by its name."""
        raise Unreachable("name the relay instead: its address is found by its name", address=str(address))

    def close(self) -> None:
        """See LinkKind; the transports close by themselves."""

    async def accept(self, connection: socket.socket) -> Link:
        """A link of a connection that somebody has come through. Raises TlsFailed."""
        return await self._tls_links.accept(connection, RelayedLink())
