"""Which era a node is in, and how it gets into the next one together with the others.

When the last commit of an era has been executed, everybody who did so knows the next plan and opens the next era; the
members of the old one sign the hand-over statement. Signatures and certificate travel in messages of their own, again
each second until the certificate is there. Whoever is behind hears from the positions and blocks of others that they
are in a later era, and fetches the rest of its own: all that is needed to decide it exists already. It may go through a
whole era before it has heard of the certificate that led there; then it asks for that until it has it, because others
will want the whole chain of hand-overs from it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Final

import structlog

from blockcloud.node.applying import SharedChain
from blockcloud.node.consensus_keys import ConsensusKeys
from blockcloud.node.eras import Arrival, Era, arrival_in, open_era
from blockcloud.node.ledger_tables import LedgerTables
from blockcloud.primitives.certificates import Certificate, SignedStatement
from blockcloud.primitives.errors import LocalFault, StorageFault
from blockcloud.service_chain.state.errors import NotACheckpoint, Pruned
from blockcloud.transaction_chain.era import EraPlan
from blockcloud.transaction_chain.mempool import Mempool
from blockcloud.transaction_chain.messages import Certified, Message, Position, Statement

# Past hand-overs that a node asks for. It keeps the blocks of no more eras than that.
OWED_ERAS: Final = 3

log = structlog.get_logger()


class UnsupportedProtocol(LocalFault):
    """From this era on the ledger follows rules that this program does not know."""

    code = "unsupported_protocol"
    hint = "Install a newer version; the data stays as it is."


class Succession:
    """The present era of one node. Belongs to the event loop's thread.

    `send(peer, message)` with peer None sends to all that are linked; `version` is the highest protocol version that
    this node can run. An era of a higher one is not opened: UnsupportedProtocol.
    """

    def __init__(
        self,
        chain: SharedChain,
        tables: LedgerTables,
        keys: ConsensusKeys,
        node_key: bytes,
        mempool: Mempool,
        *,
        version: int,
        send: Callable[[int | None, Message], None],
        now_ms: int,
    ) -> None:
        self._chain, self._tables, self._keys, self._node_key = chain, tables, keys, node_key
        self._mempool, self._version, self._send = mempool, version, send
        # Statements about the end of our era that came before we reached it, the last of each signer.
        self._early: dict[bytes, SignedStatement] = {}
        self.current = self._open(chain.plan, now_ms)
        # Past hand-overs whose certificate we have not got, by era.
        self._owed: dict[int, Arrival] = {}
        for era in range(max(1, self.current.plan.era - OWED_ERAS), self.current.plan.era):
            self._look_back(era)

    def begin(self, plan: EraPlan, now_ms: int) -> None:
        """The last commit of the present era has been executed."""
        before, self.current = self.current, self._open(plan, now_ms)
        if before.arrival is not None and not before.certified:
            self._owed[before.plan.era] = before.arrival
            for old in list(self._owed)[:-OWED_ERAS]:
                del self._owed[old]
        era = self.current
        log.info("era_begins", era=plan.era, height=plan.first_height, members=len(plan.seats), member=era.own)
        if era.arrival is not None:
            early, self._early = self._early, {}
            for signed in early.values():
                era.arrival.add(signed)
            self._settle()
        self._announce()

    def linked(self, peer: int) -> None:
        """A link is up."""
        self._send(peer, self._position())
        self._send_own_statement(peer)

    def each_second(self) -> None:
        """Say again what may have been lost."""
        if not self.current.certified:
            self._announce()
        for era, arrival in list(self._owed.items())[:1]:
            self._send(None, Position(era, certified=False))
            if arrival.own is not None:  # perhaps nobody has the certificate yet
                self._send(None, Statement(arrival.own))

    def statement(self, signed: SignedStatement) -> None:
        """A member of some era says how it ended. Raises BadSignature."""
        era, arrival = signed.statement.era, self.current.arrival
        if arrival is not None and era == arrival.statement.era:
            if arrival.add(signed):
                self._settle()
        elif era + 1 in self._owed:
            if self._owed[era + 1].add(signed):
                del self._owed[era + 1]
        elif era == self.current.plan.era and signed.signer in self.current.committee.weights_by_key:
            signed.verify()
            self._early[signed.signer] = signed

    def certificate(self, certificate: Certificate) -> None:
        """Somebody sent the certificate of a hand-over. Raises a PeerFault if it is a forgery."""
        owed = self._owed.get(certificate.statement.era + 1)
        if owed is not None:
            if owed.take(certificate):
                del self._owed[certificate.statement.era + 1]
        elif self.current.arrival is not None and self.current.arrival.take(certificate):
            self._settle()

    def position(self, peer: int, position: Position) -> bool:
        """Where a peer is; whether it is in a later era than we."""
        era = self.current
        if position.era < era.plan.era:
            self._send(peer, self._position())
            past = None if position.certified else self._tables.handover(position.era)
            if past is not None:
                self._send(peer, Certified(past))
        elif position.era == era.plan.era and not position.certified:
            certificate = None if era.arrival is None else era.arrival.certificate
            if certificate is not None:
                self._send(peer, Certified(certificate))
        return position.era > era.plan.era

    def tell_position(self, peer: int) -> None:
        """A peer seems to be in an earlier era."""
        self._send(peer, self._position())

    def _look_back(self, era: int) -> None:
        """Note that the certificate of the hand-over into a past era is missing, if it is, and what it must say."""
        plan = self._chain.plan_of(era)
        if plan is None or self._tables.handover(era) is not None:
            return
        # Too long ago, or this node began later, with a snapshot.
        with suppress(NotACheckpoint, Pruned, StorageFault):
            arrival = arrival_in(plan, self._chain, self._tables, self._keys, self._node_key)
            if arrival is not None:
                self._owed[era] = arrival

    def _open(self, plan: EraPlan, now_ms: int) -> Era:
        if plan.protocol_version > self._version:
            raise UnsupportedProtocol(era=plan.era, needed=plan.protocol_version, supported=self._version)
        return open_era(
            plan,
            chain=self._chain,
            tables=self._tables,
            keys=self._keys,
            node_key=self._node_key,
            mempool=self._mempool,
            now_ms=now_ms,
        )

    def _settle(self) -> None:
        """If the hand-over is certified: blocks may carry payload, and the old key has done its duty."""
        era = self.current
        if not era.certified:
            return
        era.core.carrying = True
        log.info("era_certified", era=era.plan.era)
        candidate = self._chain.candidate(self._node_key)
        if candidate is not None:
            present = {seat.consensus_key for seat in era.plan.seats}
            past = (key for number, key in candidate.keys if number < era.plan.era)
            self._keys.erase(key for key in past if key not in present)

    def _announce(self) -> None:
        self._send(None, self._position())
        self._send_own_statement(None)

    def _send_own_statement(self, peer: int | None) -> None:
        arrival = self.current.arrival
        if arrival is not None and arrival.certificate is None and arrival.own is not None:
            self._send(peer, Statement(arrival.own))

    def _position(self) -> Position:
        return Position(self.current.plan.era, self.current.certified)
