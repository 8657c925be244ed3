"""Namespaces and batches through the SDK: opened, filled, made ready, and names in them for a proven price."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest

from blockcloud.primitives.addresses import format_address
from blockcloud.primitives.errors import BlockCloudError, InvalidAddress, InvalidName, Malformed
from blockcloud.sdk import AsyncClient, namespaces
from blockcloud.sdk.namespaces import price_rule, read_batch
from blockcloud.service_chain.namespace_rejections import NamespaceIsReady, NamespaceNotReady, PriceAboveLimit
from blockcloud.service_chain.namespaces import NamespaceStatus, Terms, namespace_status
from blockcloud.service_chain.operations import Delegation
from blockcloud.service_chain.records import Fees, decode_record
from blockcloud.service_chain.state_keys import FEES_KEY
from tests.sdk.sdk_world import OTHER, OWNER, World

LABEL = "workshop"
RULE = price_rule(100, 2, [3, 1, 0], no_vowel_discount=2)


@pytest.fixture
async def client(world: World) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(world.ledger.genesis, now_ms=lambda: world.ledger.now_ms) as made:
        yield made


async def burned(client: AsyncClient) -> int:
    height = (await client.status())["height"]
    fees = decode_record((await client.proven(FEES_KEY, at_least_height=height)).value, Fees)
    assert fees is not None
    return fees.burned


async def test_a_namespace_is_opened_filled_and_made_ready(client: AsyncClient) -> None:
    assert await namespaces.namespace(client, LABEL) is None
    chains = client.genesis.naming
    assert await namespaces.terms(client, f"door.{LABEL}") == Terms(0, chains.lifetime, chains.grace, "")
    opened = await namespaces.open_namespace(client, OWNER, LABEL, RULE, 50, 7)
    record = await namespaces.namespace(client, LABEL, at_least_height=opened.height)
    assert record is not None
    assert (record.owner, record.rule, record.lifetime, record.grace) == (OWNER.public, RULE, 50, 7)
    with pytest.raises(NamespaceNotReady):
        await client.preorder_and_register(OTHER, f"door.{LABEL}")
    entries = [Delegation("one", OTHER.public, b"", ()), Delegation("two", OWNER.public, b"f" * 32, (b"k" * 32,))]
    await namespaces.delegate(client, OWNER, LABEL, entries)
    await namespaces.ready_namespace(client, OWNER, LABEL)
    with pytest.raises(NamespaceIsReady):
        await namespaces.delegate(client, OWNER, LABEL, [Delegation("three", OWNER.public, b"", ())])
    found = await client.name(f"two.{LABEL}")
    assert found is not None
    assert (found.owner, found.service_file_hash, found.instance_keys) == (OWNER.public, b"f" * 32, (b"k" * 32,))
    record = await namespaces.namespace(client, LABEL)
    assert namespace_status(record, found.changed_height + 1) is NamespaceStatus.READY


async def test_a_name_in_a_namespace_costs_what_is_proven_and_not_more(client: AsyncClient) -> None:
    await namespaces.open_namespace(client, OWNER, LABEL, RULE, 50, 7)
    await namespaces.ready_namespace(client, OWNER, LABEL)
    name = f"no.{LABEL}"
    terms = await namespaces.terms(client, name)
    assert terms == Terms(200, 50, 7, LABEL)
    with pytest.raises(PriceAboveLimit):
        await client.preorder_and_register(OTHER, name, price_limit=terms.price - 1)
    before = await burned(client)
    receipt = await client.preorder_and_register(OTHER, name, price_limit=terms.price)
    # Preorder and registration have fees too, but far less.
    assert await burned(client) >= before + 200 + receipt.fee - receipt.fee // 2
    with pytest.raises(PriceAboveLimit):
        await client.renew_name(OTHER, name)
    renewed = await client.renew_name(OTHER, name, price_limit=200)
    record = await client.name(name, at_least_height=renewed.height)
    assert record is not None
    assert (record.expires_height, record.held_until_height) == (renewed.height + 50, renewed.height + 57)


async def test_the_owner_of_a_name_delegates_below_it(client: AsyncClient) -> None:
    await client.preorder_and_register(OWNER, "acme")
    entries = read_batch(b'[{"label": "door"}, {"label": "lamp"}]', OWNER.public)
    receipt = await namespaces.delegate(client, OWNER, "acme", entries)
    for name in ("door.acme", "lamp.acme"):
        record = await client.name(name, at_least_height=receipt.height)
        assert record is not None
        assert record.owner == OWNER.public


def test_a_batch_file_is_read() -> None:
    owner, key = format_address(OTHER.public), format_address(b"k" * 32)
    full = {"label": "lamp", "owner": owner, "service_file_hash": "ab" * 32, "instance_keys": [key]}
    entries = read_batch(json.dumps([{"label": "door"}, full]).encode(), OWNER.public)
    assert entries == (
        Delegation("door", OWNER.public, b"", ()),
        Delegation("lamp", OTHER.public, bytes.fromhex("ab" * 32), (b"k" * 32,)),
    )


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", Malformed),
        (b"{}", Malformed),
        (b'["door"]', Malformed),
        (b'[{"label": "door", "price": 1}]', Malformed),
        (b'[{"label": "door", "service_file_hash": "x"}]', Malformed),
        (b'[{"label": "door", "owner": "bob"}]', InvalidAddress),
        (b"[" * (1024 * 1024 + 1), Malformed),
        (b"[" * 100_000, Malformed),
    ],
)
def test_what_is_no_batch_file_is_refused(data: bytes, error: type[BlockCloudError]) -> None:
    with pytest.raises(error):
        read_batch(data, OWNER.public)


async def test_a_batch_that_makes_no_sense_is_not_sent(client: AsyncClient, world: World) -> None:
    before = [len(node.requests) for node in world.nodes]
    door = Delegation("door", OWNER.public, b"", ())
    for entries in ([], [door] * 65, [door, door]):
        with pytest.raises(Malformed):
            await namespaces.delegate(client, OWNER, "acme", entries)
    with pytest.raises(InvalidName):
        await namespaces.open_namespace(client, OWNER, "Lab", RULE, 5, 5)
    assert [len(node.requests) for node in world.nodes] == before


def test_a_rule_is_filled_up_and_checked() -> None:
    assert price_rule(5).exponents == (0,) * 16
    assert price_rule(5, 2, [3, 1]).exponents == (3, *(1,) * 15)
    for wrong in ({"base": 17}, {"exponents": [16]}, {"exponents": []}, {"exponents": [0] * 17}, {"base": 0}):
        with pytest.raises(Malformed):
            price_rule(5, **wrong)  # type: ignore[arg-type]  # that is what is tried
