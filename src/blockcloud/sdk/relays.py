"""A relay as a service with a name: the ledger lists its key, its address record says where it is, and it runs.

Whoever registers at it resolves the name as any other and believes only who proves the key.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

import structlog

from blockcloud.primitives.errors import BadConfiguration, BlockCloudError, Unreachable
from blockcloud.primitives.keys import PUBLIC_KEY_BYTES, SigningKey
from blockcloud.primitives.limits import RESOLUTION_AGE_SECONDS
from blockcloud.primitives.names import parse_name
from blockcloud.sdk.home import Home, OwnerKey, Place
from blockcloud.sdk.publishing import authorise_instance
from blockcloud.sdk.reading import AsyncReader
from blockcloud.sdk.resolver import HttpAnnouncer
from blockcloud.sdk.services import open_client
from blockcloud.service_access.addresses import Address, HostPort
from blockcloud.service_access.announce import DEFAULT_LEASE_S, AddressAnnouncer
from blockcloud.service_access.relay.registration import RENDEZVOUS
from blockcloud.service_access.relay.rendezvous import RelayLimits
from blockcloud.service_access.relay.server import RelayServer, everybody

ALLOWED_MAX: Final = 256

log = structlog.get_logger(__name__)


class AllowedInstances:
    """Permits the instance keys in `allowed`, and those that the ledger lists for the names in it."""

    def __init__(self, client: AsyncReader, allowed: Sequence[str]) -> None:
        if len(allowed) > ALLOWED_MAX:
            raise BadConfiguration("so many instances or names cannot be allowed", limit=ALLOWED_MAX)
        self._client = client
        hexadecimal = {text for text in allowed if len(text) == 2 * PUBLIC_KEY_BYTES and "." not in text}
        try:
            self._keys = {bytes.fromhex(text) for text in hexadecimal}
        except ValueError:
            raise BadConfiguration("an instance key is 64 hexadecimal digits", shown=sorted(hexadecimal)) from None
        self._names = [parse_name(text) for text in allowed if text not in hexadecimal]

    async def __call__(self, key: bytes) -> bool:
        """Whether the instance `key` may register."""
        if key in self._keys:
            return True
        for name in self._names:
            try:
                record = await self._client.name(name, max_age_s=RESOLUTION_AGE_SECONDS)
            except BlockCloudError as error:
                log.warning("allowed_name_unknown", name=name, reason=str(error))
                continue
            if record is not None and key in record.instance_keys:
                return True
        return False


@asynccontextmanager
async def serve_relay(
    name: str,
    *,
    home: Place = None,
    key: OwnerKey = None,
    account: bytes | None = None,
    cosigners: Sequence[SigningKey] = (),
    api: str | None = None,
    listen: HostPort = ("127.0.0.1", 0),
    public: HostPort | None = None,
    limits: RelayLimits | None = None,
    allowed: Sequence[str] = (),
    lease_s: int = DEFAULT_LEASE_S,
) -> AsyncIterator[RelayServer]:
    """Run a relay with the name `name` at `listen`, reached by others at `public` (default: the same).

    `allowed` are instance keys (hexadecimal) and names whose instances may register, by default everybody. The other
    arguments are those of `services.listen`. Raises what that does.
    """
    folder = home if isinstance(home, Home) else Home.find(home)
    name, instance = parse_name(name), folder.instance_key()

    def load_owner() -> SigningKey:
        return key if isinstance(key, SigningKey) else folder.load_key(key)

    if account is None and not isinstance(key, SigningKey):
        account = folder.acts_for(key)
    async with open_client(folder, api=api, account=account, cosigners=cosigners) as client:
        permits = AllowedInstances(client, allowed) if allowed else everybody
        file_hash = await authorise_instance(client, name, instance.public, load_owner, title=name)
        async with RelayServer(name, instance, limits=limits, permits=permits) as server:
            try:
                place = await server.start(*listen)
            except Unreachable as error:  # a mistake here, not somebody who does not answer
                raise BadConfiguration(error.message, **error.values) from None
            own = Address(RENDEZVOUS, *(public or place))
            announcing = AddressAnnouncer(
                name, instance, lambda: (own,), HttpAnnouncer(client), lease_s=lease_s, service_file_hash=file_hash
            )
            await announcing.start()
            try:
                yield server
            finally:
                await announcing.close()
