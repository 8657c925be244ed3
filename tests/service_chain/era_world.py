"""A ledger in memory whose eras are twenty commits long, with candidates, their keys and onions, and evidence."""

from __future__ import annotations

from typing import Any, TypeVar

from msgspec.structs import replace

from blockcloud.primitives import codec
from blockcloud.primitives.amounts import GENESIS_SUPPLY_MICRO_BLOC
from blockcloud.primitives.certificates import CHECKPOINT, DOMAIN, SignedStatement, Statement
from blockcloud.primitives.hash_onion import HashOnion
from blockcloud.primitives.keys import SigningKey
from blockcloud.primitives.storage import Store
from blockcloud.service_chain.genesis import Genesis, GenesisValidator, StakingParameters
from blockcloud.service_chain.operations import (
    Bond,
    Operation,
    Ready,
    ReportConflict,
    ReportEquivocation,
    Reveal,
    SignedHeader,
)
from blockcloud.service_chain.records import Candidate, CandidateIndex, EraTally
from blockcloud.service_chain.state_keys import CANDIDATES_KEY, TALLY_KEY
from blockcloud.transaction_chain.block import Block, BlockReference, Header, sign_block
from blockcloud.transaction_chain.commit import Commit, CommitRecord
from blockcloud.transaction_chain.era import EraPlan
from blockcloud.transaction_chain.machine import Result
from blockcloud.transaction_chain.parameters import Parameters
from tests.service_chain.ledger_in_memory import NAMING, RICH, Ledger, small_genesis

ERA_LENGTH = 20
# Heights of era 0: bonds and keys freeze before 7, reveals count from 9 to 14, 20 is the last.
FREEZE, WINDOW_FIRST, WINDOW_LAST = 7, 9, 14
MINIMUM = 1_000_000
ONION_LAYERS = 12
# Unbonding is over with its eras, unless a test gives it time.
STAKING = StakingParameters(committee_size=4, minimum_bond=MINIMUM, onion_length=ONION_LAYERS, unbonding_ms=1)
NODES = [SigningKey(bytes([3, number]) + bytes(30)) for number in range(7)]
BY_NODE_KEY = {node.public: node for node in NODES}
MEMBERS = 4
BOND = 3 * MINIMUM
R = TypeVar("R")
LINK, API = "127.0.0.1:8701", "http://127.0.0.1:8700"


def onion(node: int, generation: int = 0) -> HashOnion:
    return HashOnion(bytes([9, node, generation]) + bytes(29), ONION_LAYERS)


def era_key_of(node: int, era: int, other: int = 0) -> SigningKey:
    """The consensus key of a node in an era; in era 0 the members sign with their node keys."""
    return NODES[node] if era == 0 else SigningKey(bytes([4, node, era, other]) + bytes(28))


def era_genesis(staking: StakingParameters = STAKING, members: int = MEMBERS, onions: bool = False) -> Genesis:
    """The first `members` of NODES sit in era 0; all have RICH. With `onions` they owe reveals."""
    base = small_genesis(NAMING)
    accounts = [*base.accounts, *((node.public, RICH) for node in NODES)]
    spare = sum(balance for _, balance in accounts[1:]) + BOND * members
    accounts[0] = (accounts[0][0], GENESIS_SUPPLY_MICRO_BLOC - spare)
    return replace(
        base,
        parameters=Parameters(checkpoint_period=7, era_length=ERA_LENGTH, leader_table_period=5),
        staking=staking,
        accounts=tuple(accounts),
        validators=tuple(
            GenesisValidator(node.public, BOND, API, LINK, onion_tip=onion(number).tip if onions else b"")
            for number, node in enumerate(NODES[:members])
        ),
    )


class EraLedger(Ledger):
    """Commits of which the test says who wrote blocks, who led, and when it was."""

    def __init__(self, genesis: Genesis | None = None, store: Store | None = None) -> None:
        super().__init__(genesis or era_genesis(), store)
        self.plans = [self.chain.plan]

    @property
    def plan(self) -> EraPlan:
        return self.plans[-1]

    def execute(
        self,
        payloads: tuple[bytes, ...] = (),
        blocks: int = 1,
        *,
        authors: list[int] | None = None,
        leaders: list[int] | None = None,
        time_ms: int | None = None,
        level: int | None = None,
    ) -> Result:
        """A commit by the members with the numbers `authors` (default: all), led by `leaders` (default: the first)."""
        height = self.record.height + 1
        level = level or height - self.plan.first_height + 1
        authors = list(range(len(self.plan.seats))) if authors is None else authors
        made = [self._made(level, author, payloads if index == 0 else ()) for index, author in enumerate(authors)]
        if payloads and not made:
            made = [self._made(level, 0, payloads)]
        references = tuple(block.reference for block in made)
        led = references[:1] if leaders is None else tuple(BlockReference(level, a, bytes(32)) for a in leaders)
        time_ms = self.record.time_ms + 100 if time_ms is None else time_ms
        era, previous = self.plan.era, self.record.digest()
        self.record = CommitRecord(era, height, level, previous, led, references, time_ms)
        batch_result = self._apply(Commit(self.record, self.record.digest(), tuple(made)))
        if batch_result.next_era is not None:
            self.plans.append(batch_result.next_era)
        return batch_result

    def to(self, height: int) -> None:
        """Empty commits up to and including `height`."""
        while self.height < height:
            self.execute()

    def at(self, offset: int) -> None:
        """Empty commits until the next one is number `offset` (0 and up) of the present era."""
        self.to(self.plan.first_height + offset - 1)

    def end_era(self) -> EraPlan:
        """Empty commits until the present era is over."""
        self.to(self.plan.first_height + ERA_LENGTH - 1)
        return self.plan

    def candidate(self, node: int) -> Candidate:
        candidate = self.chain.candidate(NODES[node].public)
        assert candidate is not None
        return candidate

    def do(self, node: int, *operations: Operation) -> str:
        return self.run(NODES[node], *operations)

    def bond(self, node: int, amount: int, generation: int | None = None) -> str:
        tip = b"" if generation is None else onion(node, generation).tip
        return self.do(node, Bond(amount, LINK, API, tip))

    def ready(self, *nodes: int) -> None:
        """Make nodes ready for the next era, in one commit."""
        era = self.plan.era + 1
        operations = [(node, Ready(era, era_key_of(node, era).public)) for node in nodes]
        assert set(self.commit(*(self.sign(NODES[node], operation) for node, operation in operations))) <= {"ok"}

    def reveal(self, *nodes: int) -> None:
        """Reveal by the onions of the genesis, in one commit."""
        value = {node: onion(node).reveal(self.plan.era + 1) for node in nodes}
        assert set(self.commit(*(self.sign(NODES[node], Reveal(value[node])) for node in nodes))) <= {"ok"}

    def members(self) -> list[int]:
        """The members of the present committee as numbers of NODES, in the committee's order."""
        order = [node.public for node in NODES]
        return [order.index(seat.node_key) for seat in self.plan.seats]

    def candidate_keys(self) -> tuple[bytes, ...]:
        """The node keys of all who have a bond."""
        return self._record(CANDIDATES_KEY, CandidateIndex).keys

    def tally(self) -> EraTally:
        return self._record(TALLY_KEY, EraTally)

    def _record(self, key: bytes, shape: type[R]) -> R:
        value = self.chain.get(key)
        assert value is not None
        return codec.decode(value, shape, limit=2**16)

    def _made(self, level: int, author: int, payload: tuple[bytes, ...]) -> Block:
        header = Header(self.chain.chain_id, self.plan.era, author, level, (), level, bytes(32))
        return sign_block(header, payload, NODES[0])


def signed_header(chain_id: bytes, era: int, author: int, level: int, key: SigningKey, variant: int) -> SignedHeader:
    block = sign_block(Header(chain_id, era, author, level, (), variant, bytes(32)), (), key)
    return SignedHeader(codec.encode(block.header), key.public, block.signature)


def equivocation(
    chain_id: bytes, era: int, author: int, level: int, key: SigningKey, variant: int = 0
) -> ReportEquivocation:
    """Evidence that `key` signed two blocks."""
    first, second = (signed_header(chain_id, era, author, level, key, variant + number) for number in (0, 1))
    return ReportEquivocation(first, second)


def conflict(
    chain_id: bytes,
    era: int,
    height: int,
    key: SigningKey,
    kind: str = CHECKPOINT,
    second: dict[str, Any] | None = None,
) -> ReportConflict:
    """Evidence that `key` signed two statements about one height; `second` is changed in the second of them."""
    statements = [Statement(kind, chain_id, era, height, (bytes([n]) * 32, bytes(32))) for n in (1, 2)]
    statements[1] = replace(statements[1], **(second or {}))
    signed = [SignedStatement(s, key.public, key.sign(DOMAIN, codec.encode(s))) for s in statements]
    return ReportConflict(*signed)
