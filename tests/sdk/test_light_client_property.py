"""Random chains of eras: any prefix can be followed, in its order only, and no byte of a hand-over can be changed."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blockcloud.primitives import codec
from blockcloud.primitives.certificates import Certificate, quorum_weight
from blockcloud.primitives.errors import BelowQuorum, PeerFault
from blockcloud.primitives.hashes import sha256
from blockcloud.primitives.keys import SigningKey
from blockcloud.sdk.errors import SkippedEra
from blockcloud.sdk.light_client import ERAS_KEPT, LightClient
from blockcloud.service_chain.handover import Handover
from blockcloud.transaction_chain.era import EraPlan, Seat, handover_statement
from tests.sdk.sdk_world import BOND, START_MS, VALIDATORS, Ledger, certify

GENESIS = Ledger().genesis
CHAIN_ID = GENESIS.chain_id()
KEYS = [*VALIDATORS, *(SigningKey(bytes([number]) * 32) for number in range(5, 21))]

Committee = list[tuple[SigningKey, int]]

bonds = st.integers(1, 3) | st.integers(1, 10**15)
committees: st.SearchStrategy[Committee] = st.lists(
    st.tuples(st.sampled_from(KEYS), bonds),
    min_size=1,
    max_size=9,
    unique_by=lambda item: item[0].public,
)
chains = st.lists(st.tuples(committees, st.integers(1, 10**6)), min_size=1, max_size=6)


def signers_of(committee: Committee, order: list[int]) -> list[SigningKey]:
    """Members taken in some order until they are a quorum."""
    ranked = sorted(committee, key=lambda item: order[KEYS.index(item[0])])
    signers, weight = [], 0
    for key, bond in ranked:
        if weight >= quorum_weight(sum(bond for _, bond in committee)):
            break
        signers.append(key)
        weight += bond
    return signers


def build(drawn: list[tuple[Committee, int]], order: list[int]) -> list[Handover]:
    """The hand-overs of a chain whose era before the n-th committee has so many commits."""
    handovers, height = [], 0
    members: Committee = [(key, BOND) for key in VALIDATORS]
    for number, (committee, length) in enumerate(drawn, 1):
        height += length
        seats = tuple(Seat(sha256(key.public), key.public, bond, 1, "host:1", "http://host") for key, bond in committee)
        plan = EraPlan(number, height + 1, sha256(b"%d" % number), 1, seats)
        statement = handover_statement(CHAIN_ID, height, sha256(b"c%d" % height), sha256(b"r%d" % height), plan)
        handovers.append(Handover(certify(statement, signers_of(members, order)), plan))
        members = committee
    return handovers


orders = st.permutations(range(len(KEYS)))


@settings(max_examples=60)
@given(chains, orders)
def test_every_prefix_can_be_followed_and_gives_its_committee(
    drawn: list[tuple[Committee, int]], order: list[int]
) -> None:
    light = LightClient(GENESIS)
    for number, made in enumerate(build(drawn, order), 1):
        assert light.follow(codec.encode(made), START_MS) == light.era == number
        committee = dict(light._eras[number].weights)
        assert committee == {key.public: bond for key, bond in drawn[number - 1][0]}
        assert len(light._eras) <= ERAS_KEPT


@settings(max_examples=60)
@given(chains, orders, st.data())
def test_the_order_matters(drawn: list[tuple[Committee, int]], order: list[int], data: st.DataObject) -> None:
    """Whatever comes in, a client knows the eras without a gap, and one ahead of its turn is a skipped era."""
    light = LightClient(GENESIS)
    handovers = build(drawn, order)
    for index in data.draw(st.lists(st.integers(0, len(handovers) - 1), max_size=12)):
        before = light.era
        if index > before:
            with pytest.raises(SkippedEra):
                light.follow(codec.encode(handovers[index]), START_MS)
        elif index == before:
            light.follow(codec.encode(handovers[index]), START_MS)
        assert light.era == before + (index == before)
        assert all(second == first + 1 for first, second in pairwise(sorted(light._eras)))


def before_the_last(drawn: list[tuple[Committee, int]], order: list[int]) -> tuple[LightClient, list[Handover]]:
    """A chain of hand-overs, and a client that has followed all but the last."""
    handovers = build(drawn, order)
    light = LightClient(GENESIS)
    for made in handovers[:-1]:
        light.follow(codec.encode(made), START_MS)
    return light, handovers


@settings(max_examples=300)
@given(chains, orders, st.data())
def test_no_byte_of_a_hand_over_can_be_changed(
    drawn: list[tuple[Committee, int]], order: list[int], data: st.DataObject
) -> None:
    light, handovers = before_the_last(drawn, order)
    whole = codec.encode(handovers[-1])
    position = data.draw(st.integers(0, len(whole) - 1))
    changed = bytearray(whole)
    changed[position] ^= data.draw(st.integers(1, 255))
    era = light.era
    with pytest.raises(PeerFault):
        light.follow(bytes(changed), START_MS)
    assert (light.era, light.evidence) == (era, ())
    light.follow(whole, START_MS)


@settings(max_examples=60)
@given(chains, orders, st.data())
def test_no_signer_of_a_bare_quorum_can_be_left_out(
    drawn: list[tuple[Committee, int]], order: list[int], data: st.DataObject
) -> None:
    """`signers_of` stops at the quorum, so without its last one the rest are too few."""
    light, handovers = before_the_last(drawn, order)
    last = handovers[-1]
    members: Committee = drawn[-2][0] if len(drawn) > 1 else [(key, BOND) for key in VALIDATORS]
    needed = signers_of(members, order)[-1].public
    signatures = tuple(item for item in last.certificate.signatures if item[0] != needed)
    with pytest.raises(BelowQuorum):
        light.follow(codec.encode(Handover(Certificate(last.certificate.statement, signatures), last.plan)), START_MS)


@given(st.binary(max_size=300))
def test_garbage_raises_a_peer_fault_only(data: bytes) -> None:
    with pytest.raises(PeerFault):
        LightClient(GENESIS).follow(data, START_MS)


def test_every_byte_of_one_hand_over_once() -> None:
    """The same without drawing: each byte in turn, one bit in it."""
    whole = codec.encode(build([([(KEYS[7], 5), (KEYS[8], 6)], 10)], list(range(len(KEYS))))[0])
    light = LightClient(GENESIS)
    for position in range(len(whole)):
        changed = bytearray(whole)
        changed[position] ^= 1 << position % 8
        with pytest.raises(PeerFault):
            light.follow(bytes(changed), START_MS)
    assert light.follow(whole, START_MS) == 1
