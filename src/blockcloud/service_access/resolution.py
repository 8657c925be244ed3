"""What a name means right now: who owns it, which keys may answer for it, and where its instances are.

The owner, the service file's hash and the instance keys come from the ledger, with a proof; the instances come from
address records that those keys signed. Who makes a `Resolution` has checked both; the SAL trusts nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from blockcloud.primitives.errors import BlockCloudError
from blockcloud.routing.address_record import Endpoint
from blockcloud.service_access.addresses import DIALLED_KINDS, Address


class UnknownName(BlockCloudError):
    """Nobody holds the name."""

    code = "unknown_name"


class NoInstances(BlockCloudError):
    """The name exists, but no instance of it has a live address record."""

    code = "no_instances"
    hint = "Is the service running? Its address record may have expired."

    def __init__(self, message: str = "", *, resolution: Resolution | None = None, **values: object) -> None:
        super().__init__(message, **values)
        self.resolution = resolution  # what was verified of the name, for those who know by other ways where to dial


@dataclass(frozen=True)
class Instance:
    """One replica: its key, where it is, how loaded it says it is (0 idle to 1,000 full), and whether it is `draining`:
    it takes no new sessions."""

    key: bytes
    endpoints: tuple[Endpoint, ...]
    sequence: int
    lease_until_s: int
    load: int = 0
    draining: bool = False

    def addresses(self) -> list[Address]:
        """Where it can be dialled from here, best first."""
        return [Address(each.protocol, each.host, each.port) for each in self._dialled()]

    def priority(self) -> int:
        """Of the best of `addresses`, of which there must be one."""
        return self._dialled()[0].priority

    def weight(self) -> int:
        """Of the same."""
        return self._dialled()[0].weight

    def _dialled(self) -> list[Endpoint]:
        known = (each for each in self.endpoints if each.protocol in DIALLED_KINDS)
        return sorted(known, key=lambda each: each.priority)


@dataclass(frozen=True)
class Resolution:
    """A verified answer about a name. `proven_at_ms` is the ledger time of the proof."""

    name: str
    owner: bytes
    service_file_hash: bytes
    instance_keys: tuple[bytes, ...]
    instances: tuple[Instance, ...]
    height: int
    proven_at_ms: int


class Resolver(Protocol):
    """Answers what a name means; raises UnknownName, or an error of the network or of a proof."""

    async def resolve(self, name: str, *, max_age_s: int = 60) -> Resolution: ...


class Announcer(Protocol):
    """Takes a signed address record to the routing nodes."""

    async def announce(self, record: bytes) -> None: ...
