"""The least service machine: its state is a hash over everything executed so far.

Two members have the same state only if they executed the same payloads in the same order, which is all that a
simulation of layer 1 asks. It has eras too: the next committee follows from the state, so that it is as unforeseeable
as that of the production ledger, at none of its cost. Per boundary somebody else sits out, the numbers of the members
turn, and every fifth era keeps the committee and its keys, as a ledger does that finds nobody else.
"""

from __future__ import annotations

from typing import Protocol

from blockcloud.primitives import codec
from blockcloud.primitives.errors import Malformed
from blockcloud.primitives.hashes import ZERO_DIGEST, tagged_hash
from blockcloud.primitives.keys import SigningKey
from blockcloud.primitives.storage import Batch, Store
from blockcloud.service_chain.genesis import Genesis
from blockcloud.service_chain.records import Candidate
from blockcloud.transaction_chain.commit import Commit, genesis_record
from blockcloud.transaction_chain.era import PLAN_BYTES, EraPlan, Seat, placement_salt
from blockcloud.transaction_chain.machine import Result

_STATE_KEY = b"hash"
_PLAN, _ROOT, _LAST_CHECKPOINT = b"plan", b"root", b"checkpoint"
# What every machine must refuse: liars put it into their blocks.
REFUSED_PAYLOAD = b"\xffno machine takes this"
FEWEST_MEMBERS = 4
KEPT_EVERY = 5


class Chain(Protocol):
    """What a node asks of its service machine."""

    genesis: Genesis
    chain_id: bytes
    applied_height: int
    checkpoint: tuple[int, bytes, bytes] | None

    @property
    def plan(self) -> EraPlan:
        """The plan of the era that the next commit belongs to."""

    def plan_of(self, era: int) -> EraPlan | None:
        """The plan of an era, past or present."""

    def root_at(self, height: int) -> bytes:
        """The state root of a checkpoint."""

    def candidate(self, node_key: bytes) -> Candidate | None:
        """The candidate of a node key, where there are candidates."""

    def check(self, payload: bytes) -> int:
        """As `ServiceMachine.check`."""

    def execute(self, commit: Commit, batch: Batch) -> Result:
        """As `ServiceMachine.execute`."""


class HashMachine:
    """A `Chain` that recovers from its store."""

    def __init__(self, genesis: Genesis, store: Store) -> None:
        self.genesis = genesis
        self.chain_id = genesis.chain_id()
        self._store = store
        stored = store.get("state", _STATE_KEY)
        self.height = int.from_bytes(stored[:8], "big") if stored else 0
        self.applied_height = self.height
        self._state = stored[8:] if stored else ZERO_DIGEST
        self._plans = {0: genesis.plan()}
        for _, data in store.scan("state", _PLAN, _PLAN + b"\xff"):
            plan = codec.decode(data, EraPlan, limit=PLAN_BYTES)
            self._plans[plan.era] = plan
        begin = genesis_record(0, self.chain_id, genesis.time_ms).digest()
        last = store.get("state", _LAST_CHECKPOINT)
        self.checkpoint: tuple[int, bytes, bytes] | None = (0, begin, ZERO_DIGEST)
        if last is not None:
            self.checkpoint = (int.from_bytes(last[:8], "big"), last[8:40], last[40:])

    def check(self, payload: bytes) -> int:
        """Every payload but one is valid and one operation. Raises Malformed."""
        if payload == REFUSED_PAYLOAD:
            raise Malformed("a payload that is refused")
        return 1

    def execute(self, commit: Commit, batch: Batch) -> Result:
        """Hash the commit's payloads in order."""
        assert commit.height == self.height + 1, "commits are executed one after another"
        for block in commit.blocks:
            for payload in block.payload:
                self._state = tagged_hash("simulation/v1", self._state + payload)
        self._state = tagged_hash("simulation/v1", self._state + commit.digest)
        self.height = commit.height
        place = self.height.to_bytes(8, "big")
        batch.put("state", _STATE_KEY, place + self._state)
        parameters, following = self.genesis.parameters, None
        if self.height == self.plan.first_height + parameters.era_length - 1:
            following = self._next_plan()
            self._plans[following.era] = following
            batch.put("state", _PLAN + following.era.to_bytes(8, "big"), codec.encode(following))
        if following is None and self.height % parameters.checkpoint_period:
            return Result(self.height, self._state, None)
        self.checkpoint = (self.height, commit.digest, self._state)
        batch.put("state", _LAST_CHECKPOINT, place + commit.digest + self._state)
        batch.put("state", _ROOT + place, self._state)
        return Result(self.height, self._state, self._state, next_era=following)

    @property
    def plan(self) -> EraPlan:
        """The plan of the era that the next commit belongs to."""
        return self._plans[max(self._plans)]

    def plan_of(self, era: int) -> EraPlan | None:
        """The plan of an era, past or present."""
        return self._plans.get(era)

    def root_at(self, height: int) -> bytes:
        """The state after the commit at `height`, which must be a checkpoint."""
        root = self._store.get("state", _ROOT + height.to_bytes(8, "big"))
        assert root is not None, "only checkpoints have a root"
        return root

    def candidate(self, node_key: bytes) -> Candidate | None:
        """Nobody stands for election here."""
        return None

    def _next_plan(self) -> EraPlan:
        plan, era = self.plan, self.plan.era + 1
        drawn = int.from_bytes(self._state[:8], "big")
        return EraPlan(
            era=era,
            first_height=self.height + 1,
            beacon=tagged_hash("simulation/v1", b"beacon" + plan.beacon + self._state),
            protocol_version=plan.protocol_version,
            seats=plan.seats if era % KEPT_EVERY == 0 else self._drawn_seats(era, drawn),
        )

    def _drawn_seats(self, era: int, drawn: int) -> tuple[Seat, ...]:
        validators = self.genesis.validators
        seats = [
            Seat(
                node_key=validator.key,
                consensus_key=era_key(validator.key, era).public,
                bond=validator.bond,
                resource_weight=validator.resource_weight,
                link_address=validator.link_address,
                api_url=validator.api_url,
                placement_salt=placement_salt(validator.key, self.genesis.beacon()),
            )
            for validator in validators
        ]
        if len(seats) > FEWEST_MEMBERS and drawn % (len(seats) + 2) < len(seats):
            del seats[drawn % (len(seats) + 2)]
        turn = era % len(seats)
        return tuple(seats[turn:] + seats[:turn])


def era_key(node_key: bytes, era: int) -> SigningKey:
    """The consensus key of a node in an era after the first, where the machine is this one: not a secret."""
    return SigningKey(tagged_hash("simulation/v1", b"era key" + node_key + era.to_bytes(4, "big")))
