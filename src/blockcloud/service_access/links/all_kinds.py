"""The kinds of link that this version makes, by the name that addresses give them."""

from __future__ import annotations

from blockcloud.service_access.addresses import QUIC, RELAY, TLS, UNIX, Address
from blockcloud.service_access.links.kind import Incoming, LinkKind, LinkListener
from blockcloud.service_access.links.link import Link
from blockcloud.service_access.links.relayed import RelayLinks
from blockcloud.service_access.links.tcp_tls import TlsLinks
from blockcloud.service_access.links.unix import UnixLinks
from blockcloud.service_access.session import SessionParameters


def link_kinds(parameters: SessionParameters) -> dict[str, LinkKind]:
    """New ones, for one endpoint whose sessions have `parameters`."""
    tls_links = TlsLinks()
    return {TLS: tls_links, QUIC: _QuicWhenUsed(parameters), UNIX: UnixLinks(), RELAY: RelayLinks(tls_links)}


class _QuicWhenUsed:
    """Most endpoints never make a QUIC link, and its library takes longer to load than all of ours."""

    def __init__(self, parameters: SessionParameters) -> None:
        self._parameters = parameters
        self._made: LinkKind | None = None

    def _kind(self) -> LinkKind:
        if self._made is None:
            from blockcloud.service_access.links.quic import QuicLinks

            self._made = QuicLinks(self._parameters)
        return self._made

    async def dial(
        self, address: Address, *, peer: bytes, source: str | None, timeout_ms: float, first: bytes = b""
    ) -> Link:
        return await self._kind().dial(address, peer=peer, source=source, timeout_ms=timeout_ms, first=first)

    async def listen(self, address: Address, incoming: Incoming) -> LinkListener:
        return await self._kind().listen(address, incoming)

    def close(self) -> None:
        if self._made is not None:
            self._made.close()
