"""Who may act, who pays, and that a transaction does all or nothing: one case for each reason to refuse."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blockcloud.primitives.storage import Batch
from blockcloud.service_chain.genesis import FeeParameters, Genesis
from blockcloud.service_chain.machine import OutOfOrder, ServiceChain, WrongGenesis
from blockcloud.service_chain.operations import (
    DELEGABLE_TAGS,
    TAGS,
    AnnounceEndpoint,
    CloseLane,
    OpenLane,
    Operation,
    Preorder,
    Transfer,
    name_commitment,
)
from blockcloud.service_chain.state import VersionedState
from blockcloud.service_chain.state_keys import FEES_KEY, TALLY_KEY, account_key, lane_key
from blockcloud.service_chain.transaction import parse_transaction
from blockcloud.transaction_chain.commit import Commit
from tests.service_chain.ledger_in_memory import NAMING, RICH, SALT, USERS, VALIDATORS, Ledger, small_genesis

ALICE, BOB, CAROL, DEVICE = USERS[1], USERS[2], USERS[3], USERS[4]
NEW = bytes([9]) * 32
PAY = Transfer(BOB.public, 5)


def balance(ledger: Ledger, key: bytes) -> int:
    account = ledger.chain.account(key)
    return account.balance if account else 0


def test_a_transfer_moves_money_charges_its_fee_and_leaves_a_receipt() -> None:
    ledger = Ledger()
    payload = ledger.sign(ALICE, PAY)
    assert ledger.commit(payload) == ["ok"]
    transaction = parse_transaction(payload)
    receipt = ledger.chain.receipt(transaction.id)
    assert receipt is not None
    assert (receipt.height, receipt.index, receipt.code) == (1, 0, "ok")
    assert receipt.fee == 10 * transaction.weight
    assert balance(ledger, ALICE.public) == RICH - 5 - receipt.fee
    assert balance(ledger, BOB.public) == RICH + 5
    assert ledger.sequence(ALICE) == 1
    fees = ledger.chain.fees
    assert (fees.era_pot, fees.burned) == (receipt.fee // 2, receipt.fee - receipt.fee // 2)


def test_a_transfer_touches_two_accounts_fees_and_tally() -> None:
    ledger = Ledger()
    before = ledger.state()
    ledger.run(ALICE, PAY)
    after = ledger.state()
    changed = {key for key in after if after[key] != before.get(key)}
    assert changed == {account_key(ALICE.public), account_key(BOB.public), FEES_KEY, TALLY_KEY}


def test_paying_oneself_changes_nothing_but_the_fee() -> None:
    ledger = Ledger()
    assert ledger.run(ALICE, Transfer(ALICE.public, RICH // 2)) == "ok"
    fees = ledger.chain.fees
    assert balance(ledger, ALICE.public) == RICH - fees.burned - fees.era_pot


VOID: dict[str, tuple[dict[str, Any], str]] = {
    "signed by another": ({"signers": (BOB,)}, "wrong_signer"),
    "signed by another as well": ({"signers": (ALICE, BOB)}, "wrong_signer"),
    "future sequence": ({"sequence": 4}, "future_sequence"),
    "stale sequence": ({"sequence": 2, "fee_limit": 5_000}, "stale_sequence"),
    "expired": ({"valid_until": 3}, "expired"),
    "fee limit below the fee": ({"fee_limit": 12}, "fee_limit_too_low"),
    "no such lane": ({"lane": 8}, "unknown_lane"),
}


@pytest.mark.parametrize("case", VOID)
def test_a_void_transaction_leaves_no_trace(case: str) -> None:
    changes, code = VOID[case]
    ledger = Ledger()
    for _ in range(3):
        ledger.run(ALICE, PAY)
    before, payload = ledger.state(), ledger.sign(ALICE, PAY, **{"sequence": 3, **changes})
    ledger.chain.check(payload)
    assert ledger.commit(payload) == [code]
    after = ledger.state()
    by_itself = {FEES_KEY: b"", TALLY_KEY: b""}  # the base fee and the rewards move by themselves
    assert {**after, **by_itself} == {**before, **by_itself}
    assert ledger.chain.receipt(parse_transaction(payload).id) is None


def test_valid_until_and_fee_limit_are_inclusive() -> None:
    ledger = Ledger()
    weight = parse_transaction(ledger.sign(ALICE, PAY, fee_limit=130, valid_until=1)).weight
    assert weight == 13
    assert ledger.run(ALICE, PAY, fee_limit=130, valid_until=1) == "ok"


def test_who_cannot_pay_the_fee_gets_nothing_done() -> None:
    ledger = Ledger()
    poor = USERS[7]
    assert ledger.run(poor, Transfer(NEW, RICH - 200)) == "ok"
    assert ledger.run(poor, Transfer(NEW, 1)) == "fee_not_payable"
    stranger = type(ALICE)(bytes([77]) * 32)
    assert ledger.run(stranger, PAY) == "fee_not_payable"
    assert ledger.chain.account(stranger.public) is None


def test_a_failure_pays_the_fee_moves_the_sequence_on_and_leaves_a_receipt() -> None:
    ledger = Ledger()
    payload = ledger.sign(ALICE, PAY, Transfer(CAROL.public, RICH))
    assert ledger.commit(payload) == ["insufficient_balance"]
    receipt = ledger.chain.receipt(parse_transaction(payload).id)
    assert receipt is not None
    assert receipt.code == "insufficient_balance"
    assert balance(ledger, ALICE.public) == RICH - receipt.fee
    assert balance(ledger, BOB.public) == balance(ledger, CAROL.public) == RICH
    assert ledger.sequence(ALICE) == 1


def test_the_first_transfer_to_a_new_account_is_at_least_the_deposit() -> None:
    ledger = Ledger()
    assert ledger.run(ALICE, Transfer(NEW, 9_999)) == "below_new_key_deposit"
    assert ledger.chain.account(NEW) is None
    assert ledger.run(ALICE, Transfer(NEW, 10_000)) == "ok"
    assert ledger.run(ALICE, Transfer(NEW, 1)) == "ok"


def test_the_same_transaction_again_is_a_duplicate_and_does_nothing() -> None:
    ledger = Ledger()
    payload = ledger.sign(ALICE, PAY)
    assert ledger.commit(payload, ledger.sign(BOB, Transfer(ALICE.public, 1)), payload, blocks=2) == [
        "ok",
        "ok",
        "duplicate",
    ]
    assert ledger.commit(payload) == ["duplicate"]
    ledger.restart()
    assert ledger.commit(payload) == ["duplicate"]
    receipt = ledger.chain.receipt(parse_transaction(payload).id)
    assert receipt is not None
    assert (receipt.height, receipt.code) == (1, "ok")
    assert ledger.commit(ledger.sign(ALICE, Transfer(CAROL.public, 1), sequence=0)) == ["stale_sequence"]


def test_transactions_of_one_lane_run_in_the_order_of_their_sequences() -> None:
    ledger = Ledger()
    payloads = [ledger.sign(ALICE, PAY, sequence=n) for n in range(4)]
    assert ledger.commit(payloads[0], payloads[2], payloads[1], blocks=2) == ["ok", "future_sequence", "ok"]
    assert ledger.commit(payloads[3], payloads[2], payloads[3]) == ["future_sequence", "ok", "ok"]


def open_lane(ledger: Ledger, lane: int = 1, cap: int = 1_000_000, **changes: Any) -> str:
    fields = {"allowed": (TAGS[Transfer],), "expires_height": 20, **changes}
    return ledger.run(ALICE, OpenLane(lane, DEVICE.public, fields["allowed"], cap, fields["expires_height"]))


def use_lane(ledger: Ledger, *operations: Operation, sequence: int = 0, lane: int = 1) -> str:
    return ledger.run(ALICE, *operations, lane=lane, sequence=sequence, signers=(DEVICE,))


def test_a_lane_acts_for_its_owner_under_its_own_key_and_sequence() -> None:
    ledger = Ledger()
    assert open_lane(ledger) == "ok"
    assert use_lane(ledger, PAY) == "ok"
    assert use_lane(ledger, PAY, sequence=0) == "duplicate"
    assert use_lane(ledger, PAY, PAY, sequence=0) == "stale_sequence"
    assert use_lane(ledger, PAY, sequence=2) == "future_sequence"
    assert use_lane(ledger, PAY, sequence=1) == "ok"
    assert ledger.sequence(ALICE) == 1
    assert ledger.run(ALICE, PAY, lane=1, sequence=2) == "wrong_signer"
    assert ledger.run(ALICE, PAY, signers=(DEVICE,)) == "wrong_signer"


def test_a_lane_carries_only_what_it_is_allowed() -> None:
    ledger = Ledger()
    open_lane(ledger)
    preorder = Preorder(name_commitment("acme", SALT, ALICE.public))
    assert use_lane(ledger, PAY, preorder) == "operation_not_allowed"
    assert use_lane(ledger, CloseLane(1)) == "operation_not_allowed"
    assert open_lane(ledger, 2, allowed=DELEGABLE_TAGS) == "ok"
    assert use_lane(ledger, preorder, lane=2) == "ok"
    assert use_lane(ledger, OpenLane(3, DEVICE.public, (1,), 1, 20), lane=2, sequence=1) == "operation_not_allowed"


def test_a_lane_ends_at_its_height() -> None:
    ledger = Ledger()
    open_lane(ledger, expires_height=3)
    ledger.advance(1)
    assert use_lane(ledger, PAY) == "ok"
    assert ledger.height == 3
    assert use_lane(ledger, PAY, sequence=1) == "lane_expired"
    assert open_lane(ledger, 2, expires_height=ledger.height) == "lane_already_over"


def test_a_lane_spends_no_more_than_its_cap_fees_included() -> None:
    ledger = Ledger()
    open_lane(ledger, cap=1_000)
    fee = ledger.chain.base_fee * parse_transaction(ledger.sign(ALICE, PAY, lane=1, signers=(DEVICE,))).weight
    before = balance(ledger, ALICE.public)
    assert use_lane(ledger, Transfer(BOB.public, 1_001 - fee)) == "spending_cap_exceeded"
    assert balance(ledger, ALICE.public) == before - fee
    next_fee = ledger.chain.base_fee * (fee // 9 if ledger.chain.base_fee == 8 else 13)
    left = 1_000 - fee - next_fee
    assert use_lane(ledger, Transfer(BOB.public, left), sequence=1) == "ok"
    assert balance(ledger, ALICE.public) == before - 1_000
    assert use_lane(ledger, PAY, sequence=2) == "fee_not_payable"


def test_what_comes_back_to_the_sender_is_not_spent() -> None:
    ledger = Ledger()
    open_lane(ledger, cap=1_000)
    assert use_lane(ledger, Transfer(ALICE.public, RICH // 2)) == "ok"


def test_closing_a_lane_returns_the_deposit_and_its_number_is_gone_for_ever() -> None:
    ledger = Ledger()
    open_lane(ledger, lane=3)
    payload = ledger.sign(ALICE, PAY, lane=3, sequence=0, signers=(DEVICE,))
    before = balance(ledger, ALICE.public)
    assert ledger.run(ALICE, CloseLane(3)) == "ok"
    receipt = ledger.results[-1].outcomes[0][0]
    paid = ledger.chain.receipt(receipt)
    assert paid is not None
    assert balance(ledger, ALICE.public) == before + 10_000 - paid.fee
    assert ledger.chain.get(lane_key(ALICE.public, 3)) is None
    assert ledger.commit(payload) == ["unknown_lane"]
    assert ledger.run(ALICE, CloseLane(3)) == "lane_not_open"
    assert open_lane(ledger, lane=3) == "lane_number_used"
    assert open_lane(ledger, lane=2) == "lane_number_used"
    assert open_lane(ledger, lane=4) == "ok"


def test_only_validators_announce_an_endpoint() -> None:
    ledger = Ledger()
    assert ledger.run(ALICE, AnnounceEndpoint("http://127.0.0.1:1")) == "not_a_candidate"
    assert ledger.run(VALIDATORS[1], AnnounceEndpoint("https://api.example:9")) == "ok"
    candidate = ledger.chain.candidate(VALIDATORS[1].public)
    assert candidate is not None
    assert (candidate.api_url, candidate.link_address) == ("https://api.example:9", "127.0.0.1:8702")
    assert ledger.run(VALIDATORS[1], AnnounceEndpoint("https://api.example:9", "127.0.0.1:1")) == "ok"
    candidate = ledger.chain.candidate(VALIDATORS[1].public)
    assert candidate is not None
    assert candidate.link_address == "127.0.0.1:1"


@given(st.lists(st.integers(0, 3), max_size=5), st.integers(0, 3))
@settings(max_examples=30)
def test_a_failing_operation_undoes_all_of_its_transaction(kinds: list[int], failing: int) -> None:
    ledger = Ledger()
    choices: list[Operation] = [
        PAY,
        Transfer(NEW, 20_000),
        OpenLane(1, DEVICE.public, (1,), 5, 50),
        Preorder(name_commitment("acme", SALT, ALICE.public)),
    ]
    good = [choices[kind] for kind in dict.fromkeys(kinds)]
    bad: list[Operation] = [Transfer(BOB.public, RICH), CloseLane(9), choices[3], Transfer(bytes(32), 1)]
    operations = [*good, bad[failing], *([choices[3]] if failing == 2 else [])]
    before = ledger.state()
    payload = ledger.sign(ALICE, *operations)
    (code,) = ledger.commit(payload)
    assert code != "ok"
    after = ledger.state()
    changed = {key for key in after if after[key] != before.get(key)}
    assert changed == {account_key(ALICE.public), FEES_KEY, TALLY_KEY}
    assert balance(ledger, ALICE.public) == RICH - 10 * parse_transaction(payload).weight


def test_an_idle_chain_at_the_floor_of_its_fee_writes_rewards_and_nothing_else() -> None:
    ledger = Ledger(small_genesis(NAMING, FeeParameters(base_fee=1)))
    results = [ledger.execute() for _ in range(9)]
    written = VersionedState(ledger.store)
    # Emission begins when the commit time has passed the genesis time: at height 11 here.
    assert [written.changes_at(height) for height in range(1, 10)] == [[TALLY_KEY]] * 9
    assert all(result.state_root for result in results if result.height % 4 == 0)
    assert [result.state_root for result in results if result.height % 4] == [None] * 7


def test_the_base_fee_of_an_idle_chain_falls_to_its_floor_and_stays() -> None:
    ledger = Ledger()
    ledger.advance(30)
    assert ledger.chain.base_fee == 1


def test_commits_come_one_after_another() -> None:
    ledger = Ledger()
    ledger.execute()
    with pytest.raises(OutOfOrder):
        ledger.chain.execute(Commit(ledger.record, ledger.record.digest(), ()), Batch())


def test_checkpoints_are_made_in_their_period_and_proved() -> None:
    ledger = Ledger()
    assert ledger.chain.checkpoint is not None
    assert ledger.chain.checkpoint[0] == 0
    ledger.run(ALICE, PAY)
    ledger.advance(4)
    assert ledger.chain.checkpoint == (4, ledger.results[3].height and _digest_of(ledger, 4), ledger.chain.root_at(4))
    assert ledger.chain.prove(account_key(ALICE.public), 4)


def _digest_of(ledger: Ledger, height: int) -> bytes:
    """The digest of the commit at `height`, from the one that follows it."""
    assert ledger.record.height == height + 1
    return ledger.record.previous


def test_a_store_of_another_chain_is_refused() -> None:
    ledger = Ledger()
    other = Genesis(**{**{f: getattr(ledger.genesis, f) for f in ledger.genesis.__struct_fields__}, "name": "other"})
    with pytest.raises(WrongGenesis):
        ServiceChain(other, ledger.store)
