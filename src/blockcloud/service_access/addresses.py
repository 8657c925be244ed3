"""Where a service endpoint can be reached: a kind of link, and what that kind needs to know.

    tls    host and port of TCP with TLS 1.3          127.0.0.1:8702
    quic   host and port of QUIC over UDP             quic:127.0.0.1:8702
    unix   path of a socket on this machine, port 0   unix:/run/user/1000/thermo.sock
    relay  host and port of a relay; whom to reach there is the instance key of the session or the resolution

Addresses travel in HELLO, MOVED, CHALLENGE, PROOF and in address records. One whose kind is not known here is kept as
it came, because MACs cover it, and is never dialled: newer peers may have more kinds. DESIGN section 5.2.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final, TypeAlias

from blockcloud.primitives.codec import Struct
from blockcloud.primitives.errors import Malformed
from blockcloud.primitives.limits import MOVED_ADDRESSES, NAME_BYTES

HostPort: TypeAlias = tuple[str, int]

TLS: Final = "tls"
QUIC: Final = "quic"
UNIX: Final = "unix"
RELAY: Final = "relay"
KINDS: Final = (TLS, QUIC, UNIX, RELAY)
DIALLED_KINDS: Final = KINDS  # that this version makes links of
SOCKET_PATH_BYTES: Final = 107  # unix(7): sun_path, without its last zero

_KIND = re.compile(r"[a-z][a-z0-9+-]{0,15}", re.ASCII)
_PATH = re.compile(r"(/[!-.0-~][ -.0-~]*)+", re.ASCII)


class Address(Struct, frozen=True):
    """See the module's text. For `unix`, `host` is the path of the socket and `port` is 0."""

    kind: str
    host: str
    port: int

    def __str__(self) -> str:
        """What `parse_address` reads."""
        if self.kind == UNIX:
            return f"{self.kind}:{self.host}"
        place = f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
        return place if self.kind == TLS else f"{self.kind}:{place}"


def check_addresses(addresses: tuple[Address, ...]) -> None:
    """Raise Malformed unless these are at most four addresses, each of the form of its kind."""
    if len(addresses) > MOVED_ADDRESSES:
        raise Malformed("too many addresses", addresses=len(addresses), limit=MOVED_ADDRESSES)
    for address in addresses:
        if not _is_well_formed(address):
            raise Malformed("not an address", kind=address.kind[:16], host=address.host[:80], port=address.port)


def _is_well_formed(address: Address) -> bool:
    host, port = address.host, address.port
    if not _KIND.fullmatch(address.kind) or not 0 < len(host) <= NAME_BYTES or not host.isascii():
        return False
    if address.kind == UNIX:
        return port == 0 and len(host) <= SOCKET_PATH_BYTES and _PATH.fullmatch(host) is not None
    return (0 if address.kind not in KINDS else 1) <= port <= 0xFFFF


def dialled(addresses: Iterable[Address]) -> list[Address]:
    """Those that this version can dial, in their order."""
    return [address for address in addresses if address.kind in DIALLED_KINDS]


def parse_endpoint(text: Any) -> HostPort:
    """(host, port) of "host:port" or "[v6]:port". Raises Malformed."""
    if not isinstance(text, str):
        raise Malformed("an address is a text of the form host:port")
    host, separator, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise Malformed("the IPv6 address of host:port stands in brackets", text=text[:80])
    if not separator or not host or not port.isascii() or not port.isdigit() or int(port) > 0xFFFF:
        raise Malformed("an address has the form host:port", text=text[:80])
    return host, int(port)


def parse_address(text: Any) -> Address:
    """The address that `text` names: "host:port" (TLS), "quic:host:port", "unix:/path". Port 0 is for those who want
    to listen at any. Raises Malformed."""
    if not isinstance(text, str):
        raise Malformed("an address is a text of the form [KIND:]HOST:PORT or unix:PATH")
    kind, separator, rest = text.partition(":")
    if not separator or kind not in KINDS:
        return Address(TLS, *parse_endpoint(text))
    if kind != UNIX:
        return Address(kind, *parse_endpoint(rest))
    address = Address(kind, rest, 0)
    if not _is_well_formed(address):
        raise Malformed("the path of a socket is absolute and short", text=text[:120], limit=SOCKET_PATH_BYTES)
    return address
