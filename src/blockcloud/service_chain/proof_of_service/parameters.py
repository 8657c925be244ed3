"""What all nodes must agree on about proof of service: a group of the genesis."""

from __future__ import annotations

from blockcloud.primitives.amounts import GENESIS_SUPPLY_MICRO_BLOC, MICRO_PER_BLOC
from blockcloud.primitives.codec import Struct
from blockcloud.primitives.errors import BadConfiguration
from blockcloud.service_chain.agreements.parameters import PARTS_PER_MILLION
from blockcloud.service_chain.proof_of_service.scores import PROBES_MAX, REPORTS_MIN

# Each costs a hash in every reveal, and a record at the end of an era.
SERVICES_LIMIT = 256
VERIFIERS_LIMIT = 1_000


class ProofOfServiceParameters(Struct, frozen=True):
    """Amounts in micro-BLOC, shares in parts per million of what the name says.

    Twice `drawn` verifiers are drawn for a service on average, so that seldom fewer than three report. Scores are
    committed until `commit_percent` of an era and revealed until `reveal_percent`. `judges` decide on a slash and
    `appeal_judges` on an appeal. Of a pot `pay_ppm` an era goes to who reported, and `judge_ppm` to who judged.
    """

    bond_min: int = 100 * MICRO_PER_BLOC
    onion_length: int = 4_096
    verifiers: int = 256
    services: int = 64
    drawn: int = 3
    judges: int = 7
    appeal_judges: int = 15
    commit_percent: int = 70
    reveal_percent: int = 95
    probes_min: int = 60
    pot_min: int = 10_000
    pay_ppm: int = 250_000
    judge_ppm: int = 50_000
    unrevealed_ppm: int = 50_000
    silent_ppm: int = 50_000
    audit_ppm: int = 200_000
    audit_misses: int = 2
    provider_slash_ppm: int = 50_000
    breach_factor: int = 2
    appeal_bond: int = 20 * MICRO_PER_BLOC
    quarantine_eras: int = 5
    ban_convictions: int = 3
    claim_eras: int = 3
    hold_eras: int = 2

    def check(self) -> None:
        """Raise BadConfiguration unless the values fit together."""
        shares = (self.pay_ppm, self.judge_ppm, self.unrevealed_ppm, self.silent_ppm, self.audit_ppm)
        amounts = (self.bond_min, self.pot_min, self.appeal_bond)
        counts = (self.onion_length, self.audit_misses, self.ban_convictions, self.claim_eras, self.hold_eras)
        relations = (
            (min(amounts) >= 1 and max(amounts) <= GENESIS_SUPPLY_MICRO_BLOC, "amounts are positive"),
            (min(shares) >= 0 and max(shares) <= PARTS_PER_MILLION, "a share is at most everything"),
            (self.pay_ppm + self.judge_ppm <= PARTS_PER_MILLION, "a pot is not paid out twice"),
            (0 <= self.provider_slash_ppm <= PARTS_PER_MILLION, "a slash is at most the bond"),
            (REPORTS_MIN <= self.drawn <= self.judges <= self.appeal_judges, "3 <= drawn <= judges <= appeal_judges"),
            (self.appeal_judges <= self.verifiers <= VERIFIERS_LIMIT, f"at most {VERIFIERS_LIMIT} verifiers"),
            (1 <= self.services <= SERVICES_LIMIT, f"1 to {SERVICES_LIMIT} services"),
            (1 <= self.commit_percent < self.reveal_percent <= 100, "scores are committed, then revealed"),
            (1 <= self.probes_min <= PROBES_MAX, "a report is of a probe or more"),
            (min(counts) >= 1 and self.quarantine_eras >= 0 and self.breach_factor >= 0, "counts are positive"),
        )
        for holds, reason in relations:
            if not holds:
                raise BadConfiguration(f"proof of service parameters: {reason}")
