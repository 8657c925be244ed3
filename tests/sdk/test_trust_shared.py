"""What several programs with one home know together: it never gets older, never breaks, and never holds two truths."""

from __future__ import annotations

import fcntl
import os
import random
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.responses import Response

from blockcloud.primitives import codec
from blockcloud.primitives.errors import BadConfiguration, StorageFault
from blockcloud.primitives.keys import SigningKey
from blockcloud.primitives.limits import RESOLUTION_AGE_SECONDS
from blockcloud.sdk import AsyncClient, trust_store
from blockcloud.sdk.errors import ConflictingCertificates, Rollback, TrustExpired
from blockcloud.sdk.home import Home
from blockcloud.sdk.light_client import LightClient, TrustedState
from blockcloud.sdk.services import open_client
from blockcloud.sdk.trust_store import TrustStore, together
from tests.sdk.sdk_world import OTHER, START_MS, Ledger, World, certify

KEY = b"a" * 10
KEYS = [SigningKey(bytes([150 + number]) * 32) for number in range(8)]


def make_states(forked_at: int = 99) -> list[TrustedState]:
    """What a client of one ledger keeps as time goes by, through three eras: 12 states, each newer than the one before.
    From commit `forked_at` on it is another history of the same chain."""
    ledger, states = Ledger(), []
    light = LightClient(ledger.genesis)
    for number in range(12):
        if number in (4, 8):
            made = ledger.hand_over(KEYS[number - 4 : number])
            light.follow(codec.encode(made), ledger.now_ms)
        ledger.now_ms = START_MS + 700_000 * (number + 1) + (1 if number >= forked_at else 0)
        ledger.commit()
        light.accept(codec.encode(ledger.proven(KEY)), KEY, ledger.now_ms)
        state = light.state()
        assert state is not None
        states.append(state)
    return states


STATES = make_states()
FORKED = make_states(9)  # after the last hand-over that both have


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "trust" / "chain.trust"


@given(st.integers(0, 11), st.integers(0, 11))
def test_two_clients_of_one_history_know_what_the_newer_one_does(one: int, other: int) -> None:
    assert together(STATES[one], STATES[other]) == STATES[max(one, other)]


def test_eras_of_one_and_the_certificate_of_another_are_put_together() -> None:
    eras_only = msgspec.structs.replace(STATES[4], handovers=STATES[11].handovers)
    both = together(eras_only, STATES[7])
    assert both == msgspec.structs.replace(STATES[7], handovers=STATES[11].handovers)
    assert LightClient(Ledger().genesis, trusted=both).height == STATES[7].newest.statement.height  # type: ignore[union-attr]


@given(st.integers(9, 11), st.integers(9, 11), st.booleans())
def test_two_histories_are_evidence(one: int, other: int, turned: bool) -> None:
    first, second = STATES[one], FORKED[other]
    found = together(second, first) if turned else together(first, second)
    if one == other:
        parts = {codec.encode(state.newest) for state in (first, second) if state.newest is not None}
        assert set(found.evidence) == parts
    # Who has evidence keeps it, whatever comes.
    seen = msgspec.structs.replace(first, evidence=(b"1", b"2"))
    assert together(seen, STATES[11]).evidence == together(STATES[11], seen).evidence == (b"1", b"2")


def test_times_that_contradict_the_heights_are_evidence() -> None:
    late = msgspec.structs.replace(STATES[1], time_ms=STATES[2].time_ms + 1)
    assert len(together(STATES[2], late).evidence) == 2


def test_two_committees_of_one_era_are_evidence() -> None:
    (known, *_), state = STATES[5].handovers, STATES[5]
    statement = msgspec.structs.replace(known.certificate.statement, digests=(bytes(32),) * 3)
    forged = msgspec.structs.replace(known, certificate=certify(statement, KEYS[:4]))
    other = msgspec.structs.replace(state, handovers=(forged,))
    assert set(together(state, other).evidence) == {codec.encode(known), codec.encode(forged)}


def test_nobody_takes_another_back(path: Path) -> None:
    ahead, behind = TrustStore(path), TrustStore(path)
    behind.keep(STATES[2])
    ahead.keep(STATES[9])
    behind.keep(STATES[5])
    assert TrustStore(path).load() == STATES[9]
    behind.keep(STATES[10], at_once=True)
    assert TrustStore(path).load() == STATES[10]


def test_programs_that_were_shown_two_histories_stop_and_so_does_who_comes_after(path: Path) -> None:
    one, other = TrustStore(path), TrustStore(path)
    one.keep(STATES[10])
    with pytest.raises(ConflictingCertificates) as caught:
        other.keep(FORKED[10])
    assert "blockcloud trust set FILE" in caught.value.hint
    for _ in range(2):
        with pytest.raises(ConflictingCertificates):
            one.keep(STATES[11])
    stored = TrustStore(path).load()
    assert stored is not None
    late = LightClient(Ledger().genesis, trusted=stored)
    with pytest.raises(ConflictingCertificates):
        late.require_trust(STATES[10].time_ms)
    # Until a person decides; and what was there stays.
    one.save(STATES[11])
    other.keep(STATES[11], at_once=True)
    assert TrustStore(path).load() == STATES[11]
    assert TrustStore(path.with_name(path.name + ".old")).load() == stored


WRITER = """
import sys
from pathlib import Path
from blockcloud.sdk.trust_store import TrustStore, read_trusted_state
store = TrustStore(Path(sys.argv[1]))
sys.stdout.write("ready\\n"); sys.stdout.flush(); sys.stdin.readline()
for name in sys.argv[2:]:
    store.keep(read_trusted_state(Path(name)), at_once=True)
"""


def test_processes_that_share_a_home_neither_break_the_file_nor_take_it_back(tmp_path: Path, path: Path) -> None:
    names = []
    for number, state in enumerate(STATES):
        (tmp_path / str(number)).write_bytes(codec.encode(state))
        names.append(str(tmp_path / str(number)))
    draw, programs = random.Random(5), []
    for _ in range(3):
        order = [name for _ in range(3) for name in draw.sample(names[:-1], len(names) - 1)]
        programs.append(
            subprocess.Popen(
                [sys.executable, "-c", WRITER, str(path), *order],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        )
    for program in programs:
        assert program.stdout is not None
        assert program.stdout.readline() == "ready\n"
    heights = []
    for program in programs:
        assert program.stdin is not None
        program.stdin.write("go\n")
        program.stdin.flush()
    while any(program.poll() is None for program in programs):
        seen = TrustStore(path).load()
        heights.append(seen.newest.statement.height if seen is not None and seen.newest is not None else 0)
    for program in programs:
        program.communicate()
    assert [program.returncode for program in programs] == [0, 0, 0]
    assert all(before <= after for before, after in pairwise(heights))
    assert TrustStore(path).load() == STATES[10]
    assert os.listdir(path.parent) == [path.name]


def test_a_program_that_stopped_half_way_is_not_waited_for_for_ever(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = TrustStore(path)
    store.keep(STATES[0])
    monkeypatch.setattr(trust_store, "LOCK_SECONDS", 0.05)
    holder = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(holder, fcntl.LOCK_EX)
        with pytest.raises(StorageFault, match="does not go on"):
            store.keep(STATES[5])
    finally:
        os.close(holder)
    store.keep(STATES[5])
    assert TrustStore(path).load() == STATES[5]


@pytest.mark.parametrize("mode", [0o620, 0o602])
def test_a_file_that_others_may_write_says_nothing(path: Path, mode: int) -> None:
    TrustStore(path).keep(STATES[0])
    path.chmod(mode)
    with pytest.raises(BadConfiguration, match="chmod 600"):
        TrustStore(path).load()


def test_what_was_forgotten_is_set_aside(path: Path) -> None:
    store = TrustStore(path)
    assert store.forget() is None
    store.keep(STATES[3])
    aside = store.forget()
    assert aside is not None
    assert store.load() is None
    assert TrustStore(aside).load() == STATES[3]
    store.keep(STATES[1])
    assert TrustStore(path).load() == STATES[1]


# Clients


def make_client(world: World, store: TrustStore) -> AsyncClient:
    return AsyncClient(world.ledger.genesis, trust_store=store, now_ms=lambda: world.ledger.now_ms)


async def test_the_next_start_refuses_an_older_history(world: World, path: Path) -> None:
    ledger = world.ledger
    old_height = ledger.commit()
    ledger.now_ms += (RESOLUTION_AGE_SECONDS + 1) * 1_000
    ledger.commit()
    async with make_client(world, TrustStore(path)) as made:
        await made.account(OTHER.public)

    async def go_back(request: Request) -> Response | None:
        if not request.url.path.endswith("/proof"):
            return None
        return Response(codec.encode(ledger.proven(bytes.fromhex(request.query_params["key"]), old_height)))

    for node in world.nodes:
        node.misbehave = go_back
    async with make_client(world, TrustStore(path)) as made:
        with pytest.raises(Rollback) as caught:
            await made.account(OTHER.public)
    assert "--api URL" in caught.value.hint
    assert "blockcloud trust reset" in caught.value.hint


async def test_the_next_start_refuses_a_conflicting_history(world: World, path: Path) -> None:
    """The same genesis and keys, and another past: a devnet whose data was thrown away, or a long-range attack."""
    ledger = world.ledger
    ledger.commit()
    other = Ledger(tuple(item.api_url for item in ledger.genesis.validators))
    assert other.chain_id == ledger.chain_id
    other.now_ms = ledger.now_ms
    other.commit(time_ms=ledger.now_ms + 5)
    async with make_client(world, TrustStore(path)) as made:
        await made.account(OTHER.public)

    async def tell_another(request: Request) -> Response | None:
        if not request.url.path.endswith("/proof"):
            return None
        return Response(codec.encode(other.proven(bytes.fromhex(request.query_params["key"]))))

    for node in world.nodes:
        node.misbehave = tell_another
    async with make_client(world, TrustStore(path)) as made:
        with pytest.raises(ConflictingCertificates) as caught:
            await made.account(OTHER.public)
    assert "blockcloud trust set FILE" in caught.value.hint
    for node in world.nodes:
        node.misbehave = None
    async with make_client(world, TrustStore(path)) as made:
        with pytest.raises(ConflictingCertificates):
            await made.account(OTHER.public)


async def test_a_running_program_takes_up_a_fresh_certificate(world: World, path: Path, tmp_path: Path) -> None:
    ledger = world.ledger
    ledger.commit()
    async with make_client(world, TrustStore(path)) as made:
        await made.account(OTHER.public)
        ledger.now_ms += ledger.genesis.staking.trusting_period_ms + 1
        ledger.commit()
        with pytest.raises(TrustExpired) as caught:
            await made.account(OTHER.public)
        assert "blockcloud trust set FILE" in caught.value.hint
        friends = TrustStore(tmp_path / "friend" / "chain.trust")
        async with make_client(world, friends) as friend:
            await friend.account(OTHER.public)
        given = friends.load()
        assert given is not None
        TrustStore(path).save(given)  # what `blockcloud trust set` does, in another process
        assert await made.account(OTHER.public) is not None


async def test_a_stored_state_that_does_not_hold_together_is_said_to_be_one(world: World, path: Path) -> None:
    state = STATES[11]
    TrustStore(path).save(msgspec.structs.replace(state, chain_id=world.ledger.chain_id))
    with pytest.raises(BadConfiguration, match="blockcloud trust reset"):
        make_client(world, TrustStore(path))


async def test_clients_of_a_home_keep_what_they_verify_for_each_chain(world: World, tmp_path: Path) -> None:
    home = Home(tmp_path)
    (tmp_path / "genesis.json").write_text(world.ledger.genesis.to_json(), encoding="utf-8")
    world.ledger.commit()
    async with open_client(home) as client:
        client.now_ms = lambda: world.ledger.now_ms
        await client.account(OTHER.public)
    store = TrustStore.under(home, world.ledger.chain_id)
    assert store.load() == client.light_client.state()
    async with open_client(home) as client:
        assert client.light_client.height == 1
    another = Ledger(tuple(item.api_url for item in world.ledger.genesis.validators), name="another")
    (tmp_path / "genesis.json").write_text(another.genesis.to_json(), encoding="utf-8")
    async with open_client(home) as client:
        assert client.light_client.height == 0
    assert store.load() is not None
