"""The life of names: every status with every operation, who may register below whom, and front-runners."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockcloud.primitives.limits import INSTANCE_KEYS
from blockcloud.service_chain.names import TRANSITIONS, NameStatus, status_of
from blockcloud.service_chain.operations import (
    AddInstance,
    Delegate,
    Delegation,
    Operation,
    Preorder,
    Register,
    RemoveInstance,
    RenewName,
    RevokeName,
    TransferName,
    UpdateName,
    name_commitment,
)
from blockcloud.service_chain.records import REGISTERED, REVOKED, NameRecord
from tests.service_chain.ledger_in_memory import NAMING, RICH, SALT, USERS, Ledger

ALICE, BOB, MALLORY = USERS[1], USERS[2], USERS[3]
FILE, OTHER_FILE = bytes([1]) * 32, bytes([2]) * 32
KEY, OTHER_KEY = USERS[4].public, USERS[5].public
NAME = "thermo"

CHANGES: dict[type, Operation] = {
    UpdateName: UpdateName(NAME, OTHER_FILE),
    AddInstance: AddInstance(NAME, OTHER_KEY),
    RemoveInstance: RemoveInstance(NAME, KEY),
    TransferName: TransferName(NAME, BOB.public),
    RenewName: RenewName(NAME),
    RevokeName: RevokeName(NAME),
    Register: Register(NAME, SALT, OTHER_FILE, ()),
    Delegate: Delegate(NAME, (Delegation("door", BOB.public, b"", ()),)),
}


def ledger_with_name(status: NameStatus) -> Ledger:
    """A ledger on which NAME, once Alice's, has `status` in the next commit, and Alice's preorder for it is ripe."""
    ledger = Ledger()
    preorder = Preorder(name_commitment(NAME, SALT, ALICE.public))
    ready_at = NAMING.preorder_min + 1  # the height at which a name preordered at height 1 is registered
    if status is not NameStatus.FREE:
        assert ledger.register(ALICE, NAME, FILE, (KEY,)) == "ok"
        assert ledger.height == ready_at
    if status is NameStatus.REVOKED:
        assert ledger.run(ALICE, RevokeName(NAME)) == "ok"
    wait = {NameStatus.GRACE: NAMING.lifetime, NameStatus.EXPIRED: NAMING.lifetime + NAMING.grace}.get(status, 2)
    ledger.advance(max(0, wait - NAMING.preorder_min - 1))
    assert ledger.run(ALICE, preorder) == "ok"
    ledger.advance(NAMING.preorder_min - 1)
    return ledger


@pytest.mark.parametrize("status", NameStatus)
@pytest.mark.parametrize("kind", CHANGES)
def test_each_status_allows_what_the_table_says(status: NameStatus, kind: type) -> None:
    ledger = ledger_with_name(status)
    assert status_of(ledger.chain.name(NAME), ledger.height + 1) is status
    rejection = TRANSITIONS[status][kind]
    assert ledger.run(ALICE, CHANGES[kind]) == ("ok" if rejection is None else rejection.code)


def test_the_table_has_a_verdict_for_every_status_and_operation() -> None:
    for status in NameStatus:
        assert list(TRANSITIONS[status]) == list(TRANSITIONS[NameStatus.FREE])
    assert set(TRANSITIONS[NameStatus.FREE]) == set(CHANGES)
    # Only a name that nobody holds may be registered.
    assert [status for status in NameStatus if TRANSITIONS[status][Register] is None] == [
        NameStatus.FREE,
        NameStatus.EXPIRED,
        NameStatus.REVOKED,
    ]


@given(st.integers(0, 60), st.integers(1, 20), st.integers(0, 10), st.booleans())
def test_the_status_of_a_name_follows_its_height(height: int, lifetime: int, grace: int, revoked: bool) -> None:
    held = 10 + lifetime + grace
    record = NameRecord(NAME, KEY, b"", (), 10, 10 + lifetime, 10, REVOKED if revoked else REGISTERED, 0, 0, held)
    status = status_of(record, height)
    assert record.is_active(height) == (status is NameStatus.ACTIVE) == (not revoked and height < 10 + lifetime)
    assert record.is_held(height) == (status in (NameStatus.ACTIVE, NameStatus.GRACE))
    if not revoked:
        assert (status is NameStatus.EXPIRED) == (height >= 10 + lifetime + grace)


@pytest.mark.parametrize("kind", [kind for kind in CHANGES if kind is not Register])
def test_only_the_owner_changes_a_name(kind: type) -> None:
    ledger = ledger_with_name(NameStatus.ACTIVE)
    before = ledger.chain.name(NAME)
    assert ledger.run(MALLORY, CHANGES[kind]) == "not_name_owner"
    assert ledger.chain.name(NAME) == before


def test_a_name_changes_once_a_commit() -> None:
    ledger = ledger_with_name(NameStatus.ACTIVE)
    update, add = CHANGES[UpdateName], CHANGES[AddInstance]
    assert ledger.run(ALICE, update, add) == "name_changed_already"
    first = ledger.sequence(ALICE)
    codes = ledger.commit(ledger.sign(ALICE, update), ledger.sign(ALICE, add, sequence=first + 1))
    assert codes == ["ok", "name_changed_already"]
    assert ledger.run(ALICE, add) == "ok"


def test_registration_binds_keys_file_and_owner() -> None:
    ledger = Ledger()
    assert ledger.register(ALICE, NAME, FILE, (KEY,)) == "ok"
    record = ledger.chain.name(NAME)
    assert record is not None
    assert (record.owner, record.service_file_hash, record.instance_keys) == (ALICE.public, FILE, (KEY,))
    assert record.expires_height == ledger.height + NAMING.lifetime
    assert ledger.chain.instance_keys(NAME) == (KEY,)
    assert ledger.chain.is_announced(FILE)
    assert not ledger.chain.is_announced(OTHER_FILE)


def test_a_preorder_is_used_inside_its_window_once_and_by_its_author() -> None:
    ledger = Ledger()
    register = Register(NAME, SALT, b"", ())
    preorder = Preorder(name_commitment(NAME, SALT, ALICE.public))
    assert ledger.run(ALICE, register) == "preorder_missing"
    assert ledger.run(ALICE, preorder, register) == "preorder_too_young"
    assert ledger.run(ALICE, preorder) == "ok"
    assert ledger.run(ALICE, preorder) == "preorder_exists"
    assert ledger.run(ALICE, Register(NAME, bytes(32), b"", ())) == "preorder_missing"
    assert ledger.run(BOB, register) == "preorder_missing"
    ledger.advance(NAMING.preorder_max - 3)
    assert ledger.run(ALICE, register) == "preorder_too_old"
    assert ledger.run(ALICE, preorder) == "ok"
    assert ledger.run(ALICE, register) == "preorder_too_young"
    assert ledger.run(ALICE, register) == "ok"
    assert ledger.run(ALICE, RevokeName(NAME)) == "ok"
    assert ledger.run(ALICE, register) == "preorder_missing"


@given(st.integers(0, 5), st.booleans())
def test_a_front_runner_who_sees_the_registration_comes_too_late(delay: int, copies_commitment: bool) -> None:
    """Mallory sees all that is sent and gets in front of it in every commit, but cannot look into a commitment."""
    ledger = Ledger()
    seen = Preorder(name_commitment(NAME, SALT, ALICE.public))
    stolen = [ledger.sign(MALLORY, seen)] if copies_commitment else []
    assert ledger.commit(*stolen, ledger.sign(ALICE, seen))[-1] == "ok"
    ledger.advance(1 + delay % (NAMING.preorder_max - NAMING.preorder_min))
    # Now the name and the salt are out. She registers with them, then preorders by herself, all ahead of Alice.
    register = Register(NAME, SALT, b"", ())
    first = ledger.sequence(MALLORY)
    ahead = [
        ledger.sign(MALLORY, register),
        ledger.sign(MALLORY, Preorder(name_commitment(NAME, SALT, MALLORY.public)), register, sequence=first + 1),
        ledger.sign(MALLORY, Preorder(name_commitment(NAME, SALT, MALLORY.public)), sequence=first + 2),
    ]
    codes = ledger.commit(*ahead, ledger.sign(ALICE, register))
    assert codes == ["preorder_missing", "preorder_too_young", "ok", "ok"]
    ledger.advance(2)
    assert ledger.run(MALLORY, register) == "name_taken"
    record = ledger.chain.name(NAME)
    assert record is not None
    assert record.owner == ALICE.public


def test_of_two_who_preordered_the_first_to_register_gets_the_name() -> None:
    ledger = Ledger()
    for user in (ALICE, BOB):
        assert ledger.run(user, Preorder(name_commitment(NAME, SALT, user.public))) == "ok"
    ledger.advance(2)
    register = Register(NAME, SALT, b"", ())
    assert ledger.commit(ledger.sign(BOB, register), ledger.sign(ALICE, register)) == ["ok", "name_taken"]


def test_the_nearest_registered_name_above_decides_who_registers_below() -> None:
    ledger = Ledger()
    assert ledger.register(BOB, "old.acme") == "ok"  # nothing above is registered: anybody's
    assert ledger.register(ALICE, "acme") == "ok"
    assert ledger.register(BOB, "thermo.acme") == "not_parent_owner"
    assert ledger.register(BOB, "thermo.kitchen.acme") == "not_parent_owner"
    assert ledger.register(BOB, "more.old.acme") == "ok"  # Bob owns the nearest one
    assert ledger.run(ALICE, RevokeName("old.acme")) == "not_name_owner"


def test_names_below_belong_to_whoever_owns_the_parent_at_the_time() -> None:
    ledger = Ledger()
    assert ledger.register(ALICE, "acme") == "ok"
    assert ledger.register(ALICE, "thermo.acme") == "ok"
    assert ledger.run(ALICE, TransferName("acme", BOB.public)) == "ok"
    assert ledger.register(ALICE, "door.acme") == "not_parent_owner"
    assert ledger.register(BOB, "door.acme") == "ok"
    assert ledger.run(ALICE, RenewName("thermo.acme")) == "ok"


def test_a_name_has_no_more_labels_than_allowed() -> None:
    ledger = Ledger()
    assert ledger.register(ALICE, ".".join("abcdefgh")) == "ok"
    assert ledger.register(ALICE, ".".join("abcdefghi")) == "name_too_deep"


def test_a_transferred_name_loses_its_instance_keys() -> None:
    ledger = ledger_with_name(NameStatus.ACTIVE)
    assert ledger.run(ALICE, TransferName(NAME, BOB.public)) == "ok"
    record = ledger.chain.name(NAME)
    assert record is not None
    assert (record.owner, record.instance_keys, record.service_file_hash) == (BOB.public, (), FILE)
    assert ledger.run(ALICE, RenewName(NAME)) == "not_name_owner"
    assert ledger.run(BOB, AddInstance(NAME, OTHER_KEY)) == "ok"


def test_instance_keys_come_and_go_within_their_limit() -> None:
    ledger = Ledger()
    keys = tuple(bytes([7, number]) + bytes(30) for number in range(INSTANCE_KEYS))
    assert ledger.register(ALICE, NAME, b"", keys) == "ok"
    assert ledger.run(ALICE, AddInstance(NAME, KEY)) == "too_many_instances"
    assert ledger.run(ALICE, RemoveInstance(NAME, KEY)) == "unknown_instance"
    assert ledger.run(ALICE, RemoveInstance(NAME, keys[3])) == "ok"
    assert ledger.run(ALICE, AddInstance(NAME, keys[4])) == "instance_exists"
    assert ledger.run(ALICE, AddInstance(NAME, KEY)) == "ok"
    assert ledger.chain.instance_keys(NAME) == (*keys[:3], *keys[4:], KEY)


def test_a_file_is_announced_as_long_as_a_name_binds_it() -> None:
    ledger = Ledger()
    for name in ("one", "two"):
        assert ledger.register(ALICE, name, FILE) == "ok"
    assert ledger.run(ALICE, UpdateName("one", OTHER_FILE)) == "ok"
    assert ledger.chain.is_announced(FILE)
    assert ledger.chain.is_announced(OTHER_FILE)
    assert ledger.run(ALICE, RevokeName("two")) == "ok"
    assert not ledger.chain.is_announced(FILE)
    assert ledger.run(ALICE, UpdateName("one", b"")) == "ok"
    assert not ledger.chain.is_announced(OTHER_FILE)


def test_the_deposit_comes_back_at_revocation_and_when_somebody_else_registers() -> None:
    ledger = Ledger()
    poor_before = RICH

    def paid(user_balance: int) -> int:
        return poor_before - user_balance

    def fees(user: bytes) -> int:
        ids = [outcome[0] for result in ledger.results for outcome in result.outcomes]
        receipts = [ledger.chain.receipt(transaction_id) for transaction_id in dict.fromkeys(ids)]
        return sum(receipt.fee for receipt in receipts if receipt is not None and user)

    assert ledger.register(ALICE, NAME) == "ok"
    account = ledger.chain.account(ALICE.public)
    assert account is not None
    assert paid(account.balance) == fees(ALICE.public) + 10_000
    ledger.advance(NAMING.lifetime + NAMING.grace)
    alice_fees = fees(ALICE.public)
    assert ledger.register(BOB, NAME) == "ok"
    account = ledger.chain.account(ALICE.public)
    assert account is not None
    assert paid(account.balance) == alice_fees
    assert ledger.run(BOB, RevokeName(NAME)) == "ok"
    account = ledger.chain.account(BOB.public)
    assert account is not None
    assert paid(account.balance) == fees(BOB.public) - alice_fees


def test_renewal_counts_from_now_and_works_in_grace() -> None:
    ledger = ledger_with_name(NameStatus.GRACE)
    ledger.advance(1)
    assert ledger.chain.instance_keys(NAME) == ()
    assert ledger.run(ALICE, RenewName(NAME)) == "ok"
    record = ledger.chain.name(NAME)
    assert record is not None
    assert record.expires_height == ledger.height + NAMING.lifetime
    assert ledger.chain.instance_keys(NAME) == (KEY,)
    for _ in range(3):
        assert ledger.run(ALICE, RenewName(NAME)) == "ok"
    record = ledger.chain.name(NAME)
    assert record is not None
    assert record.expires_height == ledger.height + NAMING.lifetime


def test_the_history_of_a_name_goes_through_revocation_and_new_owners() -> None:
    ledger = ledger_with_name(NameStatus.ACTIVE)
    start = ledger.chain.history(NAME)[0][0]
    ledger.run(ALICE, UpdateName(NAME, OTHER_FILE))
    ledger.run(ALICE, RevokeName(NAME))
    ledger.register(BOB, NAME)
    history = ledger.chain.history(NAME)
    assert [record.service_file_hash for _, record in history] == [FILE, OTHER_FILE, b"", b""]
    assert [record.revoked for _, record in history] == [False, False, True, False]
    assert [record.owner for _, record in history] == [ALICE.public] * 3 + [BOB.public]
    for height, record in history:
        assert ledger.chain.name(NAME, height) == record
    assert ledger.chain.name(NAME, start - 1) is None
    assert len(ledger.chain.history(NAME, limit=2)) == 2
    assert ledger.chain.history("nobody") == []
