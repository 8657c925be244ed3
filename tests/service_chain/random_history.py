"""Random histories of a ledger, drawn from one seed: valid and invalid transactions, mixed.

Run as a program it executes the history of a seed and prints everything that all nodes must agree on.
"""

from __future__ import annotations

import random
import sys
from collections import Counter
from collections.abc import Mapping, Sequence

from blockcloud.primitives import codec
from blockcloud.primitives.keys import SigningKey
from blockcloud.service_chain.contracts.limits import TRANSACTION_FUEL
from blockcloud.service_chain.contracts.runtime import contract_address
from blockcloud.service_chain.fees import fuel_of
from blockcloud.service_chain.name_price import PriceRule
from blockcloud.service_chain.operations import (
    DELEGABLE_TAGS,
    AddInstance,
    AnnounceEndpoint,
    CallContract,
    CloseLane,
    Delegate,
    Delegation,
    Deploy,
    GrantRole,
    OpenLane,
    Operation,
    Preorder,
    ReadyNamespace,
    Register,
    RemoveInstance,
    RenewName,
    RevealNamespace,
    RevokeGrant,
    RevokeName,
    RevokeRole,
    SetKeys,
    SetPolicy,
    Transfer,
    TransferName,
    UpdateName,
    name_commitment,
    namespace_commitment,
)
from blockcloud.service_chain.records import Lane
from blockcloud.service_chain.state_keys import lane_key, preorder_key
from tests.service_chain.contracts.contract_world import module
from tests.service_chain.ledger_in_memory import RICH, SALT, USERS, VALIDATORS, Ledger
from tests.service_chain.random_agreements import RandomAgreements
from tests.service_chain.random_markets import RandomMarkets
from tests.service_chain.random_verification import RandomVerification

NAMES = ["acme", "thermo.acme", "kitchen.acme", "a.kitchen.acme", "b", "a.lab", "x.lab"]
LABEL = "lab"
PEOPLE = [*USERS[1:5], VALIDATORS[0]]
BY_KEY = {user.public: user for user in [*USERS, *VALIDATORS]}
AMOUNTS = [1, 9_999, 10_000, 12_345, RICH // 100, RICH // 5, 2**62]
LANES = [1, 2, 3, 4, 5]
ALLOWED = [DELEGABLE_TAGS, DELEGABLE_TAGS, (1,)]
CONTRACT = module(
    """(data (i32.const 64) "store")
    (func $take (drop (call $args (i32.const 0) (i32.const 33))))
    (func (export "store") (call $take)
      (call $put (i32.const 32) (i32.const 1) (i32.const 0) (i32.load8_u (i32.const 32)))
      (call $emit (i32.const 64) (i32.const 5) (i32.const 0) (i32.const 33)))
    (func (export "drop") (call $take) (drop (call $delete (i32.const 32) (i32.const 1))))
    (func (export "pay") (call $take) (call $transfer (i32.const 0) (i64.mul (call $balance) (i64.const 1))))
    (func (export "on") (call $take) (drop (call $call (i32.const 0) (i32.const 64) (i32.const 5) (i32.const 0)
      (i32.const 33) (i64.div_u (call $balance) (i64.const 3)) (i32.const 0) (i32.const 0))))
    (func (export "loop") (loop $l (br $l)))"""
)
POLICIES = [
    "",
    "permit(principal, action, resource);",
    'permit(principal in Role::"b", action, resource);',
    'permit(principal in Team::"b", action, resource);',
]
HASHES = [b"", bytes([1]) * 32, bytes([2]) * 32]


class RandomHistory:
    """Draws the next commits of `ledger` from `source`: transactions of `people`, whose keys are in `keys`."""

    people: Sequence[SigningKey] = PEOPLE
    keys: Mapping[bytes, SigningKey] = BY_KEY
    labels: Sequence[str] = (LABEL,)  # of namespaces
    care = 1  # how much more often transactions are made well

    def __init__(self, ledger: Ledger, source: random.Random) -> None:
        self.ledger, self.source = ledger, source
        # (user, lane) -> how many transactions of theirs are in the commit being made.
        self.under_way: Counter[tuple[bytes, int]] = Counter()
        self.sent: list[bytes] = []
        self.contracts: list[bytes] = []  # that somebody tried to make
        self.agreements = RandomAgreements(ledger, source, self.people, self.keys, NAMES)
        self.markets = RandomMarkets(ledger, source, self.people, NAMES)
        self.verification = RandomVerification(ledger, source, self.people, NAMES, self.agreements)

    def step(self) -> None:
        """Execute one commit of up to six transactions."""
        self.under_way.clear()
        payloads = [self.transaction() for _ in range(self.source.randrange(8))]
        for payload in payloads:
            assert self.ledger.chain.check(payload) >= 1
        self.sent += payloads
        self.ledger.commit(*payloads, blocks=self.source.choice([1, 2]))

    def transaction(self) -> bytes:
        choose = self.source.choice
        if self.sent and self.source.random() < 0.1 / self.care:
            return choose(self.sent)
        user = choose(self.people)
        account = self.ledger.chain.account(user.public)
        assert account is not None
        lane = choose([0, 0, 0, account.highest_lane])
        record = self.ledger.chain.get(lane_key(user.public, lane)) if lane else None
        opened = codec.decode(record, Lane, limit=1_000) if record else None
        sequence = opened.sequence if opened else account.sequence
        sequence += self.under_way[user.public, lane] + choose([0] * 20 * self.care + [1, -1])
        self.under_way[user.public, lane] += 1
        operations = self.operations(user.public, choose([1, 1, 1, 2, 3]))
        joining = [key for each in operations if isinstance(each, SetKeys) for key in each.keys]
        able = [opened.key] if opened else self.signing(user.public, joining)
        if self.source.random() < 0.05 / self.care:  # a stranger, or one too few
            able = able[1:] or [choose(self.people).public]
        return self.ledger.sign(
            user,
            *operations,
            lane=lane,
            sequence=max(0, sequence),
            signers=[self.keys[key] for key in dict.fromkeys([*able, *joining])],
            valid_until=self.ledger.height + choose([0, *[50] * 25 * self.care]),
            fee_limit=choose([10, *[RICH] * 25 * self.care]),
        )

    def signing(self, account: bytes, joining: list[bytes]) -> list[bytes]:
        """Keys that may sign for an account now, those first that stay among its keys."""
        record = self.ledger.chain.account_keys(account)
        if record is None:
            return [account]
        return sorted(record.keys, key=lambda key: key not in joining)[: record.threshold]

    def operations(self, sender: bytes, count: int) -> list[Operation]:
        """So many of one transaction, or fewer if they would have more fuel than a transaction may have."""
        drawn = [self.operation(sender) for _ in range(count)]
        while fuel_of(drawn) > TRANSACTION_FUEL:
            drawn.pop()
        return drawn

    def operation(self, sender: bytes) -> Operation:
        """Mostly something that may well be allowed now, sometimes anything."""
        choose, chain = self.source.choice, self.ledger.chain
        name, other, key = self.name_for(sender), choose([*self.people, *USERS[5:]]).public, choose(USERS).public
        commitment = name_commitment(name, SALT, sender)
        transfer = Transfer(choose([other, other, self.source.randbytes(32)]), choose(AMOUNTS))
        account = chain.account(sender)
        next_lane = 1 if account is None else account.highest_lane + 1
        lanes: list[Operation] = [
            OpenLane(
                choose([*LANES, next_lane]),
                choose([sender, key]),
                choose(ALLOWED),
                choose(AMOUNTS),
                choose([0, 10, 90]),
            ),
            CloseLane(choose([*LANES, max(1, next_lane - 1)])),
        ]
        keys = tuple(sorted({sender, key, other} if other in self.keys else {key}))
        keys = choose([keys, keys, keys[:1], (sender,)])
        set_keys = SetKeys(choose([1, len(keys), len(keys)]), keys, choose([True, False]))
        limit, member = choose([0, RICH, RICH]), choose(self.people[:2]).public
        register = Register(name, SALT, choose(HASHES), choose([(), (key,)]), limit)
        changes: list[Operation] = [
            UpdateName(name, choose(HASHES)),
            AddInstance(name, member),
            RemoveInstance(name, member),
            TransferName(name, other),
            RenewName(name, limit),
            Delegate(name, (Delegation(choose(["thermo", "kitchen", "a"]), other, choose(HASHES), ()),)),
            RevokeName(name),
            SetPolicy(name, choose(POLICIES)),
            GrantRole(name, member),
            RevokeRole(name, member),
            RevokeGrant(name, choose(HASHES), choose([0, 2**40])),
        ]
        endpoint = AnnounceEndpoint("http://127.0.0.1:9")
        kind, record = self.source.randrange(20), chain.name(name)
        if kind < 3:
            return transfer
        if kind == 3:
            return choose([*lanes, *lanes, endpoint, set_keys, set_keys])
        if kind == 10:
            return self.of_contracts(sender)
        if kind >= 18:
            return self.verification.operation(sender)
        if kind >= 15:
            return self.markets.operation(sender)
        if kind >= 13:
            return self.agreements.operation(sender)
        if kind >= 11:
            return self.of_namespaces(sender, other)
        if kind < 9 and record is not None and record.is_active(chain.height):
            return choose(changes) if record.owner == sender else transfer
        if kind < 9:
            preordered = chain.get(preorder_key(commitment, sender)) is not None
            return register if preordered and choose([True, False]) else Preorder(commitment)
        return choose([Preorder(commitment), register, *changes])

    def of_namespaces(self, sender: bytes, other: bytes) -> Operation:
        """A step on the way of a namespace, mostly the next one."""
        choose, chain = self.source.choice, self.ledger.chain
        label = choose(self.labels)
        commitment = namespace_commitment(label, SALT, sender)
        rule = PriceRule(choose([0, 40, 1_000]), 2, (3, *(0,) * 15), 1, 1)
        steps = [
            Preorder(commitment),
            RevealNamespace(label, SALT, rule, choose([5, 30]), 3),
            Delegate(label, (Delegation("a", other, choose(HASHES), ()), Delegation("x", sender, b"", ()))),
            ReadyNamespace(label),
        ]
        if self.source.random() < 0.2:
            return choose(steps)
        record = chain.namespace(label)
        if record is None:
            return steps[1 if chain.get(preorder_key(commitment, sender)) is not None else 0]
        return steps[3 if chain.name(f"a.{label}") is not None else 2]

    def name_for(self, sender: bytes) -> str:
        """The name that the next operation is about, if it is about one."""
        return self.source.choice(NAMES)

    def of_contracts(self, sender: bytes) -> Operation:
        """A deployment, or a call that stores, deletes, pays, calls on, tells, or goes wrong."""
        choose = self.source.choice
        limit, fuel = choose([0, RICH, RICH]), choose([100_000, 200_000, 2_000_000, 2_000_000])
        value = choose([0, 0, 10_000, RICH // 50, 2**53])
        if not self.contracts or self.source.random() < 0.2:
            salt = self.source.randbytes(1)
            self.contracts.append(contract_address(sender, CONTRACT, salt))
            return Deploy(CONTRACT, salt, b"", value, limit, choose([2_500_000, 5_000_000]))
        arguments = choose([*self.people, *USERS[5:]]).public + self.source.randbytes(1)
        method, other = choose(["store", "drop", "pay", "on", "on", "loop", "none"]), choose(self.contracts)
        arguments = other if method == "on" else arguments
        return CallContract(choose(self.contracts), method, arguments, value, limit, fuel)


def agreed(ledger: Ledger) -> list[str]:
    """What all nodes must agree on after this history."""
    lines = []
    for result in ledger.results:
        root = result.state_root.hex() if result.state_root else "-"
        lines.append(f"{result.height} {result.change_digest.hex()} {root}")
        for transaction_id, code in result.outcomes:
            lines.append(f"  {transaction_id.hex()} {code} {ledger.chain.receipt(transaction_id)}")
        lines.extend(f"  {kind} {data.hex()}" for kind, data in result.events)
    return lines


if __name__ == "__main__":
    ledger = Ledger()
    history = RandomHistory(ledger, random.Random(int(sys.argv[1])))
    for _ in range(30):
        history.step()
    print("\n".join(agreed(ledger)))
