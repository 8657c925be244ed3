"""The kinds of link that this version makes, by the name that addresses give them."""

from __future__ import annotations

from blockcloud.service_access.addresses import RELAY, TLS, UNIX
from blockcloud.service_access.links.kind import LinkKind
from blockcloud.service_access.links.relayed import RelayLinks
from blockcloud.service_access.links.tcp_tls import TlsLinks
from blockcloud.service_access.links.unix import UnixLinks
from blockcloud.service_access.session import SessionParameters


def link_kinds(parameters: SessionParameters) -> dict[str, LinkKind]:
    """New ones, for one endpoint whose sessions have `parameters`."""
    tls_links = TlsLinks()
    return {TLS: tls_links, UNIX: UnixLinks(), RELAY: RelayLinks(tls_links)}
