"""Four validators that each keep their share: two hundred files, one validator killed, and all of them still found."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from blockcloud import AsyncClient
from blockcloud.node import devnet as network
from blockcloud.node.config import CONFIG_FILE
from blockcloud.primitives.keys import SigningKey
from blockcloud.routing.address_record import AddressRecord, Endpoint, sign_record
from blockcloud.routing.placement import Placement
from blockcloud.routing.service_file import build_service_file, service_file_hash
from blockcloud.sdk import ChainResolver, HttpAnnouncer
from blockcloud.service_chain.operations import Delegate, Delegation
from tests.docs.programs import typed
from tests.end_to_end.ledger_world import World, free_base, open_world, until

FILES = 200
BATCH = 50
AT_ONCE = 10
LIMIT = 20
REPLICAS = 2
TRIED_BY_COMMAND = 2
SETTLED_SECONDS = 150
LEASE_SECONDS = 3_600


@pytest.mark.long
async def test_beyond_the_limit_each_keeps_its_share_and_all_is_found(tmp_path: Path) -> None:
    folder = tmp_path / "net"
    with free_base(4) as base:
        devnet = network.create_devnet(folder, 4, base_port=base)
        for number, validator in enumerate(devnet.validators):
            configure(Path(validator.home), store="objects" if number == 0 else "")
        async with open_world(folder, devnet) as world:
            world.start()
            await world.wait_in_step()
            async with AsyncClient(world.genesis) as client:
                names = await announce(client, world.key("alice"))
                await until(lambda: in_their_places(world, names), "everybody to hold its share", SETTLED_SECONDS)
                shown = await routing_of(world, 0)
                assert shown["mode"] == "placed"
                assert shown["store"]["waiting_files"] == 0
                objects = list((Path(devnet.validators[0].home) / "objects").glob("*/*"))
                assert len(objects) == shown["files"] < FILES
                world.kill(1)
                resolver = ChainResolver(client)
                for start in range(0, FILES, AT_ONCE):
                    part = names[start : start + AT_ONCE]
                    found = await asyncio.gather(*(resolver.resolve(name) for name in part))
                    documents = await asyncio.gather(*map(resolver.service_file, found))
                    assert [document["bc:name"] for document in documents] == part
            for name in names[:: FILES // TRIED_BY_COMMAND]:
                answer = await typed(tmp_path, f"blockcloud resolve {name} --service-file --home net")
                assert answer["service_file"]["bc:name"] == name


def configure(home: Path, store: str) -> None:
    """Small limits, in place of those in the file that the devnet wrote."""
    path = home / CONFIG_FILE
    text = path.read_text(encoding="utf-8")
    wanted = {"full_files": LIMIT, "full_records": LIMIT, "replicas": REPLICAS, "store": f'"{store}"'}
    for key, value in wanted.items():
        (line,) = (line for line in text.splitlines() if line.startswith(f"{key} = "))
        text = text.replace(line, f"{key} = {value}")
    path.write_text(text, encoding="utf-8")


async def announce(client: AsyncClient, owner: SigningKey) -> list[str]:
    """Names, each with a service file and an address record; their names."""
    await client.preorder_and_register(owner, "many")
    instance = SigningKey.generate()
    files = {f"s{number}.many": build_service_file(f"s{number}.many", f"Service {number}") for number in range(FILES)}
    names = list(files)
    for start in range(0, FILES, BATCH):
        part = names[start : start + BATCH]
        entries = (
            Delegation(name.split(".")[0], owner.public, service_file_hash(files[name]), (instance.public,))
            for name in part
        )
        receipt = await client.transact(owner, Delegate("many", tuple(entries)))
        await client.name(part[0], at_least_height=receipt.height)
    announcer, now_s = HttpAnnouncer(client), int(time.time())
    places = (Endpoint("tls", "127.0.0.1", 1),)

    async def put(name: str) -> None:
        file_hash = await client.put_service_file(files[name])
        record = AddressRecord(name, instance.public, 1, now_s, now_s + LEASE_SECONDS, file_hash, places)
        await announcer.announce(sign_record(record, instance))

    for start in range(0, FILES, AT_ONCE):
        await asyncio.gather(*map(put, names[start : start + AT_ONCE]))
    return names


async def in_their_places(world: World, names: Iterable[str]) -> bool:
    """Whether each validator shows as many files as placement gives it, and all together two copies of each."""
    plan = world.genesis.plan()
    placement, due = Placement.of(plan, None, REPLICAS), dict.fromkeys((seat.node_key for seat in plan.seats), 0)
    for name in names:
        file = build_service_file(name, f"Service {name.split('.')[0][1:]}")
        for node in placement.holders(service_file_hash(file)):
            due[node] += 1
    shown = [await routing_of(world, number) for number in range(4)]
    in_order = [due[validator.key] for validator in world.genesis.validators]
    assert sum(in_order) == REPLICAS * FILES
    return [item["files"] for item in shown] == in_order and sum(item["records"] for item in shown) == sum(in_order)


async def routing_of(world: World, number: int) -> dict[str, Any]:
    answer = await world.http.get(world.url(number) + "/v1/status")
    return dict(msgspec.json.decode(answer.content)["routing"])
