"""The hand-over into an era: the link from one committee to the next that anybody can check.

The members of an era end it by signing one statement, which covers the plan of the next: its members, their keys and
bonds, its first height, its beacon (`transaction_chain.era`). Whoever knows the committee of one era can so learn that
of the next from a node that it does not trust. A chain of them leads from the genesis to today. DESIGN 3.3 and 3.6.

Each reason to refuse is a class of its own. What a hand-over says of itself is checked first (`check`), because it
costs one hash; then its certificate.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from blockcloud.primitives.certificates import CERTIFICATE_BYTES, HANDOVER, Certificate
from blockcloud.primitives.codec import Struct
from blockcloud.primitives.errors import BadCertificate, BadConfiguration, Malformed, PeerFault, WrongChain
from blockcloud.primitives.hashes import DIGEST_BYTES
from blockcloud.transaction_chain.committee import Committee
from blockcloud.transaction_chain.era import PLAN_BYTES, EraPlan

HANDOVER_BYTES: Final = CERTIFICATE_BYTES + PLAN_BYTES + 16
_DIGESTS: Final = 3


class WrongEra(PeerFault):
    """A certificate or a hand-over is of an era in which it does not count."""

    code = "wrong_era"


class PlanMismatch(PeerFault):
    """The plan of the next era is not the one that the hand-over's signers signed."""

    code = "plan_mismatch"


class WrongFirstHeight(PeerFault):
    """The plan's first height does not follow the last one of the era before."""

    code = "wrong_first_height"


class Handover(Struct, frozen=True):
    """The hand-over into era `plan.era` (1 and up), signed by the members of the era before. Its canonical bytes are
    what nodes serve and clients keep."""

    certificate: Certificate
    plan: EraPlan

    def check(self, chain_id: bytes) -> Committee:
        """The committee that takes over, if the parts fit together. Says nothing about who signed.

        Raises BadCertificate, WrongChain, WrongEra, PlanMismatch, WrongFirstHeight or Malformed.
        """
        statement, plan = self.certificate.statement, self.plan
        if statement.kind != HANDOVER or len(statement.digests) != _DIGESTS:
            raise BadCertificate("not the certificate of a hand-over", kind=statement.kind[:32])
        if statement.chain_id != chain_id:
            raise WrongChain("hand-over of another chain", chain=statement.chain_id.hex()[:16])
        if statement.era < 0 or plan.era != statement.era + 1:
            raise WrongEra("a hand-over leads to the era after its own", era=statement.era, plan=plan.era)
        if plan.digest() != statement.digests[2]:
            raise PlanMismatch(era=plan.era)
        if statement.height < 1 or plan.first_height != statement.height + 1:
            raise WrongFirstHeight(era=plan.era, last_height=statement.height, first_height=plan.first_height)
        if len(plan.beacon) != DIGEST_BYTES:
            raise Malformed("a beacon has 32 bytes", bytes=len(plan.beacon))
        try:
            return plan.committee()
        except BadConfiguration as error:
            raise Malformed(f"the plan of an era has no valid committee: {error}", era=plan.era) from None

    def verify(self, chain_id: bytes, weights: Mapping[bytes, int]) -> Committee:
        """The committee that takes over, if a quorum of `weights` (key -> bond), the era before, says so.

        Raises as `check`, DoubledSigner, BelowQuorum or BadSignature.
        """
        committee = self.check(chain_id)
        self.certificate.verify(weights)
        return committee
