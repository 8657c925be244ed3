"""Random histories of names, namespaces and batches against the slow model (`names_model`): codes, records, money."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from blockcloud.service_chain.genesis import NamingParameters
from blockcloud.service_chain.name_price import PriceRule
from blockcloud.service_chain.operations import (
    AddInstance,
    Delegate,
    Delegation,
    Operation,
    Preorder,
    ReadyNamespace,
    Register,
    RemoveInstance,
    RenewName,
    RevealNamespace,
    RevokeName,
    Transfer,
    TransferName,
    UpdateName,
    name_commitment,
    namespace_commitment,
)
from tests.service_chain import names_model
from tests.service_chain.ledger_in_memory import RICH, USERS, Ledger, small_genesis
from tests.service_chain.names_model import Action, Model

PEOPLE = USERS[1:5]
POOR = USERS[4]
POOR_HAS = 150_000
NAMING = NamingParameters(
    preorder_min=names_model.PREORDER_MIN,
    preorder_max=names_model.PREORDER_MAX,
    lifetime=names_model.LIFETIME,
    grace=names_model.GRACE,
    namespace_price=names_model.NAMESPACE_PRICE,
    ready_max=names_model.READY_WITHIN,
    name_price_max=names_model.PRICE_LIMIT,
    lifetime_max=names_model.LIFETIME_LIMIT,
)
DEEP = "h.g.f.e.d.c.b.acme"
NAMES = ["lab", "a.lab", "xt.lab", "b1.lab", "x.a.lab", "acme", "a.acme", "x.a.acme", DEEP, f"i.{DEEP}", "longlabels"]
LABELS = ["lab", "lab", "acme", "longlabels", "q"]
SALTS = [bytes([number]) * 32 for number in (1, 2)]
FILES = [b"", bytes([1]) * 32, bytes([2]) * 32]
VOID = ("fee_not_payable", "future_sequence")

people = st.integers(0, len(PEOPLE) - 1)
names = st.sampled_from([*NAMES[:8] * 2, *NAMES[8:]])
# Which of the names that there are, in their order; -1: the one that was drawn, whether or not there is one.
picks = st.sampled_from([*range(8), -1])
labels = st.sampled_from(LABELS)
salts = st.sampled_from(SALTS)
files = st.sampled_from(FILES)
keys = st.sampled_from([user.public for user in USERS[5:]])
key_sets = st.sampled_from([(), (USERS[5].public,), (USERS[6].public, USERS[7].public)])
limits = st.sampled_from([names_model.PRICE_LIMIT] * 4 + [0, 40])
rules = st.fixed_dictionaries(
    {
        "coefficient": st.sampled_from([0, 1, 40, 401, 401, 1_500, 50_000]),
        "base": st.sampled_from([1, 2, 3]),
        "exponents": st.sampled_from([(0,) * 16, (3, 2, 1, *(0,) * 13), (1, 0, 3, *range(13))]),
        "no_vowels": st.sampled_from([1, 3]),
        "other_signs": st.sampled_from([1, 2, 7]),
    }
)
lifetimes = st.sampled_from([1, 5, 25, 25, 30, names_model.LIFETIME_LIMIT, names_model.LIFETIME_LIMIT + 1])
graces = st.sampled_from([0, 2, 9, names_model.LIFETIME_LIMIT, names_model.LIFETIME_LIMIT + 1])


def operation_of(user: bytes, action: Action) -> Operation:
    """What a user sends to do this."""
    match action:
        case ("preorder", "name", text, salt):
            return Preorder(name_commitment(text, salt, user))
        case ("preorder", _, text, salt):
            return Preorder(namespace_commitment(text, salt, user))
        case ("register", name, salt, file, some, limit):
            return Register(name, salt, file, some, limit)
        case ("delegate", parent, entries):
            return Delegate(parent, tuple(Delegation(*entry) for entry in entries))
        case ("reveal", label, salt, price, lifetime, grace):
            parts = ("coefficient", "base", "exponents", "no_vowels", "other_signs")
            return RevealNamespace(label, salt, PriceRule(*(price[part] for part in parts)), lifetime, grace)
    kinds: dict[str, Any] = {
        "update": UpdateName,
        "add_key": AddInstance,
        "remove_key": RemoveInstance,
        "transfer": TransferName,
        "renew": RenewName,
        "revoke": RevokeName,
        "ready": ReadyNamespace,
    }
    made: Operation = kinds[action[0]](*action[1:])
    return made


class Names(RuleBasedStateMachine):
    """Transactions wait until a commit executes them."""

    @initialize(scene=st.sampled_from(["empty", "names", "ready", "importing", "above"]))
    def begin(self, scene: str) -> None:
        self.ledger = Ledger(small_genesis(NAMING))
        assert self.ledger.run(POOR, Transfer(USERS[0].public, RICH - POOR_HAS - 1_000)) == "ok"
        self.model = Model({user.public: self._balance(user.public) for user in USERS})
        self.burned_before = self.ledger.chain.fees.burned
        self.waiting: list[tuple[int, list[Action]]] = []
        rule: dict[str, Any] = {"coefficient": 40, "base": 2, "exponents": (5, 1, *(0,) * 14)}
        reveal = ("reveal", "lab", SALTS[0], {**rule, "no_vowels": 3, "other_signs": 7}, 25, 9)
        taken: dict[str, list[Action]] = {
            "empty": [],
            "names": [("register", name, SALTS[0], FILES[1], (), 0) for name in ("lab", "acme", "a.acme", "x.a.lab")],
            "ready": [reveal, ("delegate", "lab", (("a", PEOPLE[1].public, FILES[2], ()),)), ("ready", "lab")],
            "importing": [reveal],
            "above": [("register", "a.lab", SALTS[0], FILES[1], (), 0), reveal, ("ready", "lab")],
        }
        for action in taken[scene]:
            if action[0] in ("register", "reveal"):
                self._later(0, ("preorder", "namespace" if action[0] == "reveal" else "name", *action[1:3]))
        self._commits(names_model.PREORDER_MIN)
        self.waiting += [(0, [action]) for action in taken[scene]]
        self._commits(1)

    # One action.

    @rule(user=people, name=names, salt=salts)
    def preorder(self, user: int, name: str, salt: bytes) -> None:
        self._later(user, ("preorder", "name", name, salt))

    @rule(user=people, name=names, salt=salts, file=files, some=key_sets, limit=limits)
    def register(self, user: int, name: str, salt: bytes, file: bytes, some: tuple[bytes, ...], limit: int) -> None:
        self._later(user, ("register", name, salt, file, some, limit))

    @rule(user=people, name=names, pick=picks, file=files)
    def update(self, user: int, name: str, pick: int, file: bytes) -> None:
        name = self._picked(name, pick)
        self._later(self._owner(name, user), ("update", name, file))

    @rule(user=people, name=names, pick=picks, key=keys, add=st.booleans())
    def change_key(self, user: int, name: str, pick: int, key: bytes, add: bool) -> None:
        name = self._picked(name, pick)
        self._later(self._owner(name, user), ("add_key" if add else "remove_key", name, key))

    @rule(user=people, name=names, pick=picks, to=people)
    def transfer(self, user: int, name: str, pick: int, to: int) -> None:
        name = self._picked(name, pick)
        self._later(self._owner(name, user), ("transfer", name, PEOPLE[to].public))

    @rule(user=people, name=names, pick=picks, limit=limits)
    def renew(self, user: int, name: str, pick: int, limit: int) -> None:
        name = self._picked(name, pick)
        self._later(self._owner(name, user), ("renew", name, limit))

    @rule(user=people, name=names, pick=picks)
    def revoke(self, user: int, name: str, pick: int) -> None:
        name = self._picked(name, pick)
        self._later(self._owner(name, user), ("revoke", name))

    @rule(user=people, label=labels, pick=picks)
    def ready(self, user: int, label: str, pick: int) -> None:
        there = list(self.model.spaces)
        label = there[pick % len(there)] if there and pick >= 0 else label
        self._later(self._opener(label, user), ("ready", label))

    @rule(
        user=people,
        parent=st.sampled_from(["lab", *NAMES]),
        pick=picks,
        entries=st.lists(
            st.tuples(st.sampled_from(["a", "xt", "b1", "x", "i"]), people, files, key_sets),
            min_size=1,
            max_size=3,
            unique_by=lambda entry: entry[0],
        ),
    )
    def delegate(
        self, user: int, parent: str, pick: int, entries: list[tuple[str, int, bytes, tuple[bytes, ...]]]
    ) -> None:
        there = [*self.model.spaces, *self.model.names]
        parent = there[pick % len(there)] if there and pick >= 0 else parent
        named = tuple((label, PEOPLE[owner].public, file, some) for label, owner, file, some in entries)
        by = self._opener(parent, user) if parent in self.model.spaces else self._owner(parent, user)
        self._later(by, ("delegate", parent, named))

    @rule(user=people, which=st.lists(st.integers(0, 9), min_size=2, max_size=3))
    def bundle(self, user: int, which: list[int]) -> None:
        """Some waiting actions become one transaction of one user: all or nothing."""
        chosen = [self.waiting[index % len(self.waiting)][1][0] for index in which if self.waiting]
        if chosen:
            self.waiting.append((user, chosen))

    # Whole ways, so that histories get somewhere.

    @rule(user=people, name=names, salt=salts, wait=st.integers(1, 6), limit=limits)
    def own(self, user: int, name: str, salt: bytes, wait: int, limit: int) -> None:
        self._later(user, ("preorder", "name", name, salt))
        self._commits(wait)
        self._later(user, ("register", name, salt, FILES[1], (), limit))

    @rule(
        user=people,
        label=labels,
        salt=salts,
        price=rules,
        lifetime=lifetimes,
        grace=graces,
        wait=st.integers(1, 6),
        given_up=st.booleans(),
        then=st.sampled_from(["", "", "ready", "delegate", "both"]),
    )
    def open(
        self,
        user: int,
        label: str,
        salt: bytes,
        price: dict[str, Any],
        lifetime: int,
        grace: int,
        wait: int,
        given_up: bool,
        then: str,
    ) -> None:
        self._later(user, ("preorder", "namespace", label, salt))
        self._commits(wait)
        actions: list[Action] = [("revoke", label)] if given_up and self.model.is_held(label) else []
        actions.append(("reveal", label, salt, price, lifetime, grace))
        if then in ("delegate", "both"):
            actions.append(("delegate", label, (("a", PEOPLE[user].public, b"", ()), ("xt", USERS[1].public, b"", ()))))
        if then in ("ready", "both"):
            actions.append(("ready", label))
        self.waiting.append((user, actions))

    @rule(commits=st.integers(1, 4))
    def go_on(self, commits: int) -> None:
        self._commits(commits)

    @rule(commits=st.sampled_from([5, 15]))
    def wait_long(self, commits: int) -> None:
        self._commits(commits)

    # The ledger and the model.

    def _later(self, user: int, action: Action) -> None:
        self.waiting.append((user, [action]))

    def _picked(self, name: str, pick: int) -> str:
        there = [each for each in self.model.names if self.model.is_held(each)] or list(self.model.names)
        return there[pick % len(there)] if there and pick >= 0 else name

    def _owner(self, name: str, otherwise: int) -> int:
        """Mostly the one who may."""
        return self._number(self.model.names.get(name), otherwise)

    def _opener(self, label: str, otherwise: int) -> int:
        return self._number(self.model.spaces.get(label), otherwise)

    def _number(self, entry: dict[str, Any] | None, otherwise: int) -> int:
        publics = [user.public for user in PEOPLE]
        # One in four tries it without the right to.
        return otherwise if entry is None or otherwise == 0 else publics.index(entry["owner"])

    def _balance(self, user: bytes) -> int:
        account = self.ledger.chain.account(user)
        assert account is not None
        return account.balance

    def _commits(self, count: int) -> None:
        self._commit()
        for _ in range(count - 1):
            self._commit()
        self._compare()

    def _commit(self) -> None:
        sequences = {user: self.ledger.sequence(PEOPLE[user]) for user, _ in self.waiting}
        payloads = []
        for user, actions in self.waiting:
            operations = [operation_of(PEOPLE[user].public, action) for action in actions]
            payloads.append(self.ledger.sign(PEOPLE[user], *operations, sequence=sequences[user]))
            sequences[user] += 1
        outcomes = self.ledger.execute(tuple(payloads)).outcomes
        self.model.height = self.ledger.height
        for (user, actions), (identifier, code) in zip(self.waiting, outcomes, strict=True):
            receipt = self.ledger.chain.receipt(identifier)
            if receipt is None:
                assert code in VOID
                assert PEOPLE[user] == POOR
                continue
            public = PEOPLE[user].public
            self.model.balances[public] -= receipt.fee
            self.burned_before += receipt.fee - receipt.fee // 2
            assert self.model.transaction(public, actions) == code, actions
        self.waiting.clear()

    def _compare(self) -> None:
        chain, model = self.ledger.chain, self.model
        for user in USERS:
            assert self._balance(user.public) == model.balances[user.public]
        assert chain.fees.burned == self.burned_before + model.burned
        for name in dict.fromkeys([*NAMES, *model.names]):
            assert self._shown_name(name) == model.names.get(name), name
        for label in LABELS:
            assert self._shown_space(label) == model.spaces.get(label), label
        for file in FILES[1:]:
            assert chain.is_announced(file) == any(entry["file"] == file for entry in model.names.values())

    def _shown_name(self, name: str) -> dict[str, Any] | None:
        """A name of the ledger in the words of the model."""
        record = self.ledger.chain.name(name)
        if record is None:
            return None
        return {
            "owner": record.owner,
            "file": record.service_file_hash,
            "keys": list(record.instance_keys),
            "registered": record.registered_height,
            "expires": record.expires_height,
            "grace": record.held_until_height - record.expires_height,
            "changed": record.changed_height,
            "previous": record.previous_height,
            "given_up": record.revoked,
            "deposit": record.deposit,
        }

    def _shown_space(self, label: str) -> dict[str, Any] | None:
        """A namespace of the ledger in the words of the model."""
        record = self.ledger.chain.namespace(label)
        if record is None:
            return None
        assert record.lapses_height == record.revealed_height + names_model.READY_WITHIN
        return {
            "owner": record.owner,
            "rule": {
                "coefficient": record.rule.coefficient,
                "base": record.rule.base,
                "exponents": record.rule.exponents,
                "no_vowels": record.rule.no_vowel_discount,
                "other_signs": record.rule.non_letter_discount,
            },
            "lifetime": record.lifetime,
            "grace": record.grace,
            "revealed": record.revealed_height,
            "ready": record.ready_height,
            "deposit": record.deposit,
        }


TestNames = Names.TestCase
TestNames.settings = settings(
    max_examples=40, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
