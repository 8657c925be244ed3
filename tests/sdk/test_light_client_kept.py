"""Eras over HTTP, and what a client keeps of them over a restart."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from starlette.requests import Request
from starlette.responses import Response

from blockcloud.primitives import codec
from blockcloud.primitives.errors import BadCertificate, BadConfiguration, BadSignature, StorageFault, WrongChain
from blockcloud.primitives.keys import SigningKey
from blockcloud.sdk import AsyncClient, reading
from blockcloud.sdk.errors import ConflictingCertificates, ConflictingHandovers, TrustExpired, UnknownEra
from blockcloud.sdk.home import Home
from blockcloud.sdk.inclusion import prove_inclusion
from blockcloud.sdk.light_client import LightClient, TrustedState
from blockcloud.sdk.trust_store import KEEP_SECONDS, TrustStore
from blockcloud.service_chain.handover import Handover
from tests.sdk.sdk_world import OTHER, OWNER, START_MS, Ledger, World, not_found

NEW = [SigningKey(bytes([100 + number]) * 32) for number in range(12)]


def grow(ledger: Ledger, eras: int) -> None:
    """Eras of one commit, each with another committee than the one before; then one commit in the newest."""
    for number in range(eras):
        ledger.commit()
        start = (ledger.era + number) % 8
        ledger.hand_over(NEW[start : start + 4])
    ledger.commit()


def asked(world: World, what: str) -> list[str]:
    return [line for node in world.nodes for line in node.requests if what in line]


def make_client(world: World, store: TrustStore | None = None) -> AsyncClient:
    return AsyncClient(world.ledger.genesis, trust_store=store, now_ms=lambda: world.ledger.now_ms)


@pytest.fixture
def store(tmp_path: Path) -> TrustStore:
    return TrustStore(tmp_path / "trust" / "chain.trust")


async def test_a_client_fetches_the_hand_overs_that_it_lacks_each_once(world: World) -> None:
    grow(world.ledger, 5)
    async with make_client(world) as made:
        account = await made.account(OTHER.public)
        assert account is not None
        assert made.light_client.era == 5
        assert asked(world, "handovers") == [f"GET /v1/handovers/{era}" for era in range(1, 6)]
        receipt = await made.transfer(OWNER, OTHER.public, 7)
        world.ledger.hand_over(NEW[:4])
        world.ledger.commit()
        later = await made.account(OTHER.public, at_least_height=receipt.height + 1)
        assert later is not None
        assert later.balance == account.balance + 7
        assert len(asked(world, "handovers")) == 6


async def test_a_long_way_is_gone_in_several_calls(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "HANDOVERS_PER_CALL", 2)
    grow(world.ledger, 9)
    async with AsyncClient(world.ledger.genesis, world.urls[:1], now_ms=lambda: world.ledger.now_ms) as made:
        for era in (2, 4, 6, 8):
            with pytest.raises(UnknownEra):
                await made.account(OTHER.public)
            assert made.light_client.era == era
        assert await made.account(OTHER.public) is not None


async def test_a_node_that_does_not_serve_hand_overs_holds_nobody_up(world: World) -> None:
    grow(world.ledger, 2)

    async def silent(request: Request) -> Response | None:
        return not_found() if "handovers" in request.url.path else None

    for node in world.nodes[:3]:
        node.misbehave = silent
    async with make_client(world) as made:
        assert await made.account(OTHER.public) is not None
    world.nodes[3].misbehave = silent
    async with make_client(world) as made:
        with pytest.raises(UnknownEra):
            await made.account(OTHER.public)


async def test_a_forged_hand_over_is_passed_over_and_noted(world: World) -> None:
    grow(world.ledger, 1)
    (honest,) = world.ledger.handovers
    (key, _), *others = honest.certificate.signatures
    bad = msgspec.structs.replace(honest.certificate, signatures=((key, bytes(64)), *others))

    async def forge(request: Request) -> Response | None:
        return Response(codec.encode(Handover(bad, honest.plan))) if "handovers" in request.url.path else None

    world.nodes[0].misbehave = forge
    async with make_client(world) as made:
        assert await made.account(OTHER.public) is not None
        assert [(url, type(error)) for url, error in made.transport.refused] == [(world.urls[0], BadSignature)]


async def test_an_era_that_nobody_can_show_is_the_fault_of_who_names_it(world: World) -> None:
    world.ledger.commit()
    proven = world.ledger.proven(b"a" * 10)
    certificate = world.ledger.certificate(1, era=2**63)

    async def boast(request: Request) -> Response | None:
        if not request.url.path.endswith("/proof"):
            return None
        key = bytes.fromhex(request.query_params["key"])
        return Response(codec.encode(msgspec.structs.replace(proven, key=key, certificate=certificate)))

    world.nodes[0].misbehave = boast
    async with make_client(world) as made:
        assert await made.account(OTHER.public) is not None
        assert [(url, type(error)) for url, error in made.transport.refused] == [(world.urls[0], UnknownEra)]
    assert len(asked(world, "handovers")) == 4


async def test_the_place_of_a_transaction_is_proven_in_a_later_era(world: World) -> None:
    grow(world.ledger, 3)
    async with make_client(world) as made:
        receipt = await made.transfer(OWNER, OTHER.public, 7)
        # Nothing has told this client of the eras yet.
        assert made.light_client.era == 0
        inclusion = await prove_inclusion(made, receipt.transaction_id)
        assert (inclusion.height, inclusion.certified_height) == (receipt.height, receipt.height)
        assert made.light_client.era == 3

    async def sign_with_members_of_before(request: Request) -> Response | None:
        if not request.url.path.endswith("/proof"):
            return None
        proven = world.ledger.proven_transaction(receipt.transaction_id, receipt.height)
        forged = world.ledger.certificate(receipt.height, signers=world.ledger.members[0])
        return Response(codec.encode(msgspec.structs.replace(proven, certificate=forged)))

    for node in world.nodes:
        node.misbehave = sign_with_members_of_before
    async with make_client(world) as made:
        with pytest.raises(BadCertificate):
            await prove_inclusion(made, receipt.transaction_id)


async def test_a_place_beyond_the_end_of_an_era_is_evidence(world: World) -> None:
    ledger = world.ledger
    ledger.commit()
    early = ledger.handover(ledger.plan(NEW[:4], [1] * 4))
    async with make_client(world) as made:
        receipt = await made.transfer(OWNER, OTHER.public, 7)
        made.light_client.follow(codec.encode(early), ledger.now_ms)
        with pytest.raises(ConflictingCertificates):
            await prove_inclusion(made, receipt.transaction_id)
        assert len(made.light_client.evidence) == 2


# What is kept


async def test_a_client_goes_on_from_what_it_kept(world: World, store: TrustStore) -> None:
    grow(world.ledger, 3)
    async with make_client(world, store) as made:
        await made.account(OTHER.public)
        height = made.light_client.height
    world.ledger.hand_over(NEW[:4])
    world.ledger.commit()
    before = len(asked(world, "handovers"))
    async with make_client(world, store) as made:
        assert (made.light_client.era, made.light_client.height) == (3, height)
        assert await made.account(OTHER.public) is not None
        assert made.light_client.era == 4
    assert asked(world, "handovers")[before:] == ["GET /v1/handovers/4"]


async def test_it_is_kept_at_once_not_only_at_the_end(world: World, store: TrustStore) -> None:
    """A program that is killed goes on from where it was; two histories stay known too."""
    grow(world.ledger, 1)
    key = b"a" * 10
    async with make_client(world, store) as made:
        await made.account(OTHER.public)
        kept = TrustStore(store.path).load()
        assert kept == made.light_client.state()
        other = world.ledger.certificate(2, digests=(bytes(32), bytes(32)))

        def verify() -> None:
            made.light_client.check_place(other)
            made.light_client._keep(other, world.ledger.now_ms)

        with pytest.raises(ConflictingCertificates):
            await made.with_eras(verify, world.urls[0], float("inf"))
        kept = TrustStore(store.path).load()
        assert kept is not None
        assert len(kept.evidence) == 2
        with pytest.raises(ConflictingCertificates):
            await made.proven(key)


async def test_what_was_kept_expires(world: World, store: TrustStore) -> None:
    world.ledger.commit()
    async with make_client(world, store) as made:
        await made.account(OTHER.public)
    world.ledger.now_ms += world.ledger.genesis.staking.trusting_period_ms + 1
    world.ledger.commit()
    async with make_client(world, store) as made:
        with pytest.raises(TrustExpired):
            await made.account(OTHER.public)
        # A friend's certificate ends that.
        async with make_client(world) as friend:
            await friend.account(OTHER.public)
            given = friend.light_client.state()
        assert given is not None
        made.light_client.trust(given)
        assert await made.account(OTHER.public) is not None


async def test_evidence_is_kept_too(world: World, store: TrustStore) -> None:
    ledger = world.ledger
    ledger.commit()
    other = ledger.handover(ledger.plan(NEW[:4], [1] * 4))
    ledger.hand_over(NEW[:4])
    ledger.commit()
    async with make_client(world, store) as made:
        await made.account(OTHER.public)
        with pytest.raises(ConflictingHandovers):
            made.light_client.follow(codec.encode(other), ledger.now_ms)
    kept = TrustStore(store.path).load()
    assert kept is not None
    assert kept.evidence == (codec.encode(ledger.handovers[0]), codec.encode(other))


def state_of(ledger: Ledger) -> TrustedState:
    light = LightClient(ledger.genesis)
    for made in ledger.handovers:
        light.follow(codec.encode(made), ledger.now_ms)
    light.accept(codec.encode(ledger.proven(b"a" * 10)), b"a" * 10, ledger.now_ms)
    state = light.state()
    assert state is not None
    return state


@pytest.fixture
def state() -> TrustedState:
    ledger = Ledger()
    grow(ledger, 2)
    return state_of(ledger)


def test_the_file_is_for_its_user_only_and_replaced_whole(store: TrustStore, state: TrustedState) -> None:
    assert store.load() is None
    store.save(state)
    assert stat.S_IMODE(store.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(store.path.parent.stat().st_mode) == 0o700
    assert store.load() == state
    newer = msgspec.structs.replace(state, time_ms=state.time_ms + 1)
    store.save(newer)
    assert TrustStore(store.path).load() == newer
    # What was there before a person decided otherwise stays: it may be evidence.
    old = store.path.with_name(f"{store.path.name}.old")
    assert TrustStore(old).load() == state
    assert sorted(store.path.parent.iterdir()) == [store.path, old]


def test_a_write_that_fails_leaves_the_old_file(
    store: TrustStore, state: TrustedState, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.save(state)

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    for step in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, step, fail)
            with pytest.raises(StorageFault):
                store.keep(msgspec.structs.replace(state, time_ms=2**50))
            with pytest.raises(StorageFault):
                store.save(msgspec.structs.replace(state, time_ms=0))
    assert {path.suffix for path in store.path.parent.iterdir()} <= {".trust", ".old"}
    assert TrustStore(store.path).load() == state


def test_it_is_written_when_that_is_worth_it(store: TrustStore, state: TrustedState) -> None:
    def at(seconds: float, **changes: object) -> TrustedState:
        return msgspec.structs.replace(state, time_ms=state.time_ms + int(seconds * 1_000), **changes)

    def written() -> TrustedState | None:
        return TrustStore(store.path).load()

    store.keep(at(0))
    for unchanged in (at(1), at(KEEP_SECONDS - 1), at(-KEEP_SECONDS)):
        store.keep(unchanged)
        assert written() == at(0)
    store.keep(at(-1), at_once=True)
    assert written() == at(0)
    for changed, at_once in (
        (at(KEEP_SECONDS), False),
        (at(KEEP_SECONDS + 1), True),
        (at(KEEP_SECONDS + 2, handovers=state.handovers[1:]), False),
        (at(KEEP_SECONDS + 2, handovers=state.handovers[1:], evidence=(b"1", b"2")), False),
    ):
        store.keep(changed, at_once=at_once)
        assert written() == changed


def test_a_place_where_nothing_can_be_written_is_a_storage_fault(tmp_path: Path, state: TrustedState) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageFault):
        TrustStore(tmp_path / "file" / "chain.trust").save(state)


def damage_cut(data: bytes) -> bytes:
    return data[:-1]


def damage_nothing(data: bytes) -> bytes:
    return b""


def damage_long(data: bytes) -> bytes:
    return data + bytes(2**20)


@pytest.mark.parametrize("damage", [damage_cut, damage_nothing, damage_long])
def test_a_damaged_file_is_said_to_be_one(
    store: TrustStore, state: TrustedState, damage: Callable[[bytes], bytes]
) -> None:
    store.save(state)
    store.path.write_bytes(damage(store.path.read_bytes()))
    with pytest.raises(BadConfiguration, match="damaged"):
        store.load()


def test_a_file_that_cannot_be_read_is_no_empty_one(tmp_path: Path) -> None:
    with pytest.raises(BadConfiguration):
        TrustStore(tmp_path).load()


def test_each_chain_has_its_file_under_the_home(tmp_path: Path, state: TrustedState) -> None:
    home = Home(tmp_path)
    one, other = (TrustStore.under(home, chain_id) for chain_id in (state.chain_id, bytes(32)))
    one.save(state)
    assert other.load() is None
    assert one.path.is_relative_to(tmp_path)
    other.save(state)
    with pytest.raises(WrongChain):
        LightClient(Ledger(name="another").genesis, trusted=other.load())


def test_the_start_is_the_genesis_time() -> None:
    assert LightClient(Ledger().genesis).newest_time_ms == START_MS
