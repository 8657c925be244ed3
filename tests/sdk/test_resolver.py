"""Names to instances over nodes that lie: records and files count only if the ledger's proofs list their keys."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import msgspec
import pytest
from starlette.requests import Request
from starlette.responses import Response

from blockcloud.primitives import codec
from blockcloud.primitives.errors import BadProof, BadSignature, InvalidName, Unreachable
from blockcloud.primitives.keys import SigningKey
from blockcloud.routing.address_record import AddressRecord, Endpoint, sign_record
from blockcloud.routing.errors import HashMismatch, LeaseExpired, NotAnnounced, UnknownCriticalTerm
from blockcloud.routing.service_file import build_service_file, service_file_hash
from blockcloud.sdk import AsyncClient, ChainResolver, HttpAnnouncer
from blockcloud.sdk.errors import NotFound, Refused, StaleProof
from blockcloud.service_access.resolution import NoInstances, UnknownName
from blockcloud.service_chain.rejections import NameExpired, NameRevoked
from tests.sdk.sdk_world import OWNER, World

NAME = "thermo"
INSTANCES = [SigningKey(bytes([number]) * 32) for number in (100, 101)]
STRANGER = SigningKey(bytes(32))
FILE = build_service_file(NAME, "Thermometer")
PLACE = Endpoint("tls", "127.0.0.2", 8702)


class Scene:
    """A registered name, a client, a resolver, and the world around them."""

    def __init__(self, world: World, client: AsyncClient) -> None:
        self.world = world
        self.client = client
        self.resolver = ChainResolver(client, now_s=lambda: world.ledger.now_ms // 1_000)
        self.announcer = HttpAnnouncer(client)

    def record(self, sequence: int, key: SigningKey = INSTANCES[0], **changes: object) -> bytes:
        now_s = self.world.ledger.now_ms // 1_000
        record = AddressRecord(NAME, key.public, sequence, now_s, now_s + 120, service_file_hash(FILE), (PLACE,))
        return sign_record(replace(record, **changes), key)  # type: ignore[arg-type]

    def later(self, seconds: int) -> None:
        """Time passes, and the ledger goes on."""
        self.world.ledger.now_ms += seconds * 1_000
        self.world.ledger.commit()

    def answer_with(self, nodes: list[int], part: str, body: bytes) -> None:
        """Let some nodes answer every request whose path has `part` with `body`."""

        async def misbehave(request: Request) -> Response | None:
            return Response(body) if part in request.url.path and request.method == "GET" else None

        for number in nodes:
            self.world.nodes[number].misbehave = misbehave


@pytest.fixture
async def scene(world: World) -> AsyncIterator[Scene]:
    async with AsyncClient(world.ledger.genesis, now_ms=lambda: world.ledger.now_ms) as client:
        await client.preorder_and_register(
            OWNER, NAME, service_file_hash=service_file_hash(FILE), instance_keys=[key.public for key in INSTANCES]
        )
        yield Scene(world, client)


async def test_a_name_resolves_to_its_live_instances(scene: Scene) -> None:
    await scene.announcer.announce(scene.record(1, load=500))
    await scene.announcer.announce(scene.record(1, INSTANCES[1], load=10))
    found = await scene.resolver.resolve(NAME)
    assert (found.name, found.owner, found.service_file_hash) == (NAME, OWNER.public, service_file_hash(FILE))
    assert [item.key for item in found.instances] == [INSTANCES[1].public, INSTANCES[0].public]
    assert found.instances[0].endpoints == (PLACE,)
    assert found.height > 0
    assert found.proven_at_ms == scene.world.ledger.now_ms


async def test_a_young_answer_is_cached_and_an_old_one_is_not(scene: Scene) -> None:
    await scene.announcer.announce(scene.record(1))
    first = await scene.resolver.resolve(NAME)
    count = sum(len(node.requests) for node in scene.world.nodes)
    assert await scene.resolver.resolve(NAME) is first
    assert sum(len(node.requests) for node in scene.world.nodes) == count
    moved = replace(PLACE, port=9)
    await scene.announcer.announce(scene.record(2, endpoints=(moved,)))
    fresh = await scene.resolver.resolve(NAME, max_age_s=0)
    assert fresh.instances[0].endpoints == (moved,)
    scene.later(61)
    assert await scene.resolver.resolve(NAME) is not fresh


async def test_callers_at_the_same_time_share_one_answer(scene: Scene) -> None:
    await scene.announcer.announce(scene.record(1))
    for node in scene.world.nodes:
        node.requests.clear()
    found = await asyncio.gather(*(scene.resolver.resolve(NAME) for _ in range(10)))
    assert all(item is found[0] for item in found)
    asked = [line for node in scene.world.nodes for line in node.requests]
    assert len([line for line in asked if "proof" in line]) == 1


async def test_names_that_bind_nothing_have_their_own_errors(scene: Scene) -> None:
    with pytest.raises(UnknownName):
        await scene.resolver.resolve("nobody")
    with pytest.raises(InvalidName):
        await scene.resolver.resolve("No Name")
    with pytest.raises(NoInstances):
        await scene.resolver.resolve(NAME)
    for _ in range(70):
        scene.world.ledger.commit()
    with pytest.raises(NameExpired):
        await scene.resolver.resolve(NAME, max_age_s=0)
    await scene.client.preorder_and_register(OWNER, "second")
    await scene.client.revoke_name(OWNER, "second")
    with pytest.raises(NameRevoked):
        await scene.resolver.resolve("second")


async def test_a_withdrawn_or_expired_instance_is_not_given(scene: Scene) -> None:
    await scene.announcer.announce(scene.record(1))
    await scene.announcer.announce(scene.record(1, INSTANCES[1]))
    await scene.announcer.announce(scene.record(2, endpoints=()))
    found = await scene.resolver.resolve(NAME)
    assert [item.key for item in found.instances] == [INSTANCES[1].public]
    scene.later(200)
    with pytest.raises(NoInstances):
        await scene.resolver.resolve(NAME)


async def test_a_key_revoked_on_the_ledger_ends_its_instance(scene: Scene) -> None:
    await scene.announcer.announce(scene.record(1))
    await scene.resolver.resolve(NAME)
    held = scene.world.nodes[0].table.records(NAME, scene.world.ledger.now_ms // 1_000)
    await scene.client.remove_instance(OWNER, NAME, INSTANCES[0].public)
    assert held
    with pytest.raises(NotAnnounced):
        await scene.resolver.resolve(NAME, max_age_s=0)
    assert {error.code for _, error in scene.client.transport.refused} == {"not_announced"}


@pytest.mark.parametrize(
    ("forge", "error"),
    [
        (lambda scene: scene.record(9, STRANGER), NotAnnounced),
        (lambda scene: scene.record(9)[:-1] + b"\x00", BadSignature),
        (lambda scene: scene.record(9, issued_s=1, expires_s=100), LeaseExpired),
        (lambda scene: scene.record(9, name="other"), NotAnnounced),
    ],
    ids=["stranger", "tampered", "expired", "another name"],
)
async def test_a_forged_record_is_refused_and_an_honest_one_found(scene: Scene, forge, error) -> None:  # type: ignore[no-untyped-def]
    await scene.announcer.announce(scene.record(1))
    bad = msgspec.msgpack.encode([forge(scene)])
    scene.answer_with([0, 1, 2], "address-records", bad)
    found = await scene.resolver.resolve(NAME)
    assert [item.sequence for item in found.instances] == [1]
    assert {type(fault) for _, fault in scene.client.transport.refused} == {error}
    scene.answer_with([0, 1, 2, 3], "address-records", bad)
    alone = ChainResolver(scene.client, now_s=lambda: scene.world.ledger.now_ms // 1_000)
    with pytest.raises(error):
        await alone.resolve(NAME)


async def test_one_node_cannot_hide_the_newest_place(scene: Scene) -> None:
    old = scene.record(1)
    await scene.announcer.announce(scene.record(2, endpoints=(replace(PLACE, port=9),)))
    scene.answer_with([0], "address-records", msgspec.msgpack.encode([old]))
    assert (await scene.resolver.resolve(NAME)).instances[0].sequence == 2
    scene.answer_with([0, 1, 2, 3], "address-records", msgspec.msgpack.encode([old]))
    assert (await scene.resolver.resolve(NAME, max_age_s=0)).instances[0].sequence == 2
    scene.answer_with([0, 1], "address-records", msgspec.msgpack.encode([]))
    newcomer = ChainResolver(scene.client, now_s=lambda: scene.world.ledger.now_ms // 1_000)
    scene.answer_with([2, 3], "nothing", b"")
    assert (await newcomer.resolve(NAME)).instances[0].sequence == 2


@pytest.mark.parametrize("body", [b"", b"\x01", b"\x91\x01", b"\x91\xc4\x00", msgspec.msgpack.encode([b""] * 65)])
async def test_nonsense_instead_of_records_is_passed_over(scene: Scene, body: bytes) -> None:
    await scene.announcer.announce(scene.record(1))
    scene.answer_with([0, 1, 2], "address-records", body)
    assert (await scene.resolver.resolve(NAME)).instances[0].sequence == 1


async def test_a_forged_or_stale_state_answer_is_refused(scene: Scene) -> None:
    await scene.announcer.announce(scene.record(1))
    honest = scene.world.ledger.proven(b"n" + NAME.encode())
    mine = msgspec.structs.replace(honest, value=honest.value.replace(INSTANCES[0].public, STRANGER.public))
    scene.answer_with([0, 1, 2, 3], "proof", codec.encode(mine))
    with pytest.raises(BadProof):
        await scene.resolver.resolve(NAME)
    scene.answer_with([0, 1, 2, 3], "proof", codec.encode(honest))
    assert await scene.resolver.resolve(NAME)
    scene.later(61)
    with pytest.raises(StaleProof):
        await scene.resolver.resolve(NAME)


async def test_a_service_file_is_fetched_and_checked(scene: Scene) -> None:
    await scene.announcer.announce(scene.record(1))
    found = await scene.resolver.resolve(NAME)
    with pytest.raises(NotFound):
        await scene.resolver.service_file(found)
    await scene.client.put_service_file(FILE)
    altered = FILE.replace(b"Thermometer", b"Thermonuclear")
    scene.answer_with([0, 1, 2, 3], "service-files", altered)
    with pytest.raises(HashMismatch):
        await scene.resolver.service_file(found)
    scene.answer_with([0, 1, 2], "service-files", altered)
    scene.world.nodes[3].misbehave = None
    assert (await scene.resolver.service_file(found))["title"] == "Thermometer"
    scene.answer_with([0, 1, 2, 3], "service-files", altered)
    assert (await scene.resolver.service_file(found))["title"] == "Thermometer"  # cached by hash


async def test_a_service_file_with_an_unknown_critical_term_is_refused(scene: Scene) -> None:
    document = msgspec.json.decode(FILE) | {"bc:new": 1, "bc:crit": ["bc:new"]}
    data = msgspec.json.encode(document, order="sorted")
    with pytest.raises(UnknownCriticalTerm):
        await scene.client.put_service_file(data)
    await scene.announcer.announce(scene.record(1))
    found = await scene.resolver.resolve(NAME)
    scene.answer_with([0, 1, 2, 3], "service-files", data)
    with pytest.raises(UnknownCriticalTerm):
        await scene.resolver.service_file(replace(found, service_file_hash=service_file_hash(data)))


async def test_announcing_needs_one_node_that_takes_it(scene: Scene) -> None:
    async def refuse(request: Request) -> Response:
        return Response(b"", 500)

    for node in scene.world.nodes[:3]:
        node.misbehave = refuse
    await scene.announcer.announce(scene.record(1))
    for node in scene.world.nodes[1:]:
        node.misbehave = None
    with pytest.raises(Refused) as caught:
        await scene.announcer.announce(scene.record(1, STRANGER))
    assert caught.value.code == "not_announced"
    async with AsyncClient(scene.world.ledger.genesis, ["http://127.0.0.1:1"]) as nowhere:
        with pytest.raises(Unreachable):
            await HttpAnnouncer(nowhere).announce(scene.record(1))
