"""From the host that a program asks for to a service name. One rule for SOCKS, HTTP and DNS.

With suffixes (`--suffix internal`), a host is a service's if it ends in one of them, and the suffix is not part of the
name: `temp.kitchen.internal` is `temp.kitchen`. Without any, every host is taken for a name, and the ledger knows
whether there is such a one. Nothing else is ever connected to: this is no way into the network that the proxy is in.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Final

from blockcloud.primitives.errors import InvalidName
from blockcloud.primitives.limits import NAME_BYTES
from blockcloud.primitives.names import parse_name
from blockcloud.service_access.proxy.errors import AddressNotName, NotAServiceName

SUFFIXES: Final = 16
LOCAL: Final = "localhost"


class ServiceNames:
    """The rule for a set of suffixes. Raises InvalidName for a suffix that is no name."""

    def __init__(self, suffixes: Iterable[str] = ()) -> None:
        self.suffixes = tuple(parse_name(suffix.strip(".").lower()) for suffix in suffixes)
        if len(self.suffixes) > SUFFIXES:
            raise InvalidName("too many suffixes", limit=SUFFIXES)

    def service(self, host: str) -> str:
        """The service behind `host`. Raises AddressNotName, NotAServiceName, InvalidName."""
        plain = host.removesuffix(".").lower()
        if is_address(plain):
            raise AddressNotName(host=host[:NAME_BYTES])
        if plain == LOCAL or plain.endswith(f".{LOCAL}"):
            raise NotAServiceName("localhost is this machine, not a service", host=host[:NAME_BYTES])
        if not self.suffixes:
            return parse_name(plain)
        for suffix in self.suffixes:
            if plain.endswith(f".{suffix}"):
                return parse_name(plain.removesuffix(f".{suffix}"))
        raise NotAServiceName(host=host[:NAME_BYTES], suffixes=list(self.suffixes))


def is_address(host: str) -> bool:
    """Whether some program would take `host` for an IP address: a last label of digits, or 0x and digits, is enough."""
    last = host.removesuffix(".").rpartition(".")[2]
    if last.isdecimal() or last.startswith("0x"):
        return True
    try:
        ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True
