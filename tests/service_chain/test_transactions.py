"""Transactions as bytes: what `check` lets through, and that everything else is a typed fault of the sender."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockcloud.primitives import codec
from blockcloud.primitives.errors import (
    BadSignature,
    InvalidName,
    Malformed,
    NonCanonical,
    Oversized,
    PeerFault,
    WrongChain,
)
from blockcloud.primitives.limits import TRANSACTION_SIGNATURES
from blockcloud.service_chain.operations import (
    TAGS,
    AddInstance,
    AnnounceEndpoint,
    OpenLane,
    Preorder,
    Register,
    RenewName,
    Transfer,
    UpdateName,
    name_commitment,
)
from blockcloud.service_chain.parsed import ParsedTransactions
from blockcloud.service_chain.transaction import WireTransaction, parse_transaction
from tests.service_chain.ledger_in_memory import SALT, USERS, Ledger

ALICE, BOB = USERS[1], USERS[2]
PAY = Transfer(BOB.public, 5)
LEDGER = Ledger()


def raw(*operations: object, **changes: object) -> bytes:
    return LEDGER.sign(ALICE, *operations, **changes)  # type: ignore[arg-type]


def test_a_good_transaction_passes_and_counts_its_operations() -> None:
    assert LEDGER.chain.check(raw(PAY)) == 1
    assert LEDGER.chain.check(raw(PAY, PAY, PAY)) == 3
    transaction = parse_transaction(raw(PAY))
    assert transaction.body.sender == ALICE.public
    assert transaction.signers == (ALICE.public,)


def test_the_id_is_that_of_the_body_whoever_signs() -> None:
    one, both = parse_transaction(raw(PAY)), parse_transaction(raw(PAY, signers=(ALICE, BOB)))
    assert one.id == both.id != parse_transaction(raw(PAY, sequence=7)).id


@pytest.mark.parametrize(
    ("payload", "fault"),
    [
        pytest.param(b"", Malformed, id="empty"),
        pytest.param(b"\xc1", Malformed, id="garbage"),
        pytest.param(raw(PAY)[:-1], Malformed, id="truncated"),
        pytest.param(raw(PAY) + b"\0", Malformed, id="trailing byte"),
        pytest.param(bytes(64 * 1024 + 1), Oversized, id="oversized"),
        pytest.param(raw(PAY, chain_id=bytes(32)), WrongChain, id="another chain"),
        pytest.param(raw(PAY, chain_id=bytes(31)), Malformed, id="short chain id"),
        pytest.param(raw(), Malformed, id="no operation"),
        pytest.param(raw(*[PAY] * 101), Malformed, id="too many operations"),
        pytest.param(raw(PAY, signers=()), Malformed, id="no signature"),
        pytest.param(raw(PAY, sender=b"x"), Malformed, id="short sender"),
        pytest.param(raw(PAY, sequence=-1), Malformed, id="negative sequence"),
        pytest.param(raw(PAY, fee_limit=2**63), Malformed, id="fee limit out of range"),
        pytest.param(raw(Transfer(BOB.public, 0)), Malformed, id="nothing to transfer"),
        pytest.param(raw(Transfer(BOB.public, -5)), Malformed, id="negative amount"),
        pytest.param(raw(Transfer(BOB.public, 2**63)), Malformed, id="amount out of range"),
        pytest.param(raw(Transfer(b"bob", 5)), Malformed, id="short receiver"),
        pytest.param(raw(RenewName("No-Name")), InvalidName, id="name in capitals"),
        pytest.param(raw(AddInstance("a..b", ALICE.public)), InvalidName, id="empty label"),
        pytest.param(raw(UpdateName("a", bytes(31))), Malformed, id="short file hash"),
        pytest.param(raw(Register("a", SALT, b"", (BOB.public,) * 2)), Malformed, id="instance named twice"),
        pytest.param(raw(Register("a", b"salt", b"", ())), Malformed, id="short salt"),
        pytest.param(raw(OpenLane(1, BOB.public, (12, 1), 5, 5)), Malformed, id="tags out of order"),
        pytest.param(raw(OpenLane(1, BOB.public, (TAGS[OpenLane],), 5, 5)), Malformed, id="lane that opens lanes"),
        pytest.param(raw(OpenLane(1, BOB.public, (69,), 5, 5)), Malformed, id="unknown tag"),
        pytest.param(raw(OpenLane(0, BOB.public, (1,), 5, 5)), Malformed, id="the owner's own lane"),
        pytest.param(raw(AnnounceEndpoint("ftp://x")), Malformed, id="not a web address"),
    ],
)
def test_bad_bytes_get_a_typed_fault(payload: bytes, fault: type[PeerFault]) -> None:
    with pytest.raises(fault):
        LEDGER.chain.check(payload)


def rewired(body: bytes | None = None, signatures: object = None) -> bytes:
    """The good transaction with another body or other signatures in its envelope."""
    wire = codec.decode(raw(PAY), WireTransaction, limit=10_000)
    return codec.encode([wire.body if body is None else body, wire.signatures if signatures is None else signatures])


def test_an_unknown_operation_is_malformed() -> None:
    fields = msgspec.msgpack.decode(codec.decode(raw(PAY), WireTransaction, limit=10_000).body)
    fields[-1] = [[77, b"what"]]
    with pytest.raises(Malformed):
        LEDGER.chain.check(rewired(codec.encode(fields)))


def test_a_longer_encoding_of_the_same_value_is_refused() -> None:
    payload = raw(PAY)
    wire = codec.decode(payload, WireTransaction, limit=10_000)
    # The amount 5 in two bytes instead of one, inside the body and again for the envelope's list head.
    assert wire.body.endswith(b"\x05")
    with pytest.raises(NonCanonical):
        LEDGER.chain.check(rewired(wire.body[:-1] + b"\xcc\x05"))
    with pytest.raises(NonCanonical):
        LEDGER.chain.check(b"\xdc\x00\x02" + payload[1:])


def test_signatures_are_verified_against_the_keys_they_name() -> None:
    wire = codec.decode(raw(PAY), WireTransaction, limit=10_000)
    ((key, signature),) = wire.signatures
    others = codec.decode(raw(PAY, sequence=9), WireTransaction, limit=10_000)
    for signatures in (
        [(BOB.public, signature)],
        [(key, signature[:-1] + bytes([signature[-1] ^ 1]))],
        others.signatures,
    ):
        with pytest.raises(BadSignature):
            LEDGER.chain.check(rewired(signatures=signatures))


def test_each_key_signs_once_and_in_order() -> None:
    both = codec.decode(raw(PAY, signers=(ALICE, BOB)), WireTransaction, limit=10_000).signatures
    assert LEDGER.chain.check(rewired(signatures=both)) == 1
    with pytest.raises(Malformed):
        LEDGER.chain.check(rewired(signatures=both[::-1]))
    with pytest.raises(Malformed):
        LEDGER.chain.check(rewired(signatures=[both[0], both[0]]))
    strangers = [(bytes([n]) * 32, both[0][1]) for n in range(TRANSACTION_SIGNATURES + 1)]
    with pytest.raises(Malformed):
        LEDGER.chain.check(rewired(signatures=strangers))


GOOD = [
    raw(PAY),
    raw(Preorder(name_commitment("acme", SALT, ALICE.public)), PAY),
    raw(Register("thermo.acme", SALT, bytes(32), (BOB.public,))),
    raw(OpenLane(1, BOB.public, (1, 12), 5, 5), signers=(ALICE, BOB)),
]


@given(st.one_of(st.binary(max_size=400), st.sampled_from(GOOD)), st.data())
def test_whatever_the_bytes_check_raises_nothing_but_a_peer_fault(payload: bytes, data: st.DataObject) -> None:
    mutant = bytearray(payload)
    for _ in range(data.draw(st.integers(0, 4))):
        if mutant:
            place = data.draw(st.integers(0, len(mutant) - 1))
            mutant[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    if bytes(mutant) in GOOD:
        assert LEDGER.chain.check(bytes(mutant)) in (1, 2)
    else:
        with pytest.raises(PeerFault) as refusal:
            LEDGER.chain.check(bytes(mutant))
        assert refusal.value.code != "invalid", "a fault has its own reason"


@given(st.recursive(st.none() | st.integers(-(2**63), 2**64 - 1) | st.text() | st.binary(), st.lists))
def test_any_msgpack_in_place_of_a_body_is_a_peer_fault(value: object) -> None:
    with pytest.raises(PeerFault):
        LEDGER.chain.check(rewired(msgspec.msgpack.encode(value)))
    with pytest.raises(PeerFault):
        LEDGER.chain.check(msgspec.msgpack.encode(value))


def test_checks_in_several_threads_agree() -> None:
    ledger = Ledger()
    good = [ledger.sign(ALICE, PAY, sequence=n) for n in range(40)]
    bad = [payload[:-1] + bytes([payload[-1] ^ 1]) for payload in good]

    def verdict(payload: bytes) -> bool:
        try:
            return ledger.chain.check(payload) == 1
        except BadSignature:
            return False

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(verdict, (good + bad) * 5)) == ([True] * 40 + [False] * 40) * 5


def test_the_memory_of_checked_transactions_is_bounded_by_number_and_by_bytes() -> None:
    transactions = [parse_transaction(raw(PAY, sequence=n)) for n in range(50)]
    size = len(transactions[0].raw)
    for memory in (ParsedTransactions(transactions=10), ParsedTransactions(raw_bytes=10 * size)):
        for transaction in transactions:
            memory.add(transaction)
            assert memory.get(transaction.raw) is transaction
        kept = [transaction for transaction in transactions if memory.get(transaction.raw)]
        assert 10 <= len(kept) <= 20
        assert kept == transactions[-len(kept) :]
