"""Eras: for how long a committee stays, and how it hands over to the next (DESIGN section 3.3).

An era is a fixed number of commits. Executing its last commit gives the plan of the next one, the same at every node.
The members sign the hand-over statement, which covers the plan; its digest is the genesis of the next era's DAG, so
blocks of two eras can never be taken for each other, and its certificate is the link by which light clients follow.
"""

from __future__ import annotations

from blockcloud.primitives import codec
from blockcloud.primitives.certificates import HANDOVER, Certificate, SignedStatement, Statement
from blockcloud.primitives.codec import Struct
from blockcloud.primitives.errors import Malformed, UnknownSigner, WrongChain
from blockcloud.primitives.hashes import tagged_hash
from blockcloud.primitives.limits import COMMITTEE_MEMBERS
from blockcloud.transaction_chain.committee import Committee, Member

PLAN_DOMAIN = "era-plan/v1"
SEAT_BYTES = 1_024
PLAN_BYTES = 256 + SEAT_BYTES * COMMITTEE_MEMBERS


class Seat(Struct, frozen=True):
    """A member of an era's committee. `node_key` is who it is on links, for life; `consensus_key` signs its blocks and
    statements in this era only. Bond in micro-BLOC, resource weight in ppm, `link_address` is "host:port".
    `placement_salt` (32 bytes) decides which service files and address records it keeps (`placement_salt()`)."""

    node_key: bytes
    consensus_key: bytes
    bond: int
    resource_weight: int
    link_address: str
    api_url: str
    placement_salt: bytes = b""


class EraPlan(Struct, frozen=True):
    """Everything that nodes of an era agree on: its number, the height of its first commit, beacon (32 bytes), protocol
    version, and its members in the order of their numbers."""

    era: int
    first_height: int
    beacon: bytes
    protocol_version: int
    seats: tuple[Seat, ...]

    def committee(self) -> Committee:
        """The members as consensus sees them. Raises BadConfiguration."""
        return Committee(Member(seat.consensus_key, seat.bond, seat.resource_weight) for seat in self.seats)

    def digest(self) -> bytes:
        """What the hand-over statement says of the plan, 32 bytes."""
        return tagged_hash(PLAN_DOMAIN, codec.encode(self))


def placement_salt(node_key: bytes, beacon: bytes) -> bytes:
    """The salt that a node keeps for as long as it is a candidate, 32 bytes. `beacon` is that of the first era for
    which it got ready; its key was written down before anybody could know it, so that it could not choose its place."""
    return tagged_hash("placement-salt/v1", node_key + beacon)


def handover_statement(
    chain_id: bytes, height: int, commit_digest: bytes, state_root: bytes, plan: EraPlan
) -> Statement:
    """What the members of the era before `plan` sign after its last commit, at `height`."""
    return Statement(HANDOVER, chain_id, plan.era - 1, height, (commit_digest, state_root, plan.digest()))


class HandoverCollector:
    """The signatures of one era's members under the statement that ends it. Of each member the first statement counts;
    a second, different one is evidence, as for checkpoints."""

    def __init__(self, committee: Committee, chain_id: bytes, era: int) -> None:
        self._committee, self._chain_id, self._era = committee, chain_id, era
        self._signed: dict[bytes, SignedStatement] = {}
        # At most one pair for each member.
        self.conflicts: dict[bytes, tuple[SignedStatement, SignedStatement]] = {}

    def add(self, signed: SignedStatement) -> None:
        """Count a statement. Raises Malformed, WrongChain, UnknownSigner or BadSignature."""
        statement = signed.statement
        if statement.kind != HANDOVER or statement.era != self._era:
            raise Malformed("not a hand-over statement of this era", kind=statement.kind[:32], era=statement.era)
        if statement.chain_id != self._chain_id:
            raise WrongChain("statement of another chain", chain=statement.chain_id.hex()[:16])
        if signed.signer not in self._committee.weights_by_key:
            raise UnknownSigner(signer=signed.signer.hex()[:16])
        first = self._signed.get(signed.signer)
        if first is None or first.statement != statement:
            signed.verify()
            if first is None:
                self._signed[signed.signer] = signed
            else:
                self.conflicts.setdefault(signed.signer, (first, signed))

    def certificate(self, statement: Statement) -> Certificate | None:
        """The certificate of `statement`, which this node has found to be right, if a quorum has signed it."""
        agreeing = [signed for signed in self._signed.values() if signed.statement == statement]
        weights = self._committee.weights_by_key
        if sum(weights[signed.signer] for signed in agreeing) < self._committee.quorum:
            return None
        return Certificate(statement, tuple(sorted((signed.signer, signed.signature) for signed in agreeing)))
