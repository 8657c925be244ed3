"""What a candidate does on the ledger for itself: get ready for the next era, reveal its onion, report liars.

It needs nobody's hand: as long as its account can pay the fees, a bonded node takes part era after era. Its
transactions go into its own mempool, or to the members it is linked with while it is not one of them. One is under way
at a time; whether it worked shows on the ledger, and if it did not, the next look makes a new one. DESIGN section 3.3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import structlog

from blockcloud.node.applying import SharedChain
from blockcloud.node.consensus_keys import ConsensusKeys
from blockcloud.node.eras import Era
from blockcloud.primitives import codec
from blockcloud.primitives.hash_onion import HashOnion
from blockcloud.primitives.hashes import sha256
from blockcloud.primitives.keys import SigningKey
from blockcloud.service_chain.eras import beacon_window, freeze_height
from blockcloud.service_chain.evidence import EQUIVOCATION, offence_id
from blockcloud.service_chain.operations import (
    Operation,
    Ready,
    ReportConflict,
    ReportEquivocation,
    Reveal,
    SignedHeader,
    statement_place,
)
from blockcloud.service_chain.records import Candidate
from blockcloud.service_chain.staking import reveal_number, with_onion_of
from blockcloud.service_chain.state_keys import offence_key
from blockcloud.service_chain.transaction import TransactionBody, sign_transaction
from blockcloud.transaction_chain.block import Block

FEE_LIMIT_MICRO_BLOC: Final = 10_000_000
VALID_COMMITS: Final = 100
# How long a transaction of ours may be under way before another is made with the same sequence.
PATIENCE_S: Final = 10.0

log = structlog.get_logger()


class Membership:
    """Belongs to the event loop's thread. `submit` hands a signed transaction to whoever can get it committed;
    `version` is the highest protocol version that this node can run; `others` says what other parts of this node want
    on the ledger (`examining.py`)."""

    def __init__(
        self,
        chain: SharedChain,
        keys: ConsensusKeys,
        node_key: SigningKey,
        onion: HashOnion | None,
        *,
        version: int,
        submit: Callable[[bytes], None],
        others: Callable[[], Iterator[Operation]] = lambda: iter(()),
    ) -> None:
        self._chain, self._keys, self._node_key, self._onion = chain, keys, node_key, onion
        self._submit, self._version, self._others = submit, version, others
        self._under_way: tuple[int, float] | None = None  # sequence, since when
        self._next_key: tuple[int, SigningKey] | None = None  # era, its key

    def look(self, era: Era, now_s: float) -> None:
        """Do what is due on the ledger; `now_s` is a monotonic clock."""
        candidate = self._chain.candidate(self._node_key.public)
        account = self._chain.account(self._node_key.public)
        if candidate is None or account is None or not account.balance:
            return
        if self._under_way is not None:
            sequence, since_s = self._under_way
            if account.sequence <= sequence and now_s - since_s < PATIENCE_S:
                return
            self._under_way = None
        operation = next(self._due(era, candidate), None)
        if operation is None:
            return
        self._under_way = (account.sequence, now_s)
        body = TransactionBody(
            chain_id=self._chain.chain_id,
            sender=self._node_key.public,
            lane=0,
            sequence=account.sequence,
            valid_until=self._chain.applied_height + VALID_COMMITS,
            fee_limit=min(FEE_LIMIT_MICRO_BLOC, account.balance),
            operations=(operation,),
        )
        log.info("membership", operation=type(operation).__name__, era=era.plan.era)
        self._submit(sign_transaction(body, self._node_key))

    def _due(self, era: Era, candidate: Candidate) -> Iterator[Operation]:
        genesis, height = self._chain.genesis, self._chain.applied_height + 1
        length, staking, following = genesis.parameters.era_length, genesis.staking, era.plan.era + 1
        ready = any(number == following for number, _ in candidate.keys)
        worthy = not candidate.jailed and candidate.bond >= staking.minimum_bond
        if worthy and not ready and height < freeze_height(era.plan, length, staking):
            yield Ready(following, self._key_of(following).public, self._version)
        if era.own is not None and height in beacon_window(era.plan, length, staking):
            yield from self._reveal(era.plan.era, candidate)
        yield from self._others()
        yield from self._evidence(era)

    def _key_of(self, era: int) -> SigningKey:
        """The key for an era that begins later; made once, so that asking again does not fill the folder."""
        if self._next_key is None or self._next_key[0] != era:
            self._next_key = (era, self._keys.make())
        return self._next_key[1]

    def _reveal(self, era: int, candidate: Candidate) -> Iterator[Operation]:
        if self._onion is None:
            return
        current, number = with_onion_of(candidate, era), reveal_number(candidate, era)
        if number and number != current.onion_reveals and number <= self._onion.length:
            yield Reveal(self._onion.reveal(number))

    def _evidence(self, era: Era) -> Iterator[Operation]:
        """Reports of lies that the ledger does not know yet. Nobody reports itself."""
        seats = era.plan.seats
        for first, second in era.core.evidence:
            if first.author != era.own:
                accused = seats[first.author].node_key
                if self._is_news(accused, offence_id(EQUIVOCATION, era.plan.era, accused, first.level)):
                    signer = seats[first.author].consensus_key
                    yield ReportEquivocation(_signed(first, signer), _signed(second, signer))
        conflicts = list(era.certification.collector.conflicts)
        if era.arrival is not None:
            conflicts += era.arrival.conflicts
        for one, other in conflicts:
            _, kind, number, height = statement_place(one.statement)
            plan = self._chain.plan_of(number)
            accused_of = {seat.consensus_key: seat.node_key for seat in plan.seats} if plan is not None else {}
            accused = accused_of.get(one.signer, self._node_key.public)
            if accused != self._node_key.public and self._is_news(accused, offence_id(kind, number, accused, height)):
                yield ReportConflict(one, other)

    def _is_news(self, accused: bytes, offence: bytes) -> bool:
        """Whether a report would be worth its fee: who has nothing at stake any more cannot be slashed."""
        candidate = self._chain.candidate(accused)
        return candidate is not None and candidate.at_stake > 0 and self._chain.get(offence_key(offence)) is None


def read_onion(path: Path, layers: int) -> HashOnion | None:
    """The node's hash onion; None if there is none. Its core is the secret of the key in `path`."""
    return HashOnion(onion_core(SigningKey.load(path)), layers) if path.exists() else None


def onion_core(key: SigningKey) -> bytes:
    """The innermost layer of the onion of `key`: nobody else can make this signature, and it is always the same."""
    return sha256(key.sign("onion-core/v1", b""))


def _signed(block: Block, signer: bytes) -> SignedHeader:
    return SignedHeader(codec.encode(block.header), signer, block.signature)
