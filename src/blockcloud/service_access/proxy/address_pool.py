"""One loopback address for each service, out of a range; sans-IO.

An address stays a service's as long as the process lives, unless too many services are asked for. Then the one longest
not asked for gives its place up, but never while it has connections, nor while a program may still remember its
address. New services get addresses that were never given out, until the range has gone round once: a program that
remembers for too long finds nobody rather than somebody else.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from blockcloud.primitives.errors import BadConfiguration
from blockcloud.service_access.proxy.errors import PoolExhausted

DEFAULT_RANGE: Final = "127.77.0.0/16"
SERVICES: Final = 256
RANGE_ADDRESSES_MIN: Final = 4
# How long after an answer its address is kept; the answer says 5 s, and programs are known to keep it for longer.
REMEMBERED_MS: Final = 60_000


@dataclass(frozen=True)
class Assignment:
    """The address, and the service that had to give its place up ("" for none)."""

    address: str
    evicted: str = ""


class AddressPool:
    """Addresses of `network`, at most `services` at a time. `is_busy` says whether a service has connections."""

    def __init__(self, network: str, is_busy: Callable[[str], bool], *, services: int = SERVICES) -> None:
        self._network = parse_range(network)
        self._usable = self._network.num_addresses - 2
        self._services = min(services, self._usable)
        self._is_busy = is_busy
        self._held: OrderedDict[str, tuple[str, float]] = OrderedDict()  # name -> address, last asked for
        self._next = 0

    def __len__(self) -> int:
        return len(self._held)

    def assign(self, name: str, now_ms: float) -> Assignment:
        """The address of `name`, which may be told to a program at `now_ms`. Raises PoolExhausted."""
        held = self._held.pop(name, None)
        if held is not None:
            self._held[name] = held[0], now_ms
            return Assignment(held[0])
        evicted = self._evict(now_ms) if len(self._held) >= self._services else ""
        address = self._unheld()
        self._held[name] = address, now_ms
        return Assignment(address, evicted)

    def release(self, name: str) -> None:
        """Nobody was told the address of `name`: it is given up."""
        self._held.pop(name, None)

    def _evict(self, now_ms: float) -> str:
        for name, (_, asked_ms) in self._held.items():
            if now_ms - asked_ms < REMEMBERED_MS:
                break  # so do all that follow
            if not self._is_busy(name):
                del self._held[name]
                return name
        raise PoolExhausted(services=len(self._held))

    def _unheld(self) -> str:
        taken = {address for address, _ in self._held.values()}
        for _ in range(len(taken) + 1):
            address = str(self._network[1 + self._next % self._usable])
            self._next += 1
            if address not in taken:
                return address
        raise AssertionError("fewer services are held than there are addresses")


def parse_range(text: str) -> ipaddress.IPv4Network:
    """The range, which must be within loopback. Raises BadConfiguration."""
    try:
        network = ipaddress.IPv4Network(text)
    except ValueError as error:
        raise BadConfiguration(f"not a range of IPv4 addresses: {error}", range=text[:40]) from None
    if not network.is_loopback or network.num_addresses < RANGE_ADDRESSES_MIN:
        raise BadConfiguration("addresses for services are of loopback, 127.0.0.0/8", range=text)
    return network
