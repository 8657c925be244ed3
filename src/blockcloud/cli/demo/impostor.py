"""An impostor: it listens, speaks the protocol without a fault, and has everything but the name's key."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Final

from blockcloud.node.devnet import HOST
from blockcloud.primitives.errors import BlockCloudError, WrongKey
from blockcloud.primitives.keys import SigningKey
from blockcloud.routing.address_record import Endpoint
from blockcloud.sdk import AsyncClient, ChainResolver, HttpAnnouncer
from blockcloud.service_access.announce import address_record
from blockcloud.service_access.connector import Connector
from blockcloud.service_access.endpoint import ServiceEndpoint
from blockcloud.service_access.resolution import Resolution

LEASE_SECONDS: Final = 60


class _Misled:
    """A resolver whose addresses were replaced by the impostor's; its keys are the ledger's."""

    def __init__(self, resolution: Resolution) -> None:
        self._resolution = resolution

    async def resolve(self, name: str, *, max_age_s: int = 60) -> Resolution:
        """The same wrong answer each time."""
        return self._resolution


async def impostor_is_refused(client: AsyncClient, name: str) -> tuple[bool, str]:
    """Whether the routing nodes refuse the impostor's address record, and a consumer refuses the impostor itself."""
    key = SigningKey.generate()
    async with ServiceEndpoint(key) as impostor, ServiceEndpoint(SigningKey.generate()) as consumer:
        address = await impostor.start(HOST, 0)
        impostor.bind_name(name, key)
        now = int(time.time())
        record = address_record(name, key, (address,), sequence=2**40, now_s=now, lease_s=LEASE_SECONDS)
        try:
            await HttpAnnouncer(client).announce(record)
        except BlockCloudError as error:
            announced = error.code
        else:
            return False, "the routing nodes took its address record"
        await consumer.start(HOST, 0)
        true = await ChainResolver(client).resolve(name)
        instances = tuple(
            replace(each, endpoints=(Endpoint(address.kind, address.host, address.port),)) for each in true.instances
        )
        misled = Connector(consumer, _Misled(replace(true, instances=instances)))
        try:
            session = await misled.connect(name)
        except WrongKey as error:
            return True, f"its record is refused ({announced}), and so is it ({error.code})"
        await session.close()
        return False, "a consumer took it for the service"
