"""A validator whose data was wiped: it must not sign again, and still holds and serves what the service plane needs.

Nobody who has lost the proof of its last signed level may sign (DESIGN 3.5): it observes. Routing nodes exchange what
they hold (DESIGN 5.1): one that starts empty serves what another, since killed, held.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from blockcloud.primitives.keys import SigningKey
from blockcloud.routing.address_record import verify_record
from blockcloud.routing.service_file import build_service_file, service_file_hash
from blockcloud.sdk.client import AsyncClient
from blockcloud.sdk.resolver import ChainResolver, HttpAnnouncer
from blockcloud.service_access.addresses import Address
from blockcloud.service_access.announce import address_record
from blockcloud.service_access.resolution import UnknownName
from tests.end_to_end.ledger_world import World, devnet_world, until

pytestmark = pytest.mark.long

NAME = "thermo.kitchen.acme"
HELD_BY, WIPED = 1, 2
LEASE_SECONDS = 600


async def publish_through(world: World, client: AsyncClient, instance: SigningKey) -> bytes:
    """Register the name with the network, but give the service file and the record to the one node of `client`."""
    file = build_service_file(NAME, "Thermometer")
    file_hash = service_file_hash(file)
    owner = world.key("provider")
    await client.preorder_and_register(owner, NAME, service_file_hash=file_hash, instance_keys=(instance.public,))
    await client.put_service_file(file)
    addresses = (Address("tls", "127.0.0.1", 4_000),)
    record = address_record(
        NAME,
        instance,
        addresses,
        sequence=1,
        now_s=int(time.time()),
        lease_s=LEASE_SECONDS,
        service_file_hash=file_hash,
    )
    await HttpAnnouncer(client).announce(record)
    return file


async def observing(world: World) -> bool:
    """Whether the wiped validator follows the others without taking part."""
    found = await world.statuses()
    if found is None or found[WIPED]["mode"] != "observing":
        return False
    assert "observing" in [item["code"] for item in found[WIPED]["health"]]
    return bool(max(each["height"] for each in found) - found[WIPED]["height"] <= 8)


async def test_a_wiped_validator_observes_and_serves_what_a_dead_one_held(tmp_path: Path) -> None:
    instance = SigningKey.generate()
    async with devnet_world(tmp_path / "net") as world:
        async with AsyncClient(world.genesis, [world.url(HELD_BY)]) as client:
            level = (await world.statuses(WIPED) or [])[0]["level"]
            world.kill(WIPED)
            shutil.rmtree(world.devnet.validators[WIPED].data_dir)
            file = await publish_through(world, client, instance)
        world.start(WIPED)
        await until(lambda: observing(world), "the wiped validator to follow")
        assert "no proof of the last signed level" in world.log(WIPED), "it knew from the start"

        async with AsyncClient(world.genesis, [world.url(WIPED)]) as reader:
            path = f"{world.url(WIPED)}/v1/service-files/{service_file_hash(file).hex()}"

            async def replicated() -> bool:
                records = (await world.http.get(f"{world.url(WIPED)}/v1/address-records/{NAME}")).json()
                return bool(records) and (await world.http.get(path)).status_code == 200

            async def proven() -> bool:
                """Two alone will certify nothing any more."""
                try:
                    await ChainResolver(reader).resolve(NAME)
                except UnknownName:
                    return False
                return True

            await until(replicated, "the service plane's content to arrive")
            await until(proven, "a certified checkpoint with the name in it")
            world.kill(HELD_BY)
            assert (await world.http.get(path)).content == file
            (record,) = (await world.http.get(f"{world.url(WIPED)}/v1/address-records/{NAME}")).json()
            assert verify_record(bytes.fromhex(record), int(time.time())).instance_key == instance.public
            resolver = ChainResolver(reader)
            resolution = await resolver.resolve(NAME)
            assert [item.key for item in resolution.instances] == [instance.public]
            assert (await resolver.service_file(resolution))["bc:name"] == NAME

        # Two of four sign now: the observer must not help them to a quorum, whatever it knows by now.
        async def stands_still() -> bool:
            status = await world.status(0)
            return status is not None and "stalled" in [item["code"] for item in status["health"]]

        await until(stands_still, "the ledger to stand still")
        world.start(HELD_BY)
        async with AsyncClient(world.genesis) as client:
            await client.transfer(world.key("alice"), world.key("bob").public, 1)
        assert await world.stop_all() == [0, 0, 0, 0]
        disks = world.read_disks()
        disks.check()
        assert max(disks.levels_of(WIPED), default=0) <= level + 40, "it signed after its data was lost"
