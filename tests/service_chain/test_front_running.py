"""An adversary who sees every transaction before it commits, and gets in front of it, gains nothing.

Mallory sees what Alice sends up to a commit before it is executed. From all that she has seen she may make any
copy and any variation, and have as many of them as she likes executed ahead of Alice. She cannot look into a
commitment, so what she knows of a name before it is revealed is nothing. Alice must get every "ok" and the name.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from blockcloud.primitives.names import parent_of
from blockcloud.service_chain.name_price import PriceRule
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
    UpdateName,
    name_commitment,
    namespace_commitment,
)
from tests.service_chain.ledger_in_memory import NAMING, SALT, USERS, Ledger, small_genesis

ALICE, MALLORY, CAROL = USERS[1], USERS[2], USERS[3]
OTHER_SALT = bytes(32)
RULES = replace(NAMING, namespace_price=1_000, name_price_max=50_000, lifetime_max=400)
RULE = PriceRule(100, 2, (3, 1, *(0,) * 14), 1, 1)
# What Alice wants, and whether the namespace "lab" is Mallory's and ready, or nobody's.
WISHES = [("door", False), ("door.lab", True), ("low.door.lab", False), ("namespace lab", False)]


@dataclass
class Adversary:
    """Mallory: what she knows, and what she could do with it."""

    commitments: list[bytes] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    salts: list[bytes] = field(default_factory=lambda: [OTHER_SALT])

    def see(self, operation: Operation) -> None:
        """A transaction on its way."""
        if isinstance(operation, Preorder):
            self.commitments.append(operation.commitment)
        if isinstance(operation, Register | RevealNamespace):
            name = operation.name if isinstance(operation, Register) else operation.label
            while name:  # and the names above it, down to the label that may be a namespace
                self.names.append(name)
                name = parent_of(name)
            self.salts.append(operation.salt)

    def attempts(self) -> list[tuple[Operation, ...]]:
        """Transactions made from what she has seen: copies, the same in her own name, and other ways to the name."""
        found: list[tuple[Operation, ...]] = [(Preorder(each),) for each in self.commitments]
        mine, yours = MALLORY.public, ALICE.public
        for name in self.names:
            changes: list[Operation] = [TransferName(name, mine), UpdateName(name, SALT), RevokeName(name)]
            changes += [RenewName(name, 1_000)]
            found += [(change,) for change in changes]
            if parent_of(name):
                entries = (Delegation(name.partition(".")[0], mine, b"", ()),)
                found.append((Delegate(parent_of(name), entries),))
            for salt in self.salts:
                register = Register(name, salt, b"", (), 50_000)
                preorder = Preorder(name_commitment(name, salt, mine))
                stolen = Preorder(name_commitment(name, salt, yours))
                found += [(register,), (preorder,), (preorder, register), (stolen,), (stolen, register)]
                if "." not in name:
                    found += self._openings(name, salt)
        return found

    @staticmethod
    def _openings(label: str, salt: bytes) -> list[tuple[Operation, ...]]:
        reveal = RevealNamespace(label, salt, RULE, 400, 400)
        preorder = Preorder(namespace_commitment(label, salt, MALLORY.public))
        entries = (Delegation("door", MALLORY.public, b"", ()), Delegation("low", MALLORY.public, b"", ()))
        delegate, ready = Delegate(label, entries), ReadyNamespace(label)
        stolen = Preorder(namespace_commitment(label, salt, ALICE.public))
        return [(reveal,), (preorder,), (preorder, reveal), (delegate,), (ready,), (reveal, delegate, ready), (stolen,)]


class World:
    """A ledger, Alice's way to what she wants, and Mallory in front of her."""

    def __init__(self, wish: str, is_ready: bool) -> None:
        self.ledger = Ledger(small_genesis(RULES))
        self.adversary = Adversary()
        if is_ready:
            own = Preorder(namespace_commitment("lab", SALT, MALLORY.public))
            assert self.ledger.run(MALLORY, own) == "ok"
            self.ledger.advance(1)
            reveal = RevealNamespace("lab", SALT, RULE, 20, 5)
            assert self.ledger.run(MALLORY, reveal, ReadyNamespace("lab")) == "ok"
        salt, self.name = bytes([9]) * 32, wish.removeprefix("namespace ")
        self.preorder, self.take = self._steps(wish, salt)

    def _steps(self, wish: str, salt: bytes) -> tuple[Operation, Operation]:
        if wish.startswith("namespace"):
            commitment = namespace_commitment(self.name, salt, ALICE.public)
            return Preorder(commitment), RevealNamespace(self.name, salt, RULE, 20, 5)
        return Preorder(name_commitment(wish, salt, ALICE.public)), Register(wish, salt, b"", (), 1_000)

    def commit(self, attempts: list[tuple[Operation, ...]], alice: Operation | None = None) -> str:
        """Mallory's attempts, then what Alice sends; the code that she gets."""
        first = self.ledger.sequence(MALLORY)
        ahead = [
            self.ledger.sign(MALLORY, *operations, sequence=first + number)
            for number, operations in enumerate(attempts)
        ]
        honest = [] if alice is None else [self.ledger.sign(ALICE, alice)]
        return ["ok", *self.ledger.commit(*ahead, *honest)][-1 if honest else 0]

    def owner(self) -> bytes:
        chain = self.ledger.chain
        record: Any = chain.namespace(self.name) if isinstance(self.take, RevealNamespace) else chain.name(self.name)
        assert record is not None
        owner: bytes = record.owner
        return owner


@pytest.mark.parametrize(("wish", "is_ready"), WISHES)
@given(data=st.data())
@settings(max_examples=40)
def test_who_copies_what_is_in_flight_gains_nothing(wish: str, is_ready: bool, data: st.DataObject) -> None:
    world = World(wish, is_ready)

    def some() -> list[tuple[Operation, ...]]:
        attempts = world.adversary.attempts()
        chosen = data.draw(st.lists(st.integers(0, max(0, len(attempts) - 1)), max_size=12))
        return [attempts[number] for number in chosen] if attempts else []

    world.adversary.see(world.preorder)
    assert world.commit(some(), world.preorder) == "ok"
    for _ in range(data.draw(st.integers(1, RULES.preorder_max - 2))):
        world.commit(some())
    world.adversary.see(world.take)
    if data.draw(st.booleans()):
        world.commit(some())  # what Alice sent comes a commit later than Mallory saw it
    assert world.commit(some(), world.take) == "ok"
    assert world.owner() == ALICE.public
    for _ in range(RULES.preorder_max):
        world.commit(some())
    assert world.owner() == ALICE.public


@pytest.mark.parametrize(("wish", "is_ready"), WISHES)
def test_everything_at_once_does_not_help_either(wish: str, is_ready: bool) -> None:
    world = World(wish, is_ready)
    world.adversary.see(world.preorder)
    assert world.commit(world.adversary.attempts(), world.preorder) == "ok"
    world.commit(world.adversary.attempts())
    world.adversary.see(world.take)
    world.commit(world.adversary.attempts())
    assert world.commit(world.adversary.attempts(), world.take) == "ok"
    for _ in range(RULES.preorder_max):
        world.commit(world.adversary.attempts())
        assert world.owner() == ALICE.public


@pytest.mark.parametrize(("wish", "is_ready"), WISHES)
def test_the_protection_lasts_for_as_many_commits_as_a_preorder_must_be_old(wish: str, is_ready: bool) -> None:
    """This adversary is worth something: who is held back for longer than that loses to her."""
    world = World(wish, is_ready)
    world.commit([], world.preorder)
    world.commit([])
    world.adversary.see(world.take)
    for _ in range(RULES.preorder_min + 1):
        world.commit(world.adversary.attempts())
    refusals = ("name_taken", "not_parent_owner", "label_is_name", "namespace_taken")
    assert world.commit(world.adversary.attempts(), world.take) in refusals
