"""Operations and contracts, fuzzed: whatever the bytes, `check` gives a count or raises a typed fault, and what passes
it can be executed with a typed outcome. Nothing else ever comes out, or a client could stop every validator.

Inputs are transactions of every kind damaged as bytes; transactions whose operations were changed as values and signed
again, so that they get past codec and signatures to the rules; and deployments of Wasm modules that were damaged, or
ask for what they must not, with calls of them. 4,000 of them by default, 50,000 in the long test.

    BLOCKCLOUD_FUZZ_INPUTS=1000000 python3 dev.py test --long tests/service_chain/test_operation_fuzz.py
"""

from __future__ import annotations

import copy
import os
from collections import Counter
from random import Random
from typing import Any

import pytest

from blockcloud.primitives import codec
from blockcloud.primitives.errors import BlockCloudError, PeerFault
from blockcloud.primitives.keys import SigningKey
from blockcloud.sdk.contracts import build
from blockcloud.service_chain.contracts.limits import TRANSACTION_FUEL
from blockcloud.service_chain.contracts.runtime import contract_address
from blockcloud.service_chain.operations import OPERATIONS, TAGS, CallContract, Deploy, Operation, SetKeys
from blockcloud.service_chain.transaction import DOMAIN, WireTransaction, parse_transaction
from tests.service_chain.contracts.contract_world import EXAMPLES, module
from tests.service_chain.ledger_in_memory import FOREVER, RICH
from tests.service_chain.random_eras import EraHistory, HistoryLedger
from tests.service_chain.random_history import CONTRACT, NAMES, PEOPLE
from tests.transaction_chain.test_wire_fuzz import HEADS, changed, damaged
from tests.transaction_chain.wire_samples import plain

INPUTS = int(os.environ.get("BLOCKCLOUD_FUZZ_INPUTS", "50000"))
SHORT_INPUTS = 4_000
COMMITS_BEFORE = 60  # of a random history, so that there is something to break
COMMIT_INPUTS = 40
LEAST_DRAWS, DRAWS = 4_000, 40_000
SAMPLES = 12  # of each kind of operation
TREE_TRIES = 8

# Bodies that compile, trap, loop, recurse or ask for much; damaged further.
BODIES = [
    '(func (export "run") (drop (call $args (i32.const -1) (i32.const 33))))',
    '(func (export "run") (call $put (i32.const 65530) (i32.const 100) (i32.const 0) (i32.const 8)))',
    '(func (export "run") (loop $l (br $l)))',
    '(func $f (export "run") (call $f))',
    '(func (export "run") (drop (memory.grow (i32.const 65535))) (unreachable))',
    '(func (export "run") (result i32) (i32.const 1))',
    '(func (export "init") (call $emit (i32.const 0) (i32.const 99) (i32.const 0) (i32.const 999)))',
    '(func (export "run") (drop (i64.div_s (i64.const -9223372036854775808) (i64.const -1))))',
    '(func (export "run") (drop (call $call (i32.const 0) (i32.const 0) (i32.const 3) (i32.const 9) (i32.const 70000)'
    " (call $balance) (i32.const 0) (i32.const 70000))))",
    '(func (export "run") (call $transfer (i32.const 65535) (i64.const -1)))',
    '(func (export "run") (drop (call $get (i32.const 0) (i32.const -1) (i32.const 0) (i32.const -1))))',
    '(func (export "run") (drop (call $verify (i32.const 65500) (i32.const 65500) (i32.const 9) (i32.const 65500))))',
]


class World:
    """A chain with a past, of whose people every input is."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.ledger = HistoryLedger()
        self.history = EraHistory(self.ledger, self.random)
        for _ in range(COMMITS_BEFORE):
            self.history.step()
        self.samples = self._samples()
        self.modules = [*(module(body) for body in BODIES), CONTRACT, build(EXAMPLES / "escrow")]
        self.deployed: list[bytes] = []
        self.seen: Counter[str] = Counter()
        self._sequences: Counter[bytes] = Counter()

    def check(self, payload: bytes) -> bool:
        """Whether a node would let it into a block. Raises whatever `check` must not raise, with the input."""
        try:
            assert self.ledger.chain.check(payload) >= 1
        except PeerFault as fault:
            self.seen[fault.code] += 1
            return False
        except Exception as error:
            error.add_note(f"input: {payload.hex()} ({len(payload)} bytes)")
            raise
        self._sequences[parse_transaction(payload).body.sender] += 1
        return True

    def execute(self, payloads: list[bytes]) -> None:
        """Execute what passed `check`. Raises whatever `execute` raises, with the inputs."""
        self._sequences.clear()
        try:
            result = self.ledger.execute(tuple(payloads))
        except BlockCloudError as error:
            raise AssertionError(f"a commit of checked payloads raised {error.code}") from error
        except Exception as error:
            error.add_note("inputs: " + " ".join(payload.hex() for payload in payloads))
            raise
        assert len(result.outcomes) == len(payloads)
        chain = self.ledger.chain
        self.deployed = [one for one in self.deployed if chain.contract(one) is not None]
        self.seen.update(code for _, code in result.outcomes)

    def signed(self, operations: list[Any], user: SigningKey) -> bytes:
        """A transaction of `user` with whatever stands for operations, its sequence and signature good."""
        sequence = self.ledger.sequence(user) + self._sequences[user.public]
        tree = [self.ledger.chain.chain_id, user.public, 0, sequence, FOREVER, 2**53, operations]
        body = codec.encode(tree)
        joining = [key for operation in operations for key in self._joining(operation)]
        signers = sorted({*self.history.signing(user.public, joining), *joining})
        signatures = [(key, self.history.keys[key].sign(DOMAIN, body)) for key in signers]
        return codec.encode(WireTransaction(body, tuple(signatures)))

    def _joining(self, operation: Any) -> list[bytes]:
        """The keys that have to sign a change of keys, as far as they are anybody's."""
        match operation:
            case [tag, _, [*keys], *_] if tag == TAGS[SetKeys]:
                return [key for key in keys if isinstance(key, bytes) and key in self.history.keys]
        return []

    def user(self) -> SigningKey:
        """Somebody with money, mostly."""
        return self.random.choice(self.history.people)

    def operation(self) -> Any:
        """The tree of an operation of a kind drawn evenly, changed in a few places or not at all."""
        kind = self.random.choice(OPERATIONS)
        tree = plain(self.random.choice(self.samples[kind]))
        for _ in range(self.random.choice((0, 1, 1, 2, 3))):
            change = changed if self.random.random() < 0.2 else nudged
            tree = change(self.random, tree) if isinstance(tree, list) else tree
        return tree

    def contract(self, user: SigningKey) -> Operation:
        """A deployment of a damaged module, or a call of one that was deployed."""
        random = self.random
        if self.deployed and random.random() < 0.4:
            method = random.choice(["run", "init", "store", "on", "pay", "\u0000", "x" * 32])
            arguments = random.randbytes(random.choice((0, 1, 33, 4_000)))
            value = random.choice((0, 1, 2**53))
            return CallContract(
                random.choice(self.deployed), method, arguments, value, RICH, random.choice((1, 500_000))
            )
        code = random.choice(self.modules)
        if random.random() < 0.8:
            code = damaged(random, code, self.modules)[: 24 * 1024]
        code = code if len(code) >= 8 else code + bytes(8)
        salt = random.randbytes(1)
        self.deployed = [*self.deployed[-20:], contract_address(user.public, code, salt)]
        return Deploy(code, salt, random.randbytes(4), 0, RICH, random.choice((3_000_000, TRANSACTION_FUEL)))

    def _samples(self) -> dict[type[Operation], list[Operation]]:
        """Operations of each kind, as the history draws them."""
        samples: dict[type[Operation], list[Operation]] = {kind: [] for kind in OPERATIONS}
        for number in range(DRAWS):
            if number >= LEAST_DRAWS:
                if all(samples.values()):
                    break
                if number % 100 == 0:
                    self.history.step()  # some kinds are drawn only of a ledger in which names have owners
            operation = self.history.operation(self.user().public)
            if len(samples[type(operation)]) < SAMPLES:
                samples[type(operation)].append(operation)
        missing = [kind.__name__ for kind, found in samples.items() if not found]
        assert missing == [], "draw these kinds in RandomHistory.operation"
        return samples


def nudged(random: Random, tree: Any) -> Any:
    """`tree` with one value in it replaced by another of its type, of the right length mostly; the tag stays."""
    tree = copy.deepcopy(tree)
    places: list[tuple[Any, int]] = []
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        for place, value in enumerate(node):
            if node is not tree or place:
                places.append((node, place))
            if isinstance(value, list):
                waiting.append(value)
    if not places:
        return tree
    node, place = random.choice(places)
    value = node[place]
    match value:
        case int():
            node[place] = random.choice((0, 1, value + 1, abs(value - 1), 2**40, 2**53, 2**63 - 1, random.randrange(9)))
        case bytes():
            whole = random.choice((random.randbytes(len(value)), bytes(len(value)), random.choice(PEOPLE).public))
            node[place] = random.choice((whole, whole, value[:-1], b""))
        case str():
            node[place] = random.choice((random.choice(NAMES), value + "a", "a." + value, value.upper(), "", value * 9))
        case list() if value:
            which = random.randrange(len(value))
            node[place] = random.choice((value[:which] + value[which + 1 :], [*value, value[which]], value[::-1], []))
    return tree


def payload_of(world: World, valid: list[bytes]) -> bytes:
    """The next input."""
    random, user = world.random, world.user()
    way = random.random()
    if way < 0.25:
        return damaged(random, random.choice(valid), valid)
    if way < 0.27:
        return b"".join(random.choices(HEADS, k=random.randrange(8))) + random.randbytes(random.randrange(40))
    if way < 0.4:
        return world.signed([plain(world.contract(user))], user)
    return unencodable_left_out(world, user)


def unencodable_left_out(world: World, user: SigningKey) -> bytes:
    """A signed transaction of changed operations. Some values cannot be written as msgpack at all."""
    for _ in range(TREE_TRIES):
        count = world.random.choice((1, 1, 1, 2, 3))
        try:
            return world.signed([world.operation() for _ in range(count)], user)
        except (ValueError, TypeError, OverflowError, RecursionError):
            continue
    return world.signed([], user)


def fuzz(seed: int, inputs: int) -> Counter[str]:
    """What became of so many inputs."""
    world = World(seed)
    valid = [world.signed([plain(operation)], world.user()) for found in world.samples.values() for operation in found]
    for _ in range(-(-inputs // COMMIT_INPUTS)):
        drawn = (payload_of(world, valid) for _ in range(COMMIT_INPUTS))
        world.execute([payload for payload in drawn if world.check(payload)])
    assert world.ledger.money() == world.ledger.chain.fees.supply
    return world.seen


def test_the_samples_get_through() -> None:
    world = World(1)
    for found in world.samples.values():
        for operation in found:
            assert world.check(world.signed([plain(operation)], world.user())), operation
    assert len(TAGS) == len(world.samples)


def test_some_damaged_operations_end_in_typed_refusals(run_seed: int) -> None:
    seen = fuzz(run_seed, SHORT_INPUTS)
    assert sum(seen.values()) >= SHORT_INPUTS
    assert {"malformed", "bad_signature", "ok"} <= seen.keys(), seen


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("part", range(5))
def test_many_damaged_operations_end_in_typed_refusals(run_seed: int, part: int) -> None:
    seen = fuzz(run_seed + part, INPUTS // 5)
    assert sum(seen.values()) >= INPUTS // 5
    assert len(seen) > 50, seen


def test_bytes_that_are_no_transaction_are_refused_by_the_parser(run_seed: int) -> None:
    random = Random(run_seed)
    for _ in range(2_000):
        with pytest.raises(PeerFault):
            parse_transaction(random.randbytes(random.randrange(200)))
