"""Namespaces and batches: every status with every operation, what is paid, who may, and bounds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from blockcloud.primitives.errors import BadConfiguration, InvalidName, Malformed
from blockcloud.primitives.keys import SigningKey
from blockcloud.primitives.limits import DELEGATIONS
from blockcloud.service_chain.fees import DELEGATION_WEIGHT, weight_of
from blockcloud.service_chain.genesis import NamingParameters
from blockcloud.service_chain.name_price import PriceRule, highest_price, price_of_label, price_of_length
from blockcloud.service_chain.namespaces import (
    NAMESPACE_TRANSITIONS,
    NamespaceStatus,
    namespace_status,
    opening_price,
)
from blockcloud.service_chain.operations import (
    Delegate,
    Delegation,
    Operation,
    Preorder,
    ReadyNamespace,
    Register,
    RenewName,
    RevealNamespace,
    RevokeName,
    TransferName,
    check_operation,
    name_commitment,
    namespace_commitment,
)
from tests.service_chain.ledger_in_memory import NAMING, SALT, USERS, Ledger, small_genesis

ALICE, BOB, CAROL = USERS[1], USERS[2], USERS[3]
FILE, KEY = bytes([1]) * 32, USERS[4].public
LABEL = "lab"
# Labels of one letter cost 800, of two 200, of three and more 100.
RULE = PriceRule(100, 2, (3, 1, *(0,) * 14), 4, 10)
RULES = replace(NAMING, namespace_price=1_000, ready_max=9, name_price_max=50_000, lifetime_max=400)
REVEAL = RevealNamespace(LABEL, SALT, RULE, 30, 7)
DEPOSIT = 10_000


def entry(label: str, owner: SigningKey = BOB) -> Delegation:
    return Delegation(label, owner.public, b"", ())


def opened(status: NamespaceStatus = NamespaceStatus.READY) -> Ledger:
    """A ledger on which the namespace, opened by Alice, has `status` in the next commit; she has a ripe preorder for it
    and Bob one for "door" in it."""
    ledger = Ledger(small_genesis(RULES))
    if status is not NamespaceStatus.FREE:
        assert reveal(ledger, ALICE, REVEAL) == "ok"
    if status is NamespaceStatus.READY:
        assert ledger.run(ALICE, ReadyNamespace(LABEL)) == "ok"
    if status is NamespaceStatus.LAPSED:
        ledger.advance(RULES.ready_max)
    assert ledger.run(ALICE, Preorder(namespace_commitment(LABEL, SALT, ALICE.public))) == "ok"
    assert ledger.run(BOB, Preorder(name_commitment(f"door.{LABEL}", SALT, BOB.public))) == "ok"
    ledger.advance(RULES.preorder_min - 1)
    return ledger


def reveal(ledger: Ledger, user: SigningKey, operation: RevealNamespace) -> str:
    """Preorder, wait, reveal; the code of the last."""
    commitment = namespace_commitment(operation.label, operation.salt, user.public)
    assert ledger.run(user, Preorder(commitment)) == "ok"
    ledger.advance(RULES.preorder_min - 1)
    return ledger.run(user, operation)


def balance(ledger: Ledger, user: SigningKey) -> int:
    account = ledger.chain.account(user.public)
    assert account is not None
    return account.balance


def cost(ledger: Ledger, user: SigningKey, *operations: Operation) -> int:
    """What a transaction that is executed takes from its sender, its fee not counted."""
    before = balance(ledger, user)
    assert ledger.run(user, *operations) == "ok"
    ((identifier, _),) = ledger.results[-1].outcomes
    receipt = ledger.chain.receipt(identifier)
    assert receipt is not None
    return before - balance(ledger, user) - receipt.fee


def terms(ledger: Ledger, name: str) -> tuple[int, int]:
    """(lifetime, grace) that the name got with its last change but transfers."""
    record = ledger.chain.name(name)
    assert record is not None
    return record.expires_height - record.changed_height, record.held_until_height - record.expires_height


# The table


@pytest.mark.parametrize("status", NamespaceStatus)
@pytest.mark.parametrize("kind", [RevealNamespace, ReadyNamespace, Delegate, Register])
def test_each_status_allows_what_the_table_says(status: NamespaceStatus, kind: type) -> None:
    ledger = opened(status)
    assert namespace_status(ledger.chain.namespace(LABEL), ledger.height + 1) is status
    trials: dict[type, tuple[SigningKey, Operation]] = {
        RevealNamespace: (ALICE, REVEAL),
        ReadyNamespace: (ALICE, ReadyNamespace(LABEL)),
        Delegate: (ALICE, Delegate(LABEL, (entry("x"),))),
        Register: (BOB, Register(f"door.{LABEL}", SALT, b"", (), 1_000)),
    }
    rejection = NAMESPACE_TRANSITIONS[status][kind]
    assert ledger.run(trials[kind][0], trials[kind][1]) == ("ok" if rejection is None else rejection.code)


def test_the_table_has_a_verdict_for_every_status_and_operation() -> None:
    allowed = {
        status.value: [kind for kind, rejection in verdicts.items() if rejection is None]
        for status, verdicts in NAMESPACE_TRANSITIONS.items()
    }
    assert allowed == {
        "free": [RevealNamespace, Register],
        "importing": [ReadyNamespace, Delegate],
        "ready": [Register],
        "lapsed": [RevealNamespace, Register],
    }
    for status in NamespaceStatus:
        assert list(NAMESPACE_TRANSITIONS[status]) == [RevealNamespace, ReadyNamespace, Delegate, Register]


@pytest.mark.parametrize(("late", "code"), [(0, "ok"), (1, "namespace_lapsed")])
def test_a_namespace_is_ready_in_time_or_lapses(late: int, code: str) -> None:
    ledger = Ledger(small_genesis(RULES))
    assert reveal(ledger, ALICE, REVEAL) == "ok"
    ledger.advance(RULES.ready_max - 2 + late)
    assert ledger.run(ALICE, ReadyNamespace(LABEL)) == code
    ledger.advance(RULES.ready_max)
    assert ledger.run(BOB, ReadyNamespace(LABEL)) == ("namespace_is_ready" if code == "ok" else "namespace_lapsed")


def test_only_its_owner_fills_a_namespace_and_makes_it_ready() -> None:
    ledger = opened(NamespaceStatus.IMPORTING)
    assert ledger.run(BOB, ReadyNamespace(LABEL)) == "not_namespace_owner"
    assert ledger.run(BOB, Delegate(LABEL, (entry("x"),))) == "not_namespace_owner"
    assert ledger.run(ALICE, Delegate(LABEL, (entry("x"),))) == "ok"
    assert ledger.run(ALICE, ReadyNamespace(LABEL)) == "ok"


def test_what_lapsed_is_opened_by_somebody_else_and_the_old_deposit_comes_back() -> None:
    ledger = opened(NamespaceStatus.LAPSED)
    before = balance(ledger, ALICE)
    assert reveal(ledger, BOB, REVEAL) == "ok"
    assert balance(ledger, ALICE) == before + DEPOSIT
    record = ledger.chain.namespace(LABEL)
    assert record is not None
    assert (record.owner, record.revealed_height) == (BOB.public, ledger.height)
    assert ledger.run(ALICE, ReadyNamespace(LABEL)) == "not_namespace_owner"


def test_a_namespace_is_opened_filled_and_made_ready_in_one_transaction() -> None:
    ledger = opened(NamespaceStatus.FREE)
    entries = (entry("one"), entry("two", CAROL))
    assert ledger.run(ALICE, REVEAL, Delegate(LABEL, entries), ReadyNamespace(LABEL)) == "ok"
    assert namespace_status(ledger.chain.namespace(LABEL), ledger.height) is NamespaceStatus.READY
    record = ledger.chain.name(f"two.{LABEL}")
    assert record is not None
    assert record.owner == CAROL.public


# Money and time


@pytest.mark.parametrize(
    ("label", "price"),
    [
        ("a", 800),
        ("no", 200),
        ("xt", 50),
        ("b", 200),
        ("7", 80),
        ("door", 100),
        ("a1", 20),
        ("rhythm", 100),
        ("tv-x", 10),
    ],
)
def test_a_label_costs_what_the_rule_says(label: str, price: int) -> None:
    assert price_of_label(RULE, label) == price


@given(
    st.integers(0, 10**6),
    st.integers(1, 16),
    st.lists(st.integers(0, 15), min_size=16, max_size=16),
    st.text("ax7-", min_size=1),
)
def test_a_price_is_what_multiplying_gives(coefficient: int, base: int, exponents: list[int], label: str) -> None:
    rule = PriceRule(coefficient, base, tuple(exponents), 3, 5)
    full = coefficient
    for _ in range(exponents[len(label) - 1] if len(label) <= 16 else exponents[15]):
        full *= base
    divisor = 5 if set(label) & set("7-") else 1 if "a" in label else 3
    assert price_of_length(rule, len(label)) == full <= highest_price(rule)
    assert price_of_label(rule, label) == full // divisor


def test_opening_burns_the_price_of_the_label_and_leaves_a_deposit() -> None:
    for label, price in (("q", 1_000_000), ("lab", 100_000), ("seven77", 10_000), ("long-one", 1_000)):
        ledger = Ledger(small_genesis(RULES))
        assert opening_price(label, RULES) == price
        assert ledger.run(ALICE, Preorder(namespace_commitment(label, SALT, ALICE.public))) == "ok"
        ledger.advance(1)
        supply = ledger.chain.fees
        assert cost(ledger, ALICE, replace(REVEAL, label=label)) == price + DEPOSIT
        ((identifier, _),) = ledger.results[-1].outcomes
        receipt = ledger.chain.receipt(identifier)
        assert receipt is not None
        assert ledger.chain.fees.burned - supply.burned == price + receipt.fee - receipt.fee // 2


def test_names_in_a_namespace_cost_its_price_and_live_by_its_rules() -> None:
    ledger = opened()
    name = f"door.{LABEL}"
    assert ledger.run(BOB, Register(name, SALT, b"", (), 99)) == "price_above_limit"
    burned = ledger.chain.fees.burned
    assert cost(ledger, BOB, Register(name, SALT, FILE, (KEY,), 100)) == 100 + DEPOSIT
    assert ledger.chain.fees.burned > burned + 100
    assert terms(ledger, name) == (30, 7)
    ledger.advance(33)
    assert ledger.run(BOB, RenewName(name)) == "price_above_limit"
    assert cost(ledger, BOB, RenewName(name, 100)) == 100
    assert terms(ledger, name) == (30, 7)
    ledger.advance(36)
    assert ledger.register(CAROL, name) == "price_above_limit"
    assert ledger.run(CAROL, Register(name, SALT, b"", (), 100)) == "ok"


def test_what_the_owner_puts_in_is_free_of_price_but_not_of_deposit() -> None:
    ledger = opened(NamespaceStatus.IMPORTING)
    assert cost(ledger, ALICE, Delegate(LABEL, (entry("a"), entry("b")))) == 2 * DEPOSIT
    assert terms(ledger, f"a.{LABEL}") == (30, 7)
    assert cost(ledger, BOB, RenewName(f"a.{LABEL}", 800)) == 800
    assert cost(ledger, BOB, RevokeName(f"b.{LABEL}")) == -DEPOSIT


def test_a_deeper_name_costs_nothing_and_lives_by_the_rules_of_the_chain() -> None:
    ledger = opened()
    assert ledger.register(CAROL, f"low.door.{LABEL}") == "parent_not_held"
    assert ledger.run(BOB, Register(f"door.{LABEL}", SALT, b"", (), 100)) == "ok"
    assert ledger.run(CAROL, Register(f"low.door.{LABEL}", SALT, b"", ())) == "not_parent_owner"
    assert ledger.register(BOB, f"low.door.{LABEL}") == "ok"
    assert terms(ledger, f"low.door.{LABEL}") == (RULES.lifetime, RULES.grace)
    assert ledger.register(BOB, f"lower.low.door.{LABEL}") == "ok"


def test_names_from_before_keep_their_rules() -> None:
    ledger = Ledger(small_genesis(RULES))
    assert ledger.register(BOB, f"door.{LABEL}") == "ok"
    assert reveal(ledger, ALICE, REVEAL) == "ok"
    assert ledger.run(ALICE, Delegate(LABEL, (entry("door", ALICE),))) == "name_taken"
    assert ledger.run(ALICE, ReadyNamespace(LABEL)) == "ok"
    assert terms(ledger, f"door.{LABEL}") == (RULES.lifetime, RULES.grace)
    assert ledger.run(BOB, TransferName(f"door.{LABEL}", CAROL.public)) == "ok"
    record = ledger.chain.name(f"door.{LABEL}")
    assert record is not None
    assert record.expires_height == record.registered_height + RULES.lifetime
    assert cost(ledger, CAROL, RenewName(f"door.{LABEL}", 100)) == 0
    assert terms(ledger, f"door.{LABEL}") == (RULES.lifetime, RULES.grace)
    assert ledger.run(CAROL, RevokeName(f"door.{LABEL}")) == "ok"
    assert ledger.register(BOB, f"door.{LABEL}") == "price_above_limit"


# A label is a name or a namespace


def test_a_label_that_is_a_name_is_opened_only_after_it_was_given_up() -> None:
    ledger = Ledger(small_genesis(RULES))
    assert ledger.register(ALICE, LABEL) == "ok"
    assert reveal(ledger, BOB, REVEAL) == "label_is_name"
    assert reveal(ledger, ALICE, REVEAL) == "label_is_name"
    assert ledger.run(ALICE, RevokeName(LABEL), REVEAL) == "ok"
    assert ledger.register(BOB, LABEL) == "label_is_namespace"
    assert ledger.run(ALICE, ReadyNamespace(LABEL)) == "ok"
    assert ledger.run(BOB, Register(LABEL, SALT, b"", ())) == "label_is_namespace"


def test_a_name_keeps_its_label_for_as_long_as_it_is_in_grace() -> None:
    ledger = Ledger(small_genesis(RULES))
    assert ledger.register(ALICE, LABEL) == "ok"
    registered = ledger.height
    ledger.advance(RULES.lifetime + RULES.grace - 4)
    assert ledger.run(BOB, Preorder(namespace_commitment(LABEL, SALT, BOB.public))) == "ok"
    ledger.advance(1)
    assert ledger.height + 1 == registered + RULES.lifetime + RULES.grace - 1
    assert ledger.run(BOB, REVEAL) == "label_is_name"
    assert ledger.run(BOB, REVEAL) == "ok"


def test_a_lapsed_label_may_become_a_name() -> None:
    ledger = opened(NamespaceStatus.LAPSED)
    assert ledger.register(BOB, LABEL) == "ok"
    assert ledger.run(BOB, Delegate(LABEL, (entry("x"),))) == "ok"
    assert reveal(ledger, ALICE, replace(REVEAL, salt=bytes(32))) == "label_is_name"


# Batches


def test_the_owner_of_a_name_delegates_many_names_at_once() -> None:
    ledger = Ledger()
    assert ledger.register(ALICE, "acme") == "ok"
    entries = tuple(Delegation(f"n{number}", BOB.public, FILE, (KEY,)) for number in range(DELEGATIONS))
    assert cost(ledger, ALICE, Delegate("acme", entries)) == DELEGATIONS * DEPOSIT
    for number in range(DELEGATIONS):
        record = ledger.chain.name(f"n{number}.acme")
        assert record is not None
        assert (record.owner, record.service_file_hash, record.instance_keys) == (BOB.public, FILE, (KEY,))
    assert terms(ledger, "n0.acme") == (NAMING.lifetime, NAMING.grace)
    assert ledger.run(ALICE, RevokeName("n0.acme")) == "not_name_owner"
    assert ledger.run(BOB, RevokeName("n0.acme")) == "ok"


def test_a_batch_registers_all_or_none() -> None:
    ledger = Ledger()
    assert ledger.register(ALICE, "acme") == "ok"
    assert ledger.register(ALICE, "b.acme") == "ok"
    assert ledger.run(ALICE, Delegate("acme", (entry("a"), entry("b"), entry("c")))) == "name_taken"
    assert [ledger.chain.name(f"{label}.acme") is None for label in "ac"] == [True, True]
    assert ledger.run(ALICE, Delegate("acme", (entry("a"), entry("c")))) == "ok"


def test_a_batch_has_no_more_labels_than_a_name_may() -> None:
    ledger = Ledger()
    parent = ".".join("abcdefg")
    assert ledger.register(ALICE, parent) == "ok"
    assert ledger.run(ALICE, Delegate(parent, (entry("x", ALICE),))) == "ok"
    assert ledger.run(ALICE, Delegate(f"x.{parent}", (entry("y"),))) == "name_too_deep"


def test_a_batch_counts_as_the_one_change_of_each_of_its_names() -> None:
    ledger = Ledger()
    assert ledger.register(ALICE, "acme") == "ok"
    batch = Delegate("acme", (entry("a", ALICE),))
    assert ledger.run(ALICE, batch, RevokeName("a.acme")) == "name_changed_already"
    # The name above may change beside it.
    assert ledger.run(ALICE, batch, RenewName("acme")) == "ok"
    assert ledger.run(ALICE, RevokeName("a.acme")) == "ok"
    assert ledger.run(ALICE, batch) == "ok"


@pytest.mark.parametrize(
    "operation",
    [
        Delegate("acme", ()),
        Delegate("acme", tuple(entry(f"n{number}") for number in range(DELEGATIONS + 1))),
        Delegate("acme", (entry("a"), entry("b"), entry("a"))),
        Delegate("acme", (entry("a.b"),)),
        Delegate("acme", (Delegation("a", BOB.public, b"x", ()),)),
        Delegate("acme", (Delegation("a", BOB.public, b"", (KEY, KEY)),)),
        replace(REVEAL, label="x.lab"),
        replace(REVEAL, rule=replace(RULE, exponents=(0,) * 15)),
        replace(REVEAL, rule=replace(RULE, exponents=(16, *(0,) * 15))),
        replace(REVEAL, rule=replace(RULE, base=0)),
        replace(REVEAL, rule=replace(RULE, base=17)),
        replace(REVEAL, rule=replace(RULE, no_vowel_discount=0)),
        replace(REVEAL, rule=replace(RULE, coefficient=-1)),
        replace(REVEAL, lifetime=0),
        replace(REVEAL, grace=-1),
        ReadyNamespace("x.lab"),
    ],
)
def test_what_makes_no_sense_in_any_state_is_refused_when_it_is_checked(operation: Operation) -> None:
    ledger = Ledger()
    with pytest.raises(Malformed):
        ledger.chain.check(ledger.sign(ALICE, operation))


@pytest.mark.parametrize("label", ["", "A", "-a", "a" * 64])
def test_a_label_in_a_batch_is_a_label(label: str) -> None:
    with pytest.raises(InvalidName):
        check_operation(Delegate("acme", (entry(label),)))
    with pytest.raises(InvalidName):
        check_operation(replace(REVEAL, label=label))


def test_each_name_of_a_batch_weighs_and_a_block_has_room_for_so_many() -> None:
    def batch(count: int) -> Delegate:
        return Delegate("acme", tuple(entry(f"n{number}") for number in range(count)))

    assert weight_of(64, 1, (batch(3),)) - weight_of(64, 1, (batch(1),)) == 2 * DELEGATION_WEIGHT
    ledger = Ledger()
    assert ledger.chain.check(ledger.sign(ALICE, batch(3))) == 1
    assert ledger.chain.check(ledger.sign(ALICE, batch(DELEGATIONS))) == 1 + DELEGATIONS // 4


# Bounds of the chain


@pytest.mark.parametrize(
    "operation",
    [
        replace(REVEAL, rule=replace(RULE, coefficient=RULES.name_price_max // 8 + 1)),
        replace(REVEAL, rule=PriceRule(2**62, 16, (15,) * 16, 15, 15)),
        replace(REVEAL, lifetime=RULES.lifetime_max + 1),
        replace(REVEAL, grace=RULES.lifetime_max + 1),
    ],
)
def test_rules_stay_within_the_bounds_of_the_chain(operation: RevealNamespace) -> None:
    ledger = Ledger(small_genesis(RULES))
    assert reveal(ledger, ALICE, operation) == "namespace_rule_out_of_bounds"
    widest = replace(operation, rule=replace(RULE, coefficient=RULES.name_price_max // 8), lifetime=400, grace=400)
    assert ledger.run(ALICE, widest) == "ok"


@pytest.mark.parametrize(
    "change", [{"namespace_price": -1}, {"ready_max": 0}, {"name_price_max": 2**62}, {"lifetime_max": 2**33}]
)
def test_a_genesis_with_impossible_bounds_is_refused(change: dict[str, int]) -> None:
    with pytest.raises(BadConfiguration, match="naming parameters"):
        replace(NamingParameters(), **change).check()
