"""Links of the kind `tls`: TLS 1.3 over TCP. The channel's name is the hash of the server's certificate."""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import Any, Final, cast

from blockcloud.primitives.errors import TimedOut, Unreachable
from blockcloud.primitives.limits import HANDSHAKE_SECONDS
from blockcloud.service_access import tls
from blockcloud.service_access.addresses import TLS, Address
from blockcloud.service_access.links.kind import Incoming
from blockcloud.service_access.links.link import Link, StreamLink
from blockcloud.service_access.links.sockets import LISTEN_BACKLOG, SocketListener

TLS_SHUTDOWN_SECONDS: Final = 1.0


class TlsFailed(Unreachable):
    """Whoever came does not speak TLS 1.3, or left."""

    code = "tls_failed"


class TlsLinks:
    """See the module's text. The certificate is made by the first listener and kept for all."""

    def __init__(self) -> None:
        self._client = tls.client_context()
        self._server: tuple[ssl.SSLContext, bytes] | None = None

    async def dial(
        self, address: Address, *, peer: bytes, source: str | None, timeout_ms: float, first: bytes = b""
    ) -> Link:
        """See LinkKind."""
        local = (source, 0) if source is not None else None
        return await self._begin(
            StreamLink(first), address, timeout_ms, host=address.host, port=address.port, local_addr=local
        )

    async def begin_over(
        self, connection: socket.socket, link: StreamLink, address: Address, *, timeout_ms: float
    ) -> Link:
        """TLS as a client over a connection that is there already. Raises Unreachable, TimedOut."""
        return await self._begin(link, address, timeout_ms, sock=connection, server_hostname="")

    async def _begin(self, link: StreamLink, address: Address, timeout_ms: float, **how: Any) -> Link:
        try:
            async with asyncio.timeout(timeout_ms / 1_000):
                await asyncio.get_running_loop().create_connection(
                    lambda: link,
                    ssl=self._client,
                    ssl_handshake_timeout=timeout_ms / 1_000,
                    ssl_shutdown_timeout=TLS_SHUTDOWN_SECONDS,
                    **how,
                )
        except TimeoutError:
            link.abort()
            raise TimedOut("no answer to a new link", address=str(address)) from None
        except ssl.SSLError as error:
            raise Unreachable(f"no link: TLS failed: {error.reason or error}", address=str(address)) from None
        except OSError as error:
            raise Unreachable(f"no link: {error.strerror or error}", address=str(address)) from None
        link.binding = tls.peer_certificate_hash(cast("ssl.SSLObject", link.carrier_info("ssl_object")))
        return link

    async def accept(self, connection: socket.socket, link: StreamLink) -> Link:
        """TLS as the server over a connection that has come. Raises TlsFailed."""
        context, link.binding = self._certified()
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: link,
                connection,
                ssl=context,
                ssl_handshake_timeout=HANDSHAKE_SECONDS,
                ssl_shutdown_timeout=TLS_SHUTDOWN_SECONDS,
            )
        except OSError:  # garbage, a scanner, or the peer left
            link.abort()
            raise TlsFailed from None
        except asyncio.CancelledError:
            link.abort()
            raise
        return link

    def _certified(self) -> tuple[ssl.SSLContext, bytes]:
        if self._server is None:
            self._server = tls.server_context()
        return self._server

    def close(self) -> None:
        """See LinkKind; the transports close by themselves."""

    async def listen(self, address: Address, incoming: Incoming) -> SocketListener:
        """See LinkKind."""
        bound = socket.socket(socket.AF_INET6 if ":" in address.host else socket.AF_INET, socket.SOCK_STREAM)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.setblocking(False)
            bound.bind((address.host, address.port))
            bound.listen(LISTEN_BACKLOG)
        except OSError as error:
            bound.close()
            raise Unreachable(f"cannot listen: {error.strerror}", address=str(address)) from None
        self._certified()  # now, and not while the first peer waits
        place = Address(TLS, address.host, int(bound.getsockname()[1]))
        return SocketListener(bound, place, incoming, lambda connection: self.accept(connection, StreamLink()))
