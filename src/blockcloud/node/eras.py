"""One era at one node: the part of the runtime that is made anew when a committee hands over to the next.

An era here is its plan, the rules for its blocks, the core that runs it, and the certificates of its checkpoints. It
begins with `arriving`: the signatures of the era before under the statement that led here. Until a quorum of them is
there our blocks stay empty, and the signatures are exchanged by messages of their own, because nobody writes blocks in
the old era any more. DESIGN section 3.3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import structlog

from blockcloud.node.applying import SharedChain
from blockcloud.node.certification import Certification
from blockcloud.node.consensus_keys import ConsensusKeys
from blockcloud.node.ledger_tables import LedgerTables
from blockcloud.primitives import codec
from blockcloud.primitives.certificates import DOMAIN, Certificate, SignedStatement, Statement
from blockcloud.primitives.errors import PeerFault
from blockcloud.primitives.keys import SigningKey
from blockcloud.primitives.limits import COMMITTEE_MEMBERS
from blockcloud.transaction_chain.block import BlockRules
from blockcloud.transaction_chain.commit import EraStart
from blockcloud.transaction_chain.committee import Committee
from blockcloud.transaction_chain.core import Core
from blockcloud.transaction_chain.era import EraPlan, HandoverCollector, handover_statement
from blockcloud.transaction_chain.mempool import Mempool

# The core numbers its peers: members by their place in the committee, other nodes from here on.
GUEST_NUMBERS: Final = COMMITTEE_MEMBERS

log = structlog.get_logger()


class Arrival:
    """The hand-over into an era, from the point of view of a node that has executed the era before.

    `statement` is what this node found to be right; `certificate` is None until a quorum of the old committee agrees.
    """

    def __init__(self, statement: Statement, old: Committee, tables: LedgerTables, key: SigningKey | None) -> None:
        self.statement = statement
        self._era = statement.era + 1
        self._old, self._tables = old, tables
        self._collector = HandoverCollector(old, statement.chain_id, statement.era)
        self.certificate = tables.handover(self._era)
        self.own: SignedStatement | None = None
        if key is not None and key.public in old.weights_by_key:
            signature = key.sign(DOMAIN, codec.encode(statement))
            self.own = SignedStatement(statement, key.public, signature)
            self.add(self.own)

    def add(self, signed: SignedStatement) -> bool:
        """Count the statement of an old member; whether the hand-over is certified by it. A bad one counts nothing."""
        if self.certificate is not None or signed.statement.era != self.statement.era:
            return False
        try:
            self._collector.add(signed)
        except PeerFault as fault:
            log.warning("statement_refused", signer=signed.signer.hex()[:16], error=fault)
            return False
        certificate = self._collector.certificate(self.statement)
        return certificate is not None and self._keep(certificate)

    @property
    def conflicts(self) -> list[tuple[SignedStatement, SignedStatement]]:
        """Pairs of different statements that one member signed about the end of its era."""
        return list(self._collector.conflicts.values())

    def take(self, certificate: Certificate) -> bool:
        """Take the certificate that somebody sent; whether it was news. Raises a PeerFault if it is not one."""
        if self.certificate is not None or certificate.statement != self.statement:
            return False
        certificate.verify(self._old.weights_by_key)
        return self._keep(certificate)

    def _keep(self, certificate: Certificate) -> bool:
        self.certificate = certificate
        self._tables.put_handover(self._era, certificate)
        return True


@dataclass(slots=True)
class Era:
    """What belongs to one era. `own` is this node's number in the committee and `key` signs for it; both are None for a
    node that only follows. `arrival` is None in the first era."""

    plan: EraPlan
    committee: Committee
    rules: BlockRules
    core: Core
    certification: Certification
    own: int | None
    key: SigningKey | None
    arrival: Arrival | None
    numbers: dict[bytes, int]  # node key -> place in the committee

    @property
    def certified(self) -> bool:
        """Whether the hand-over into this era is certified."""
        return self.arrival is None or self.arrival.certificate is not None

    def number_of(self, node_key: bytes, peer: int) -> int:
        """The core's number for the linked node number `peer`, whose node key this is."""
        return self.numbers.get(node_key, GUEST_NUMBERS + peer)


def open_era(
    plan: EraPlan,
    *,
    chain: SharedChain,
    tables: LedgerTables,
    keys: ConsensusKeys,
    node_key: bytes,
    mempool: Mempool,
    now_ms: int,
) -> Era:
    """The era of `plan`, which is the present one of the state, with what the store knows of it."""
    genesis = chain.genesis
    committee = plan.committee()
    numbers = {seat.node_key: number for number, seat in enumerate(plan.seats)}
    own = numbers.get(node_key)
    key = None if own is None else keys.find(plan.seats[own].consensus_key)
    arrival = arrival_in(plan, chain, tables, keys, node_key)
    start = EraStart.of_chain(chain.chain_id, genesis.time_ms)
    if arrival is not None:
        digest, time_ms = tables.commit_digest(plan.first_height - 1)
        start = EraStart(plan.first_height - 1, digest, time_ms, arrival.statement.digest())
    core = Core(
        chain_id=chain.chain_id,
        era=plan.era,
        committee=committee,
        parameters=genesis.parameters,
        start=start,
        beacon=plan.beacon,
        own=None if key is None else own,  # without the key of its seat a member only follows
        key=key,
        mempool=mempool,
        recovered=tables.recover(plan.era, start, chain.applied_height, None if key is None else key.public),
        now_ms=now_ms,
        last_height=plan.first_height + genesis.parameters.era_length - 1,
    )
    core.carrying = arrival is None or arrival.certificate is not None
    checkpoint = chain.checkpoint
    assert checkpoint is not None, "the genesis is a checkpoint"
    return Era(
        plan=plan,
        committee=committee,
        rules=BlockRules(chain.chain_id, plan.era, committee, start.genesis),
        core=core,
        certification=Certification(committee, chain.chain_id, plan.era, tables, checkpoint),
        own=own,
        key=key,
        arrival=arrival,
        numbers=numbers,
    )


def arrival_in(
    plan: EraPlan, chain: SharedChain, tables: LedgerTables, keys: ConsensusKeys, node_key: bytes
) -> Arrival | None:
    """The hand-over into the era of `plan`; None for the first. Raises NotACheckpoint if it is too long ago."""
    if plan.era == 0:
        return None
    old = chain.plan_of(plan.era - 1)
    assert old is not None, "plans are never removed"
    height = plan.first_height - 1
    digest, _ = tables.commit_digest(height)
    statement = handover_statement(chain.chain_id, height, digest, chain.root_at(height), plan)
    seat = next((seat for seat in old.seats if seat.node_key == node_key), None)
    return Arrival(statement, old.committee(), tables, None if seat is None else keys.find(seat.consensus_key))
