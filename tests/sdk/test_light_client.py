"""The light client against every forgery we know: a value counts only if a quorum vouches for it, freshly."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blockcloud.primitives import codec
from blockcloud.primitives.certificates import Certificate
from blockcloud.primitives.errors import (
    BadCertificate,
    BadProof,
    BadSignature,
    Malformed,
    NonCanonical,
    Oversized,
    PeerFault,
    WrongChain,
)
from blockcloud.primitives.hashes import ZERO_DIGEST
from blockcloud.primitives.keys import SigningKey
from blockcloud.sdk.errors import (
    ConflictingCertificates,
    ProofFromFuture,
    Rollback,
    StaleProof,
    UnknownEra,
    WrongStateKey,
)
from blockcloud.sdk.light_client import PROVEN_BYTES, LightClient
from blockcloud.service_chain.operations import Transfer
from blockcloud.service_chain.proven import ProvenValue
from blockcloud.service_chain.records import Account
from blockcloud.service_chain.state_keys import account_key
from blockcloud.service_chain.transaction import TransactionBody, sign_transaction
from tests.sdk.sdk_world import OTHER, OWNER, START_MS, VALIDATORS, Ledger, certify

KEY = account_key(OTHER.public)
ABSENT = account_key(bytes(32))
NOW_MS = START_MS + 30_000


def transfer(ledger: Ledger, sequence: int, amount: int) -> bytes:
    body = TransactionBody(ledger.chain_id, OWNER.public, 0, sequence, 10**6, 10**6, (Transfer(OTHER.public, amount),))
    return sign_transaction(body, OWNER)


def make_ledger() -> Ledger:
    """Three commits, ten seconds apart; the account under KEY grows in each."""
    ledger = Ledger()
    for number in range(3):
        ledger.commit(transfer(ledger, number, 1_000_000), time_ms=START_MS + 10_000 * (number + 1))
    return ledger


LEDGER = make_ledger()
PROVEN = LEDGER.proven(KEY)


def client() -> LightClient:
    return LightClient(LEDGER.genesis)


def accept(proven: ProvenValue, key: bytes = KEY, **how: int) -> object:
    return client().accept(codec.encode(proven), key, how.get("now_ms", NOW_MS), how.get("max_age_s", 60))


def changed(**fields: object) -> ProvenValue:
    return msgspec.structs.replace(PROVEN, **fields)


def test_an_honest_answer_is_accepted_with_its_height_and_time() -> None:
    light = client()
    found = light.accept(codec.encode(PROVEN), KEY, NOW_MS)
    assert (found.height, found.time_ms) == (3, START_MS + 30_000)
    assert found.value is not None
    assert codec.decode(found.value, Account, limit=100).balance == 8_000_000
    assert light.height == 3


def test_absence_is_proven_too() -> None:
    absent = LEDGER.proven(ABSENT)
    assert client().accept(codec.encode(absent), ABSENT, NOW_MS).value is None


def test_a_value_cannot_be_denied_or_invented() -> None:
    richer = codec.encode(Account(10**12))
    for forged in (changed(value=richer), changed(value=b""), changed(value=PROVEN.value + b"\x00")):
        with pytest.raises(BadProof):
            accept(forged)
    with pytest.raises(BadProof):
        accept(msgspec.structs.replace(LEDGER.proven(ABSENT), value=richer), ABSENT)
    with pytest.raises(BadProof):
        accept(changed(proof=LEDGER.proven(ABSENT).proof))
    with pytest.raises(BadProof):
        accept(changed(proof=b""))


def test_the_proof_of_another_key_or_height_does_not_count() -> None:
    with pytest.raises(WrongStateKey):
        accept(LEDGER.proven(ABSENT))
    with pytest.raises(BadProof):
        accept(changed(key=ABSENT), ABSENT)
    old = LEDGER.proven(KEY, 2)
    with pytest.raises(BadProof):
        accept(changed(value=old.value, proof=old.proof))
    with pytest.raises(BadProof):
        accept(changed(commit=old.commit))


@pytest.mark.parametrize("signers", [[], VALIDATORS[:1], VALIDATORS[:2]])
def test_less_than_a_quorum_is_not_enough(signers: list[SigningKey]) -> None:
    accept(changed(certificate=LEDGER.certificate(3, signers=VALIDATORS[1:])))
    statement = LEDGER.certificate(3).statement
    with pytest.raises(BadCertificate):
        accept(changed(certificate=certify(statement, signers)))


def test_a_signer_counts_once_and_strangers_do_not_count() -> None:
    certificate = LEDGER.certificate(3)
    first, second, third, _ = certificate.signatures
    statement = certificate.statement
    stranger = certify(statement, [SigningKey(b"s" * 32)]).signatures[0]
    for signatures in (
        (first, first, second),
        (first, first, first, first),
        (second, first, third),
        tuple(sorted((first, second, stranger))),
        tuple(sorted((first, second, third, stranger))),
    ):
        with pytest.raises(BadCertificate):
            accept(changed(certificate=Certificate(statement, signatures)))


def test_every_signature_must_hold() -> None:
    certificate = LEDGER.certificate(3)
    signatures = list(certificate.signatures)
    signatures[3] = (signatures[3][0], signatures[2][1])
    with pytest.raises(BadSignature):
        accept(changed(certificate=Certificate(certificate.statement, tuple(signatures))))
    moved = msgspec.structs.replace(certificate.statement, height=4)
    with pytest.raises(BadSignature):
        accept(changed(certificate=Certificate(moved, certificate.signatures)))


def test_a_certificate_of_another_chain_kind_or_era_does_not_count() -> None:
    other = Ledger(name="another")
    other.commit(time_ms=START_MS)
    with pytest.raises(WrongChain):
        accept(other.proven(KEY))
    with pytest.raises(WrongChain):
        accept(changed(certificate=LEDGER.certificate(3, chain_id=ZERO_DIGEST)))
    with pytest.raises(BadCertificate):
        accept(changed(certificate=LEDGER.certificate(3, kind="handover")))
    with pytest.raises(BadCertificate):
        accept(changed(certificate=LEDGER.certificate(3, digests=(ZERO_DIGEST,))))
    record = msgspec.structs.replace(LEDGER.commits[3], era=1)
    digests = (record.digest(), LEDGER.chain.root_at(3))
    with pytest.raises(UnknownEra):
        accept(changed(certificate=LEDGER.certificate(3, era=1, digests=digests), commit=codec.encode(record)))


def test_old_answers_are_refused() -> None:
    accept(PROVEN, now_ms=NOW_MS + 60_000)
    with pytest.raises(StaleProof):
        accept(PROVEN, now_ms=NOW_MS + 60_001)
    accept(LEDGER.proven(KEY, 1), now_ms=NOW_MS, max_age_s=20)
    with pytest.raises(StaleProof):
        accept(LEDGER.proven(KEY, 1), now_ms=NOW_MS, max_age_s=19)


def test_a_client_is_not_taken_back_in_time() -> None:
    """Also where its own clock stands still, so that nothing looks old."""
    light = client()
    light.accept(codec.encode(PROVEN), KEY, START_MS)
    assert light.accept(codec.encode(LEDGER.proven(KEY, 2)), KEY, START_MS, 10).height == 2
    with pytest.raises(Rollback):
        light.accept(codec.encode(LEDGER.proven(KEY, 1)), KEY, START_MS, 10)
    assert light.height == 3


def test_a_ledger_ahead_of_the_clock_is_refused_and_not_remembered() -> None:
    light = client()
    light.accept(codec.encode(PROVEN), KEY, START_MS)
    with pytest.raises(ProofFromFuture):
        client().accept(codec.encode(PROVEN), KEY, START_MS - 1)
    assert light.height == 3


def test_two_certified_histories_are_noticed() -> None:
    other = Ledger()
    for number in range(3):
        other.commit(time_ms=START_MS + 10_000 * (number + 1))
    light = client()
    light.accept(codec.encode(PROVEN), KEY, NOW_MS)
    with pytest.raises(ConflictingCertificates):
        light.accept(codec.encode(other.proven(KEY)), KEY, NOW_MS)
    assert light.evidence == (codec.encode(PROVEN.certificate), codec.encode(other.certificate(3)))
    with pytest.raises(ConflictingCertificates):
        light.accept(codec.encode(PROVEN), KEY, NOW_MS)  # nobody knows which history is the true one
    backwards = Ledger()
    for _ in range(4):
        backwards.commit(time_ms=START_MS + 5_000)
    light = client()
    light.accept(codec.encode(PROVEN), KEY, NOW_MS)
    with pytest.raises(ConflictingCertificates):
        light.accept(codec.encode(backwards.proven(KEY)), KEY, NOW_MS)


def test_bytes_that_are_no_proven_value_are_refused() -> None:
    data = codec.encode(PROVEN)
    for bad, error in (
        (b"", Malformed),
        (data[:-1], Malformed),
        (data + b"\x00", Malformed),
        (bytes(PROVEN_BYTES + 1), Oversized),
        (b"\xdc\x00\x05" + data[1:], NonCanonical),
    ):
        with pytest.raises(error):
            client().accept(bad, KEY, NOW_MS)


@given(st.binary(max_size=200))
def test_garbage_raises_a_peer_fault_only(data: bytes) -> None:
    with pytest.raises(PeerFault):
        client().accept(data, KEY, NOW_MS)


@settings(max_examples=200)
@given(st.integers(0, len(codec.encode(PROVEN)) * 8 - 1))
def test_no_bit_can_be_flipped(position: int) -> None:
    data = bytearray(codec.encode(PROVEN))
    data[position // 8] ^= 1 << position % 8
    with pytest.raises(PeerFault):
        client().accept(bytes(data), KEY, NOW_MS)
