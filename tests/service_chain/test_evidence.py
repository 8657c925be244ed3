"""Evidence: what is accepted once, what is refused, and what it costs whom."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from blockcloud.primitives import codec
from blockcloud.primitives.certificates import HANDOVER
from blockcloud.primitives.errors import BadSignature, Malformed, PeerFault
from blockcloud.primitives.keys import SigningKey
from blockcloud.service_chain.operations import Operation, Ready, ReportEquivocation, Unbond, Unjail, Withdraw
from blockcloud.service_chain.receipts import Receipt
from tests.service_chain.era_world import (
    BOND,
    NODES,
    EraLedger,
    conflict,
    equivocation,
    era_key_of,
    signed_header,
)

LIAR, REPORTER = 2, 6
CHAIN = EraLedger().chain.chain_id


def receipt_of(ledger: EraLedger) -> Receipt:
    receipt = ledger.chain.receipt(ledger.results[-1].outcomes[0][0])
    assert receipt is not None
    return receipt


def balance(ledger: EraLedger, node: int) -> int:
    account = ledger.chain.account(NODES[node].public)
    assert account is not None
    return account.balance


@pytest.mark.parametrize(
    "evidence",
    [
        pytest.param(equivocation(CHAIN, 0, LIAR, 5, NODES[LIAR]), id="two blocks of a level"),
        pytest.param(conflict(CHAIN, 0, 7, NODES[LIAR]), id="two checkpoint statements"),
        pytest.param(conflict(CHAIN, 0, 20, NODES[LIAR], HANDOVER), id="two hand-over statements"),
        pytest.param(conflict(CHAIN, 0, 20, NODES[LIAR], HANDOVER, second={"height": 19}), id="two ends of an era"),
    ],
)
def test_a_proven_lie_is_slashed_once(evidence: Operation) -> None:
    ledger = EraLedger()
    before, burned = balance(ledger, REPORTER), ledger.chain.fees.burned
    assert ledger.do(REPORTER, evidence) == "ok"
    assert "slashed" in [kind for kind, _ in ledger.results[-1].events]
    fee, slashed = receipt_of(ledger).fee, BOND * 5 // 100
    candidate = ledger.candidate(LIAR)
    assert (candidate.bond, candidate.offences, candidate.jailed_era) == (BOND - slashed, 1, 0)
    assert balance(ledger, REPORTER) == before - fee + slashed * 5 // 100
    assert ledger.chain.fees.burned == burned + slashed - slashed * 5 // 100 + fee - fee // 2
    assert ledger.do(REPORTER, evidence) == "offence_known"
    assert ledger.candidate(LIAR) == candidate
    assert ledger.money() == ledger.chain.fees.supply


def test_the_same_offence_in_other_words_counts_once_and_another_one_takes_all() -> None:
    ledger = EraLedger()
    assert ledger.do(LIAR, Unbond(BOND // 3)) == "ok"
    assert ledger.do(REPORTER, equivocation(CHAIN, 0, LIAR, 5, NODES[LIAR])) == "ok"
    # All that is at stake counts; the bond goes first.
    assert ledger.candidate(LIAR).bond == BOND - BOND // 3 - BOND * 5 // 100
    assert ledger.do(0, equivocation(CHAIN, 0, LIAR, 5, NODES[LIAR], variant=7)) == "offence_known"
    assert ledger.do(0, conflict(CHAIN, 0, 5, NODES[LIAR])) == "ok"
    assert ledger.candidate(LIAR).at_stake == 0
    assert ledger.candidate(LIAR).offences == 2
    assert ledger.do(0, equivocation(CHAIN, 0, LIAR, 6, NODES[LIAR])) == "nothing_to_slash"
    assert ledger.money() == ledger.chain.fees.supply


def test_two_liars_in_one_place_are_two_offences() -> None:
    ledger = EraLedger()
    for liar in (1, 2):
        assert ledger.do(0, equivocation(CHAIN, 0, liar, 5, NODES[liar]), conflict(CHAIN, 0, 5, NODES[liar])) == "ok"
    assert [ledger.candidate(node).offences for node in range(4)] == [0, 2, 2, 0]


def test_an_era_is_handed_over_once() -> None:
    ledger = EraLedger()
    assert ledger.do(0, conflict(CHAIN, 0, 20, NODES[LIAR], HANDOVER)) == "ok"
    assert ledger.do(0, conflict(CHAIN, 0, 19, NODES[LIAR], HANDOVER)) == "offence_known"
    assert ledger.do(0, conflict(CHAIN, 0, 19, NODES[LIAR])) == "ok"
    assert ledger.candidate(LIAR).offences == 2


def test_reporting_oneself_does_not_pay() -> None:
    ledger = EraLedger()
    wealth = balance(ledger, LIAR) + ledger.candidate(LIAR).at_stake
    assert ledger.do(LIAR, equivocation(CHAIN, 0, LIAR, 5, NODES[LIAR])) == "ok"
    after = balance(ledger, LIAR) + ledger.candidate(LIAR).at_stake
    assert after == wealth - receipt_of(ledger).fee - BOND * 5 // 100 + BOND * 5 // 100 * 5 // 100
    assert after < wealth - BOND * 4 // 100


def test_a_liar_asks_back_in_in_a_later_era() -> None:
    ledger = EraLedger()
    assert ledger.bond(4, BOND) == "ok"
    ledger.ready(0, 1, 3, 4)
    assert ledger.do(0, equivocation(CHAIN, 0, LIAR, 5, NODES[LIAR])) == "ok"
    assert ledger.do(LIAR, Ready(1, era_key_of(LIAR, 1).public)) == "jailed"
    assert ledger.do(LIAR, Unjail()) == "jailed_in_this_era"
    ledger.end_era()
    assert sorted(ledger.members()) == [0, 1, 3, 4]
    assert ledger.do(LIAR, Unjail()) == "ok"
    assert ledger.do(LIAR, Unjail()) == "not_jailed"
    assert ledger.bond(LIAR, BOND) == "ok"
    ledger.ready(LIAR, 0, 1, 3)
    ledger.end_era()
    assert ledger.members()[0] == LIAR


def test_evidence_of_earlier_eras_counts_until_unbonding_ends() -> None:
    ledger = EraLedger()
    assert ledger.bond(4, BOND) == "ok"
    ledger.ready(0, 1, 2, 3)
    ledger.end_era()
    ledger.ready(0, 1, 3, 4)
    assert ledger.do(LIAR, Unbond(BOND)) == "ok"
    ledger.end_era()
    author = next(n for n, seat in enumerate(ledger.plans[1].seats) if seat.node_key == NODES[LIAR].public)
    key = era_key_of(LIAR, 1)
    ledger.end_era()
    assert ledger.plan.era == 3
    assert ledger.do(0, equivocation(CHAIN, 1, author, 5, NODES[LIAR])) == "not_of_the_accused"
    assert ledger.do(0, equivocation(CHAIN, 1, author, 5, key)) == "ok"
    assert ledger.candidate(LIAR).unbonding == ((4, BOND - BOND * 5 // 100),)
    ledger.end_era()
    # Whether or not it has withdrawn.
    assert ledger.do(0, conflict(CHAIN, 1, 25, key)) == "evidence_outdated"
    assert ledger.do(LIAR, Withdraw()) == "ok"
    # Its offence is remembered though it has nothing any more.
    assert ledger.candidate(LIAR).offences == 1
    assert ledger.do(0, conflict(CHAIN, 2, 45, era_key_of(LIAR, 2))) == "not_of_the_accused"
    assert ledger.do(0, conflict(CHAIN, 6, 101, key)) == "evidence_outdated"


STRANGER = SigningKey(bytes([7]) * 32)
TRUE_ONE, TRUE_TWO = (signed_header(CHAIN, 0, LIAR, 5, NODES[LIAR], variant) for variant in (0, 1))


@pytest.mark.parametrize(
    ("evidence", "fault"),
    [
        pytest.param(ReportEquivocation(TRUE_ONE, TRUE_ONE), Malformed, id="one block twice"),
        pytest.param(
            ReportEquivocation(TRUE_ONE, signed_header(CHAIN, 0, LIAR, 6, NODES[LIAR], 0)), Malformed, id="two levels"
        ),
        pytest.param(
            ReportEquivocation(TRUE_ONE, signed_header(CHAIN, 0, 1, 5, NODES[LIAR], 0)), Malformed, id="two authors"
        ),
        pytest.param(
            ReportEquivocation(TRUE_ONE, signed_header(CHAIN, 1, LIAR, 5, NODES[LIAR], 0)), Malformed, id="two eras"
        ),
        pytest.param(
            ReportEquivocation(TRUE_ONE, signed_header(bytes(32), 0, LIAR, 5, NODES[LIAR], 0)),
            Malformed,
            id="two chains",
        ),
        pytest.param(
            ReportEquivocation(TRUE_ONE, signed_header(CHAIN, 0, LIAR, 5, STRANGER, 1)), Malformed, id="two signers"
        ),
        pytest.param(
            ReportEquivocation(TRUE_ONE, replace(TRUE_TWO, signature=TRUE_ONE.signature)),
            BadSignature,
            id="the other block's signature",
        ),
        pytest.param(
            ReportEquivocation(replace(TRUE_ONE, signature=bytes(64)), TRUE_TWO), BadSignature, id="no signature"
        ),
        pytest.param(ReportEquivocation(TRUE_ONE, replace(TRUE_TWO, header=b"x")), Malformed, id="no header"),
        pytest.param(equivocation(CHAIN, 0, -1, 5, NODES[LIAR]), Malformed, id="a negative author"),
        pytest.param(equivocation(CHAIN, -1, 1, 5, NODES[LIAR]), Malformed, id="a negative era"),
        pytest.param(conflict(CHAIN, 0, 7, NODES[LIAR], "opinion"), Malformed, id="statements that may differ"),
        pytest.param(conflict(CHAIN, 0, 7, NODES[LIAR], second={"height": 8}), Malformed, id="two heights"),
        pytest.param(conflict(CHAIN, 0, 7, NODES[LIAR], second={"era": 1}), Malformed, id="two eras of statements"),
        pytest.param(conflict(CHAIN, 0, 7, NODES[LIAR], second={"kind": HANDOVER}), Malformed, id="two kinds"),
        pytest.param(conflict(CHAIN, -1, 7, NODES[LIAR]), Malformed, id="a negative era of statements"),
        pytest.param(
            conflict(CHAIN, 0, 7, NODES[LIAR], second={"digests": (bytes([1]) * 32, bytes(32))}),
            Malformed,
            id="one statement",
        ),
    ],
)
def test_what_proves_nothing_is_no_valid_transaction(evidence: Operation, fault: type[PeerFault]) -> None:
    ledger = EraLedger()
    with pytest.raises(fault):
        ledger.chain.check(ledger.sign(NODES[REPORTER], evidence))


def test_a_forged_statement_is_no_valid_transaction() -> None:
    ledger, true = EraLedger(), conflict(CHAIN, 0, 7, NODES[LIAR])
    for forged in (
        replace(true, first=replace(true.first, signature=true.second.signature)),
        replace(true, second=replace(true.second, signature=bytes(64))),
        replace(true, first=replace(true.first, signer=STRANGER.public)),
    ):
        with pytest.raises(PeerFault):
            ledger.chain.check(ledger.sign(NODES[REPORTER], forged))


@pytest.mark.parametrize(
    ("evidence", "code"),
    [
        (equivocation(bytes(32), 0, LIAR, 5, NODES[LIAR]), "evidence_of_another_chain"),
        (conflict(bytes(32), 0, 5, NODES[LIAR]), "evidence_of_another_chain"),
        (equivocation(CHAIN, 0, LIAR, 5, STRANGER), "not_of_the_accused"),
        (equivocation(CHAIN, 0, 3, 5, NODES[LIAR]), "not_of_the_accused"),
        (equivocation(CHAIN, 0, 4, 5, NODES[4]), "not_of_the_accused"),
        (equivocation(CHAIN, 0, 2**63, 5, NODES[4]), "not_of_the_accused"),
        (conflict(CHAIN, 0, 5, STRANGER), "not_of_the_accused"),
        (equivocation(CHAIN, 1, LIAR, 5, NODES[LIAR]), "evidence_outdated"),
        (conflict(CHAIN, 1, 25, NODES[LIAR]), "evidence_outdated"),
    ],
)
def test_evidence_against_nobody_is_refused(evidence: Operation, code: str) -> None:
    ledger = EraLedger()
    payload = ledger.sign(NODES[REPORTER], evidence)
    ledger.chain.check(payload)
    assert ledger.commit(payload) == [code]
    assert all(ledger.candidate(node).offences == 0 for node in range(4))


@given(st.integers(0, 10_000), st.integers(0, 7), st.sampled_from(["first", "second"]))
@settings(max_examples=150, deadline=None)
def test_no_bit_of_evidence_can_be_changed(position: int, bit: int, which: str) -> None:
    raw = bytearray(codec.encode(getattr(TRUE_EVIDENCE, which)))
    raw[position % len(raw)] ^= 1 << bit
    try:
        changed = codec.decode(bytes(raw), type(TRUE_ONE), limit=10_000)
    except PeerFault:
        return
    ledger = LEDGER
    with pytest.raises(PeerFault):
        ledger.chain.check(ledger.sign(NODES[REPORTER], replace(TRUE_EVIDENCE, **{which: changed})))


TRUE_EVIDENCE, LEDGER = ReportEquivocation(TRUE_ONE, TRUE_TWO), EraLedger()
