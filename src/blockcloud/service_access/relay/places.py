"""The relays through which one service endpoint can be reached. An asyncio adaptor."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from typing import Any, Final

from blockcloud.primitives.errors import BlockCloudError
from blockcloud.primitives.keys import SigningKey
from blockcloud.primitives.limits import MOVED_ADDRESSES
from blockcloud.service_access.addresses import RELAY, Address
from blockcloud.service_access.relay.registration import RelayRegistration
from blockcloud.service_access.resolution import Resolver

RELAYS: Final = MOVED_ADDRESSES - 1  # an endpoint has four addresses, and one of its own


class TooManyRelays(BlockCloudError):
    """An endpoint cannot name so many relays to its peers."""

    code = "too_many_relays"
    hint = f"Name at most {RELAYS} relays."


class RelayPlaces:
    """Registrations of one endpoint under its key; the keywords are those of `RelayRegistration`."""

    def __init__(
        self,
        key: SigningKey,
        *,
        source: Callable[[], str | None],
        incoming: Callable[[socket.socket], None],
        changed: Callable[[], None],
    ) -> None:
        self._key = key
        self._source = source
        self._incoming = incoming
        self._changed = changed
        self._registrations: list[RelayRegistration] = []

    async def join(self, names: Sequence[str], resolver: Resolver) -> None:
        """Register at all these relays, and stay registered until `close`.

        One that cannot be reached now is tried again for as long as we live. Raises TooManyRelays, or why the last one
        does not take us if none does.
        """
        if len(self._registrations) + len(names) > RELAYS:
            raise TooManyRelays(relays=len(self._registrations) + len(names))
        new = [
            RelayRegistration(
                name, self._key, resolver, source=self._source, incoming=self._incoming, changed=self._changed
            )
            for name in names
        ]
        self._registrations += new
        await asyncio.gather(*(each.start() for each in new))
        errors = [each.error for each in new if each.error is not None]
        if errors and len(errors) == len(new):
            raise errors[-1]

    def addresses(self) -> tuple[Address, ...]:
        """Where relays can be dialled that know us, without doubles."""
        places = dict.fromkeys(each.place for each in self._registrations if each.place is not None)
        return tuple(Address(RELAY, *place) for place in places)

    async def renew(self) -> None:
        """We have moved: register everywhere from where we are now; returns after one attempt each."""
        await asyncio.gather(*(each.renew() for each in self._registrations))

    async def close(self) -> None:
        """Give all registrations up."""
        await asyncio.gather(*(each.close() for each in self._registrations))
        self._registrations.clear()

    def status(self) -> list[dict[str, Any]]:
        """What an operator wants to know of each."""
        return [each.status() for each in self._registrations]
