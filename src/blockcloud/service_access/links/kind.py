"""What every kind of link can do: dial an address, and listen at one. The seam below the service endpoint.

A kind makes links that are ready for frames: the carrier is up, it is confidential (or stays on this machine), and
`Link.binding` names this very channel, so that a handshake or a resume over it cannot be passed on to another. Who is
at the other end the endpoint finds out.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeAlias

from blockcloud.service_access.addresses import Address
from blockcloud.service_access.links.link import Link

# Somebody has come. The argument brings the link up (and raises Unreachable or TimedOut, with everything closed, if
# that fails); it runs as a task within the time of a handshake. False: too many are half open, and it will not run.
Incoming: TypeAlias = Callable[[Callable[[], Awaitable[Link]]], bool]


class LinkListener(Protocol):
    """A place where links come in."""

    @property
    def address(self) -> Address:
        """Where it can be dialled; with the port that it got, if it asked for any."""

    def close(self) -> None:
        """Take no more links; those that are there go on."""


class LinkKind(Protocol):
    """One kind of link. What all links of an endpoint have in common (a certificate, say) is kept here."""

    async def dial(
        self, address: Address, *, peer: bytes, source: str | None, timeout_ms: float, first: bytes = b""
    ) -> Link:
        """A new link to `address`, from the local host `source` where that means something.

        `peer` is the instance key to be reached there, empty if it is not known; only a relay needs it. `first` are
        frames that leave as soon as the channel is there, with its last handshake message where that can be. Raises
        Unreachable or TimedOut.
        """

    async def listen(self, address: Address, incoming: Incoming) -> LinkListener:
        """Bind `address` and pass on who comes. Raises Unreachable."""

    def close(self) -> None:
        """The endpoint closes, its sessions are over: cut what is still there."""
