"""Changing who signs for an account: one case for each reason to refuse, and a machine against a slow model."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from blockcloud.primitives import codec
from blockcloud.primitives.errors import BadSignature, Malformed
from blockcloud.primitives.keys import SigningKey
from blockcloud.primitives.limits import ACCOUNT_KEYS, TRANSACTION_SIGNATURES
from blockcloud.service_chain.fees import OPERATION_WEIGHTS, SIGNATURE_WEIGHT
from blockcloud.service_chain.operations import (
    DELEGABLE_TAGS,
    TAGS,
    Bond,
    CloseLane,
    OpenLane,
    Operation,
    SetKeys,
    Transfer,
    UpdateName,
)
from blockcloud.service_chain.records import AccountKeys
from blockcloud.service_chain.transaction import KeyNotShown, WireTransaction, parse_transaction
from tests.service_chain.ledger_in_memory import BOND, RICH, USERS, VALIDATORS, Ledger

ALICE, BOB, CAROL, DAVE, EVE = USERS[1:6]
DEVICE = USERS[6]
PAY = Transfer(BOB.public, 5)


def change(threshold: int, *keys: SigningKey, keep_lanes: bool = False) -> SetKeys:
    return SetKeys(threshold, tuple(sorted(key.public for key in keys)), keep_lanes)


def run(ledger: Ledger, operation: Operation, *signers: SigningKey, **more: Any) -> str:
    """A transaction of Alice's account."""
    payload = ledger.sign(ALICE, operation, signers=signers, **more)
    assert ledger.chain.check(payload) >= 1
    return ledger.commit(payload)[0]


def shared(threshold: int = 2, *keys: SigningKey) -> Ledger:
    """A ledger on which Alice's account takes so many of these keys (default: hers, Bob's and Carol's)."""
    keys = keys or (ALICE, BOB, CAROL)
    ledger = Ledger()
    assert run(ledger, change(threshold, *keys), *{key.public: key for key in (ALICE, *keys)}.values()) == "ok"
    return ledger


def test_after_a_rotation_the_new_key_signs_and_the_old_one_does_not() -> None:
    ledger = shared(1, DAVE)
    assert run(ledger, PAY, ALICE) == "wrong_signer"
    assert run(ledger, PAY, DAVE) == "ok"
    assert run(ledger, PAY, ALICE, DAVE) == "wrong_signer"
    account = ledger.chain.account(ALICE.public)
    assert account is not None
    assert account.rekeyed
    assert ledger.chain.account_keys(ALICE.public) == AccountKeys(1, (DAVE.public,))
    assert ledger.run(DAVE, PAY) == "ok", "Dave's own account is another one"


def test_what_is_paid_to_an_account_or_by_it_leaves_its_keys() -> None:
    ledger = shared(1, DAVE)
    for payload in (ledger.sign(BOB, Transfer(ALICE.public, 5)), ledger.sign(ALICE, PAY, signers=(DAVE,))):
        assert ledger.commit(payload) == ["ok"]
    assert run(ledger, OpenLane(1, DEVICE.public, DELEGABLE_TAGS, 10**6, 99), DAVE) == "ok"
    assert run(ledger, Transfer(BOB.public, RICH), DAVE) == "insufficient_balance"
    for operation, code in ((PAY, "ok"), (Transfer(ALICE.public, 7), "ok")):
        sequence = 0 if operation is PAY else 1
        assert run(ledger, operation, DEVICE, lane=1, sequence=sequence) == code
    assert run(ledger, CloseLane(1), DAVE) == "ok"
    assert run(ledger, PAY, ALICE) == "wrong_signer"
    ledger.restart()
    assert run(ledger, PAY, ALICE) == "wrong_signer"
    assert run(ledger, PAY, DAVE) == "ok"


SIGNED = {
    "nobody of them": ((DAVE,), "wrong_signer"),
    "a stranger as well": ((ALICE, BOB, DAVE), "wrong_signer"),
    "one": ((BOB,), "too_few_signers"),
    "two": ((BOB, CAROL), "ok"),
    "two others": ((ALICE, CAROL), "ok"),
    "three": ((ALICE, BOB, CAROL), "too_many_signers"),
}


@pytest.mark.parametrize("case", SIGNED)
def test_exactly_as_many_sign_as_the_threshold_says(case: str) -> None:
    signers, code = SIGNED[case]
    ledger = shared()
    assert run(ledger, PAY, *signers) == code
    account = ledger.chain.account(ALICE.public)
    assert account is not None
    assert account.sequence == (2 if code == "ok" else 1)


CHANGED = {
    "present keys that go, and those that come": ((ALICE, BOB, DAVE), change(1, DAVE), "ok"),
    "too few of the present ones": ((ALICE, DAVE), change(1, DAVE), "too_few_signers"),
    "none of the present ones": ((DAVE,), change(1, DAVE), "too_few_signers"),
    "one of them stays": ((ALICE, BOB, DAVE), change(2, ALICE, DAVE), "ok"),
    "all of them stay, so all sign": ((ALICE, BOB, CAROL, DAVE), change(2, ALICE, BOB, CAROL, DAVE), "ok"),
    "one more than needed": ((ALICE, BOB, CAROL, DAVE), change(1, DAVE), "too_many_signers"),
    "a stranger as well": ((ALICE, BOB, DAVE, EVE), change(1, DAVE), "wrong_signer"),
}


@pytest.mark.parametrize("case", CHANGED)
def test_old_keys_and_new_keys_sign_a_change(case: str) -> None:
    signers, operation, code = CHANGED[case]
    ledger = shared()
    before = ledger.chain.account_keys(ALICE.public)
    assert run(ledger, operation, *signers) == code
    after = ledger.chain.account_keys(ALICE.public)
    assert after == (AccountKeys(operation.threshold, operation.keys) if code == "ok" else before)


@pytest.mark.parametrize(
    "operation",
    [
        SetKeys(1, tuple(sorted((BOB.public, ALICE.public), reverse=True))),
        SetKeys(1, (BOB.public, BOB.public)),
        change(3, ALICE, BOB),
        SetKeys(0, (BOB.public,)),
        SetKeys(1, ()),
        SetKeys(1, (b"short",)),
        SetKeys(1, tuple(bytes([n]) * 32 for n in range(ACCOUNT_KEYS + 1))),
    ],
)
def test_a_change_that_makes_no_sense_is_malformed(operation: SetKeys) -> None:
    ledger = Ledger()
    with pytest.raises(Malformed):
        ledger.chain.check(ledger.sign(ALICE, operation, signers=(ALICE, BOB)))


@pytest.mark.parametrize("vouched", [False, True])
def test_a_key_that_has_not_signed_cannot_be_put_in(vouched: bool) -> None:
    ledger = Ledger()
    check = ledger.chain.check_vouched if vouched else ledger.chain.check
    for signers in ((ALICE,), (ALICE, CAROL)):
        with pytest.raises(KeyNotShown):
            check(ledger.sign(ALICE, change(1, BOB), signers=signers))
    with pytest.raises(KeyNotShown):
        check(ledger.sign(ALICE, change(1, BOB), change(2, ALICE, CAROL), signers=(ALICE, BOB)))
    assert check(ledger.sign(ALICE, change(1, BOB), signers=(ALICE, BOB))) == 1


def with_signatures(payload: bytes, signatures: Iterable[tuple[bytes, bytes]]) -> bytes:
    wire = codec.decode(payload, WireTransaction, limit=10_000)
    return codec.encode(WireTransaction(wire.body, tuple(sorted(signatures))))


def test_a_signature_of_a_new_key_counts_once() -> None:
    """It is over the whole transaction: chain, account, sequence."""
    ledger = Ledger()
    earlier = ledger.sign(ALICE, change(1, BOB), signers=(ALICE, BOB))
    assert run(ledger, PAY, ALICE) == "ok"
    assert ledger.commit(earlier) == ["stale_sequence"]
    stale = dict(parse_transaction(earlier).signatures)[BOB.public]
    now = ledger.sign(ALICE, change(1, BOB), signers=(ALICE,))
    own = codec.decode(now, WireTransaction, limit=10_000).signatures
    with pytest.raises(BadSignature):
        ledger.chain.check(with_signatures(now, [*own, (BOB.public, stale)]))


def test_rotated_back_the_record_is_gone_and_nothing_of_before_counts_again() -> None:
    ledger = Ledger()
    to_bob = ledger.sign(ALICE, change(1, BOB), signers=(ALICE, BOB))
    assert ledger.commit(to_bob) == ["ok"]
    by_bob = ledger.sign(ALICE, PAY, signers=(BOB,))
    assert ledger.commit(by_bob) == ["ok"]
    assert run(ledger, change(1, ALICE), ALICE, BOB) == "ok"
    account = ledger.chain.account(ALICE.public)
    assert account is not None
    assert (account.rekeyed, ledger.chain.account_keys(ALICE.public)) == (False, None)
    assert ledger.commit(to_bob, by_bob) == ["duplicate", "wrong_signer"]
    assert run(ledger, PAY, BOB) == "wrong_signer"
    assert run(ledger, PAY, ALICE) == "ok"
    assert ledger.chain.account_keys(ALICE.public, height=2) == AccountKeys(1, (BOB.public,)), "history stays"


def test_a_copy_with_other_signers_of_the_same_account_executes_once() -> None:
    ledger = shared()
    copies = [ledger.sign(ALICE, PAY, signers=pair) for pair in combinations((ALICE, BOB, CAROL), 2)]
    assert len({parse_transaction(copy).id for copy in copies}) == 1
    assert ledger.commit(*copies) == ["ok", "duplicate", "duplicate"]


def test_sixteen_keys_can_be_changed_for_sixteen_others() -> None:
    old, new = [[SigningKey(bytes([n, kind]) * 16) for n in range(ACCOUNT_KEYS)] for kind in (1, 2)]
    ledger = shared(ACCOUNT_KEYS, *old)
    payload = ledger.sign(ALICE, change(1, *new), signers=(*old, *new))
    transaction = parse_transaction(payload)
    assert len(transaction.signers) == TRANSACTION_SIGNATURES
    assert transaction.weight > TRANSACTION_SIGNATURES * SIGNATURE_WEIGHT + OPERATION_WEIGHTS[SetKeys]
    assert ledger.commit(payload) == ["ok"]
    assert run(ledger, PAY, new[7]) == "ok"


def test_a_change_of_keys_ends_lanes_unless_told_to_keep_them() -> None:
    ledger = Ledger()
    for number in (1, 2):
        assert run(ledger, OpenLane(number, DEVICE.public, (TAGS[Transfer],), 10**6, 99), ALICE) == "ok"
    assert run(ledger, change(1, BOB, keep_lanes=True), ALICE, BOB) == "ok"
    assert run(ledger, PAY, DEVICE, lane=1, sequence=0) == "ok"
    assert run(ledger, change(1, CAROL), BOB, CAROL) == "ok"
    assert run(ledger, PAY, DEVICE, lane=1, sequence=1) == "lane_ended"
    assert run(ledger, OpenLane(3, DEVICE.public, (TAGS[Transfer],), 10**6, 99), CAROL) == "ok"
    assert run(ledger, PAY, DEVICE, lane=3, sequence=0) == "ok"
    assert run(ledger, change(1, ALICE, keep_lanes=True), CAROL, ALICE) == "ok"
    assert ledger.chain.account_keys(ALICE.public) == AccountKeys(1, (ALICE.public,), 2)
    assert run(ledger, PAY, DEVICE, lane=2, sequence=0) == "lane_ended", "also back at the own key"
    assert run(ledger, PAY, DEVICE, lane=3, sequence=1) == "ok"
    assert run(ledger, CloseLane(1), ALICE) == "ok", "the deposit comes back"


def test_a_lane_cannot_change_keys() -> None:
    ledger = Ledger()
    assert TAGS[SetKeys] not in DELEGABLE_TAGS
    with pytest.raises(Malformed):
        ledger.chain.check(ledger.sign(ALICE, OpenLane(1, DEVICE.public, (TAGS[SetKeys],), 1, 9)))
    assert run(ledger, OpenLane(1, DEVICE.public, DELEGABLE_TAGS, 10**6, 99), ALICE) == "ok"
    assert run(ledger, change(1, DEVICE), DEVICE, lane=1, sequence=0) == "operation_not_allowed"


def test_a_change_is_undone_with_its_transaction() -> None:
    ledger = Ledger()
    payload = ledger.sign(ALICE, change(1, BOB), Transfer(BOB.public, RICH), signers=(ALICE, BOB))
    assert ledger.commit(payload) == ["insufficient_balance"]
    assert ledger.chain.account_keys(ALICE.public) is None
    assert run(ledger, PAY, ALICE) == "ok"


def test_names_stay_with_the_address() -> None:
    ledger = Ledger()
    assert ledger.register(ALICE, "acme") == "ok"
    assert run(ledger, change(2, BOB, CAROL), ALICE, BOB, CAROL) == "ok"
    assert run(ledger, UpdateName("acme", b"f" * 32), ALICE) == "wrong_signer"
    assert run(ledger, UpdateName("acme", b"f" * 32), BOB, CAROL) == "ok"


def test_an_account_with_a_bond_keeps_its_key() -> None:
    ledger = Ledger()
    node = VALIDATORS[0]
    rotate = ledger.sign(node, change(1, BOB), signers=(node, BOB))
    assert ledger.commit(rotate) == ["candidate_keeps_key"]
    assert ledger.run(node, PAY) == "ok"
    shared_bond = shared(1, ALICE, BOB)
    bond = Bond(BOND, "127.0.0.1:1", "http://127.0.0.1:1", b"")
    assert run(shared_bond, bond, ALICE) == "candidate_keeps_key"
    assert run(shared_bond, change(1, ALICE), ALICE) == "ok"
    assert run(shared_bond, bond, ALICE) in ("ok", "insufficient_balance")


# The machine

POOL = [ALICE, BOB, CAROL, DAVE, EVE]
positions = st.integers(0, len(POOL) - 1)
some = st.sets(positions, min_size=1, max_size=4)


class Model:
    """One account, as people would say it. Keys are positions in POOL."""

    def __init__(self) -> None:
        self.threshold, self.keys = 1, {0}
        self.sequence = 0
        self.lanes: dict[int, int] = {}  # number -> sequence
        self.ended: set[int] = set()
        self.highest = 0

    def may_sign(self, signers: set[int], joining: set[int]) -> bool:
        """Nothing is missing, and nothing can be left out."""
        return (
            self._suffices(signers, joining)
            and not any(self._suffices(signers - {one}, joining) for one in signers)
            and signers <= self.keys | joining
        )

    def _suffices(self, signers: set[int], joining: set[int]) -> bool:
        return joining <= signers and len(signers & self.keys) >= self.threshold


class Accounts(RuleBasedStateMachine):
    """Transactions of Alice's account by all sorts of signers, and payments to it."""

    @initialize()
    def begin(self) -> None:
        self.ledger, self.model = Ledger(), Model()
        self.sent: list[tuple[bytes, set[int], set[int], int]] = []
        self.done: set[bytes] = set()  # ids: who signs what is executed already does not matter

    def _do(self, operation: Operation, signers: set[int], joining: set[int]) -> bool:
        payload = self.ledger.sign(
            ALICE, operation, signers=tuple(POOL[n] for n in signers), sequence=self.model.sequence
        )
        if joining - signers:
            with pytest.raises(KeyNotShown):
                self.ledger.chain.check(payload)
            return False
        self.ledger.chain.check(payload)
        self.sent.append((payload, signers, joining, self.model.sequence))
        (code,) = self.ledger.commit(payload)
        allowed = self.model.may_sign(signers, joining)
        assert (code == "ok") == allowed, (code, signers, joining, self.model.keys, self.model.threshold)
        assert (code == "wrong_signer") == bool(signers - joining - self.model.keys)
        if allowed:
            self.model.sequence += 1
            self.done.add(parse_transaction(payload).id)
        return allowed

    def _enough(self, extra: set[int], joining: set[int]) -> set[int]:
        """Signers that may well do, with `extra` put in or taken away."""
        present = sorted(self.model.keys, key=lambda key: key not in joining)
        return set(present[: self.model.threshold]) ^ extra | joining

    @rule(extra=st.sets(positions, max_size=1))
    def pay(self, extra: set[int]) -> None:
        if signers := self._enough(extra, set()):
            self._do(PAY, signers, set())

    @rule(signers=some)
    def pay_signed_by_anybody(self, signers: set[int]) -> None:
        self._do(PAY, signers, set())

    @rule(keys=some, threshold=st.integers(1, 4), keep=st.booleans(), extra=st.sets(positions, max_size=1))
    def change_keys(self, keys: set[int], threshold: int, keep: bool, extra: set[int]) -> None:
        threshold = min(threshold, len(keys))
        operation = change(threshold, *(POOL[n] for n in keys), keep_lanes=keep)
        if self._do(operation, self._enough(extra, keys), keys):
            self.model.threshold, self.model.keys = threshold, keys
            if not keep:
                self.model.ended = set(range(self.model.highest + 1)) - {0}

    @rule(keys=some, signers=some)
    def change_keys_signed_by_anybody(self, keys: set[int], signers: set[int]) -> None:
        if self._do(change(1, *(POOL[n] for n in keys)), signers, keys):
            self.model.threshold, self.model.keys = 1, keys
            self.model.ended = set(range(self.model.highest + 1)) - {0}

    @rule()
    def rotate_back(self) -> None:
        if self._do(change(1, ALICE), self._enough(set(), {0}), {0}):
            self.model.threshold, self.model.keys = 1, {0}
            self.model.ended = set(range(self.model.highest + 1)) - {0}

    @rule()
    def open_lane(self) -> None:
        number = self.model.highest + 1
        operation = OpenLane(number, DEVICE.public, (TAGS[Transfer],), RICH, 2**40)
        if self._do(operation, self._enough(set(), set()), set()):
            self.model.lanes[number], self.model.highest = 0, number

    @rule(number=st.integers(1, 4))
    def use_lane(self, number: int) -> None:
        sequence = self.model.lanes.get(number, 0)
        code = run(self.ledger, PAY, DEVICE, lane=number, sequence=sequence)
        if number not in self.model.lanes:
            assert code == "unknown_lane"
        elif number in self.model.ended:
            assert code == "lane_ended"
        else:
            assert code == "ok"
            self.model.lanes[number] += 1

    @rule()
    def be_paid(self) -> None:
        assert self.ledger.run(USERS[0], Transfer(ALICE.public, 1)) == "ok"

    @rule(data=st.data())
    def replay(self, data: st.DataObject) -> None:
        if not self.sent:
            return
        payload, signers, joining, sequence = data.draw(st.sampled_from(self.sent))
        (code,) = self.ledger.commit(payload)
        if sequence == self.model.sequence:
            # It was void before; then it still is, because its signers were tried against these keys.
            assert code != "ok"
        else:
            assert code in ("duplicate", "stale_sequence", "wrong_signer", "too_few_signers", "too_many_signers")
            if self.model.may_sign(signers, joining):
                done = parse_transaction(payload).id in self.done
                assert code == ("duplicate" if done else "stale_sequence")

    @rule()
    def restart(self) -> None:
        self.ledger.restart()

    @invariant()
    def the_ledger_says_who_signs(self) -> None:
        record, account = self.ledger.chain.account_keys(ALICE.public), self.ledger.chain.account(ALICE.public)
        assert account is not None
        assert account.sequence == self.model.sequence
        assert account.rekeyed == (record is not None)
        threshold, keys = (record.threshold, record.keys) if record is not None else (1, (ALICE.public,))
        assert threshold == self.model.threshold
        assert keys == tuple(sorted(POOL[n].public for n in self.model.keys))
        if record is not None and keys == (ALICE.public,):
            assert self.model.ended, "a record that says nothing"


Accounts.TestCase.settings = settings(
    max_examples=40, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
TestAccounts = Accounts.TestCase
