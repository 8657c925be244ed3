"""The light client and the past: what a certificate of long ago still proves, and what it must not."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockcloud.primitives import codec
from blockcloud.primitives.errors import BadCertificate, BelowQuorum, BlockCloudError
from blockcloud.sdk.errors import (
    ConflictingCertificates,
    ConflictingHandovers,
    ForgottenEra,
    ProofFromFuture,
    StaleProof,
    TrustExpired,
    UnknownEra,
    WrongHeight,
    WrongStateKey,
)
from blockcloud.sdk.light_client import ERAS_KEPT, LightClient
from blockcloud.service_chain.handover import WrongEra
from blockcloud.service_chain.proven import ProvenValue
from blockcloud.service_chain.state_keys import account_key
from tests.sdk.sdk_world import OTHER, START_MS, VALIDATORS, Ledger, certify

KEY, ABSENT = account_key(OTHER.public), account_key(bytes(32))
COMMIT_MS = 10_000
NOW_MS = START_MS + 100 * COMMIT_MS
ERAS, COMMITS = 5, 2


def make_ledger() -> Ledger:
    """Era e has the heights 2e+1 and 2e+2; the commit at height h is of START + 10 h s."""
    ledger = Ledger()
    for era in range(ERAS + 1):
        for _ in range(COMMITS):
            ledger.commit(time_ms=START_MS + (ledger.chain.height + 1) * COMMIT_MS)
        if era < ERAS:
            ledger.hand_over()
    return ledger


LEDGER = make_ledger()
TOP = LEDGER.chain.height
PLANS = {one.plan.era: one.plan for one in LEDGER.handovers}


def client(eras: int = ERAS, **how: int) -> LightClient:
    light = LightClient(LEDGER.genesis, **how)
    for handover in LEDGER.handovers[:eras]:
        light.follow(codec.encode(handover), NOW_MS)
    return light


def at(height: int, key: bytes = KEY) -> bytes:
    return codec.encode(LEDGER.proven(key, height))


def by_handover(era: int, key: bytes = KEY) -> ProvenValue:
    """A value at the last height before `era`, certified by the hand-over only."""
    certificate = LEDGER.handovers[era - 1].certificate
    return msgspec.structs.replace(LEDGER.proven(key, certificate.statement.height), certificate=certificate)


@pytest.mark.parametrize("key", [KEY, ABSENT])
def test_a_value_of_the_past_is_proven_and_not_fresh(key: bytes) -> None:
    light = client()
    for height in range(2 * (ERAS + 1 - ERAS_KEPT) + 1, TOP + 1):
        found = light.accept_past(at(height, key), key, range(height, height + 1), NOW_MS)
        assert (found.value, found.height, found.fresh) == (LEDGER.chain.get(key, height), height, False)
        assert found.time_ms == START_MS + height * COMMIT_MS
    assert light.height == TOP, "the newest certificate is remembered"
    assert light.accept(at(TOP), KEY, START_MS + TOP * COMMIT_MS).fresh


def test_another_height_or_key_is_refused() -> None:
    light = client()
    for heights in (range(TOP - 2, TOP - 1), range(TOP), range(TOP + 1, 2**53)):
        with pytest.raises(WrongHeight):
            light.accept_past(at(TOP), KEY, heights, NOW_MS)
    with pytest.raises(WrongStateKey):
        light.accept_past(at(TOP), ABSENT, range(TOP, TOP + 1), NOW_MS)


@given(st.integers(0, 8 * len(at(TOP - 1)) - 1))
def test_a_flipped_bit_is_refused_and_accuses_nobody(bit: int) -> None:
    data = bytearray(at(TOP - 1))
    data[bit // 8] ^= 1 << bit % 8
    light = client()
    with pytest.raises(BlockCloudError):
        light.accept_past(bytes(data), KEY, range(TOP), NOW_MS)
    assert not light.evidence


def test_a_height_beyond_the_trusting_period_is_refused() -> None:
    light = client(trusting_period_s=100)
    now_ms = START_MS + TOP * COMMIT_MS
    assert light.accept(at(TOP), KEY, now_ms).fresh
    assert light.accept_past(at(TOP - 5), KEY, range(TOP), now_ms, PLANS).height == TOP - 5
    with pytest.raises(StaleProof):
        light.accept_past(at(TOP - 5), KEY, range(TOP), now_ms + 51_000, PLANS)
    with pytest.raises(TrustExpired):
        light.accept_past(at(TOP), KEY, range(TOP + 1), now_ms + 101_000)
    with pytest.raises(ProofFromFuture):
        client().accept_past(at(TOP), KEY, range(TOP + 1), now_ms - 31_000)


def test_of_a_forgotten_era_the_plan_that_is_proven_counts() -> None:
    light = client()
    for era in range(1, ERAS + 1 - ERAS_KEPT):
        height = 2 * era + 1
        for plans in ({}, {era: PLANS[era]}, {era + 1: PLANS[era + 1]}):
            with pytest.raises(ForgottenEra) as forgotten:
                light.accept_past(at(height), KEY, range(TOP), NOW_MS, plans)
            assert forgotten.value.era == era
        assert light.accept_past(at(height), KEY, range(TOP), NOW_MS, PLANS).height == height
        assert (
            light.accept_past(codec.encode(by_handover(era + 1)), KEY, range(TOP), NOW_MS, PLANS).height == height + 1
        )
    with pytest.raises(ForgottenEra):
        light.accept(at(3), KEY, NOW_MS)


def test_a_certificate_that_does_not_fit_into_its_era_is_refused() -> None:
    light, era = client(), 1
    moved = {era: PLANS[era], era + 1: msgspec.structs.replace(PLANS[era + 1], first_height=4)}
    with pytest.raises(WrongEra):
        light.accept_past(at(4), KEY, range(TOP), NOW_MS, moved)
    other = {era: PLANS[era], era + 1: msgspec.structs.replace(PLANS[era + 1], beacon=bytes(32))}
    with pytest.raises(WrongEra):
        light.accept_past(codec.encode(by_handover(era + 1)), KEY, range(TOP), NOW_MS, other)
    few = msgspec.structs.replace(LEDGER.proven(KEY, 3), certificate=LEDGER.certificate(3, signers=VALIDATORS[:2]))
    with pytest.raises(BelowQuorum):
        light.accept_past(codec.encode(few), KEY, range(TOP), NOW_MS, PLANS)


def test_the_end_of_an_era_is_proven_by_its_handover_once_that_is_followed() -> None:
    for era in range(ERAS + 1 - ERAS_KEPT + 1, ERAS + 1):
        data, height = codec.encode(by_handover(era)), 2 * era
        with pytest.raises(UnknownEra) as lacking:
            client(era - 1).accept_past(data, KEY, range(TOP), NOW_MS)
        assert lacking.value.era == era
        light = client()
        assert light.accept_past(data, KEY, range(TOP), NOW_MS).height == height
        with pytest.raises(BadCertificate):
            light.accept(data, KEY, START_MS + height * COMMIT_MS)


def test_two_histories_of_the_past_are_kept_as_evidence() -> None:
    end = 2 * (ERAS - 1)
    proven = by_handover(ERAS - 1)
    statement = msgspec.structs.replace(
        proven.certificate.statement, digests=(*proven.certificate.statement.digests[:2], bytes(32))
    )
    light = client()
    data = codec.encode(msgspec.structs.replace(proven, certificate=certify(statement, VALIDATORS)))
    with pytest.raises(ConflictingHandovers):
        light.accept_past(data, KEY, range(end, end + 1), NOW_MS)
    assert light.evidence
    with pytest.raises(ConflictingCertificates):
        light.accept(at(TOP), KEY, START_MS + TOP * COMMIT_MS)
