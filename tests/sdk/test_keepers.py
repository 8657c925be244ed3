"""Whom a reader asks first, and where something is put: by proven plans, and harmless where they do not help."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from msgspec.structs import replace
from starlette.requests import Request
from starlette.responses import Response

from blockcloud.primitives.hashes import sha256
from blockcloud.primitives.keys import SigningKey
from blockcloud.routing.address_record import AddressRecord, Endpoint, sign_record
from blockcloud.routing.placement import REPLICAS, Placement
from blockcloud.routing.service_file import build_service_file, service_file_hash
from blockcloud.routing.store import slot_of
from blockcloud.sdk import AsyncClient, ChainResolver, HttpAnnouncer
from blockcloud.sdk.keepers import EVERYWHERE_NODES, Keepers
from blockcloud.sdk.light_client import LightClient
from blockcloud.service_chain.genesis import Genesis, GenesisValidator
from tests.sdk.sdk_world import OWNER, VALIDATORS, Ledger, World

NAME = "thermo"
KEY = SigningKey(b"\x66" * 32)
FILE = build_service_file(NAME, "Thermometer")
HASH = service_file_hash(FILE)
SLOT = slot_of(NAME, KEY.public)


def large_genesis(nodes: int) -> Genesis:
    """As many validators, each at its own URL."""
    base = Ledger().genesis
    keys = [sha256(b"node %d" % number) for number in range(nodes)]
    validators = tuple(GenesisValidator(key, 1, f"http://node/{n}", "127.0.0.1:1") for n, key in enumerate(keys))
    return replace(base, validators=validators)


@pytest.fixture
async def client(world: World) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(world.ledger.genesis, now_ms=lambda: world.ledger.now_ms) as made:
        await made.preorder_and_register(OWNER, NAME, service_file_hash=HASH, instance_keys=[KEY.public])
        yield made


def ranking(world: World, key: bytes) -> list[int]:
    """The numbers of the world's nodes in the order in which they would keep `key`."""
    order = [validator.public for validator in VALIDATORS]
    return [order.index(node) for node in Placement.of(world.ledger.genesis.plan(), None).ranking(key)]


def record(world: World, sequence: int, port: int) -> bytes:
    now_s = world.ledger.now_ms // 1_000
    place = (Endpoint("tls", "127.0.0.1", port),)
    return sign_record(AddressRecord(NAME, KEY.public, sequence, now_s, now_s + 120, HASH, place), KEY)


async def test_the_keepers_are_asked_first_and_then_everybody(world: World, client: AsyncClient) -> None:
    resolver = ChainResolver(client, now_s=lambda: world.ledger.now_ms // 1_000)
    await HttpAnnouncer(client).announce(record(world, 1, 1))
    found = await resolver.resolve(NAME)
    first, *_, last = ranking(world, HASH)
    world.nodes[first].table.put_file(FILE, lambda _: True)
    for node in world.nodes:
        node.requests.clear()
    assert (await resolver.service_file(found))["title"] == "Thermometer"
    assert [len(node.requests) for node in world.nodes] == [int(number == first) for number in range(4)]

    async def silent(request: Request) -> Response:
        return Response(b"", 500)

    for number in ranking(world, HASH)[:REPLICAS]:
        world.nodes[number].misbehave = silent
    world.nodes[last].table.put_file(FILE, lambda _: True)  # a full copy
    again = ChainResolver(client, now_s=lambda: world.ledger.now_ms // 1_000)
    assert (await again.service_file(found))["title"] == "Thermometer"


async def test_the_newest_record_is_found_where_placement_puts_it(world: World, client: AsyncClient) -> None:
    resolver = ChainResolver(client, now_s=lambda: world.ledger.now_ms // 1_000)
    order = ranking(world, SLOT)
    for number in (order[2], order[3]):
        world.nodes[number].table.put_record(record(world, 1, 1), world.ledger.now_ms // 1_000, lambda _: (KEY.public,))
    for number in order[:2]:
        world.nodes[number].table.put_record(record(world, 2, 2), world.ledger.now_ms // 1_000, lambda _: (KEY.public,))
    (found,) = (await resolver.resolve(NAME)).instances
    assert (found.sequence, found.endpoints[0].port) == (2, 2)
    assert not any("address" in line for number in order[2:] for line in world.nodes[number].requests)


async def test_a_client_of_one_node_finds_what_the_others_keep(world: World, client: AsyncClient) -> None:
    """It knows the others from the plan."""
    order = ranking(world, HASH)
    now_s = world.ledger.now_ms // 1_000
    near = world.urls[order[3]]
    async with AsyncClient(world.ledger.genesis, [near], now_ms=lambda: world.ledger.now_ms) as alone:
        resolver = ChainResolver(alone, now_s=lambda: now_s)
        holder = ranking(world, SLOT)[0]
        world.nodes[holder].table.put_record(record(world, 1, 1), now_s, lambda _: (KEY.public,))
        world.nodes[order[0]].table.put_file(FILE, lambda _: True)
        found = await resolver.resolve(NAME)
        assert (await resolver.service_file(found))["title"] == "Thermometer"


def test_much_is_put_at_the_holders_only_and_little_everywhere() -> None:
    few, many = large_genesis(EVERYWHERE_NODES), large_genesis(EVERYWHERE_NODES + 1)
    for genesis in (few, many):
        urls = [validator.api_url for validator in genesis.validators]
        keepers = Keepers(LightClient(genesis))
        holders = Placement.of(genesis.plan(), None).holders(HASH)
        expected = [validator.api_url for validator in genesis.validators if validator.key in holders]
        assert keepers.takers(urls, HASH) == (urls if genesis is few else expected)
        order = keepers.order(urls, [HASH])
        assert sorted(order[:REPLICAS]) == sorted(expected)
        assert sorted(order) == sorted(urls)
        assert keepers.takers(["http://elsewhere"] * 9, HASH) == ["http://elsewhere"] * 9
    assert len(keepers.takers(urls, HASH)) == REPLICAS


async def test_instances_that_are_kept_by_different_nodes_are_all_found(world: World, client: AsyncClient) -> None:
    """Each of many instances is known to one node only, the second of its keepers."""
    keys = [SigningKey(bytes([number]) * 32) for number in range(150, 162)]
    for key in keys:
        await client.add_instance(OWNER, NAME, key.public)
    now_s = world.ledger.now_ms // 1_000
    for key in keys:
        signed = sign_record(
            AddressRecord(NAME, key.public, 1, now_s, now_s + 120, HASH, (Endpoint("tls", "127.0.0.1", 1),)), key
        )
        keeper = world.nodes[ranking(world, slot_of(NAME, key.public))[1]]
        keeper.table.put_record(signed, now_s, lambda _: tuple(key.public for key in keys))
    found = await ChainResolver(client, now_s=lambda: now_s).resolve(NAME)
    assert {item.key for item in found.instances} == {key.public for key in keys}


def test_urls_that_are_none_are_left_out() -> None:
    genesis = large_genesis(3)
    odd = tuple(replace(item, api_url="file:///etc/passwd") for item in genesis.validators)
    keepers = Keepers(LightClient(replace(genesis, validators=odd)))
    assert keepers.order(["http://known"], [HASH]) == ["http://known"]


async def test_the_keepers_of_a_new_era_are_those_of_its_plan(world: World, client: AsyncClient) -> None:
    """A light client that has followed a hand-over asks by the new plan and, for one era, by the one before. In this
    world only the genesis knows URLs, so a node that both name is not found by them."""
    keepers = Keepers(client.light_client)
    wanted = next(key for key in map(sha256, map(bytes, range(64))) if ranking(world, key)[0] == 3)
    assert keepers.order(world.urls, [wanted])[0] == world.urls[3]
    for era, expected in ((1, world.urls[3]), (2, world.urls[0])):
        world.ledger.hand_over(VALIDATORS[:3])
        world.ledger.commit()
        await client.name(NAME, max_age_s=0)
        assert client.light_client.era == era
        assert keepers.order(world.urls, [wanted])[0] == expected
    plan = client.light_client.plan(2)
    assert plan is not None
    assert [seat.node_key for seat in plan.seats] == [key.public for key in VALIDATORS[:3]]
    assert client.light_client.plan(3) is None
