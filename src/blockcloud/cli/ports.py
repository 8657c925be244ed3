"""Whether a TCP port can be had on this machine. For checks before something starts and for `doctor`."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from urllib.parse import urlsplit

Address = tuple[str, int]


def taken(addresses: Iterable[Address]) -> list[Address]:
    """Those of `addresses` that a program listens at, or that cannot be had for another reason."""
    return [address for address in addresses if not _is_free(address)]


def url_address(url: str) -> Address:
    """(host, port) of a node's URL."""
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)


def host_port(text: str) -> Address:
    """(host, port) of "host:port" in a file that we wrote."""
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


def _is_free(address: Address) -> bool:
    host, port = address
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError):
            return False
    return True
