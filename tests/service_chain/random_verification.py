"""Random steps of verifiers, auditors and judges, for the histories that fuzz the whole ledger."""

from __future__ import annotations

import random
from collections.abc import Sequence

from blockcloud.primitives.hash_onion import HashOnion
from blockcloud.primitives.hashes import tagged_hash
from blockcloud.primitives.keys import SigningKey
from blockcloud.service_chain.agreements.keys import agreement_key, provider_key
from blockcloud.service_chain.agreements.operations import ClaimVoucher, PostOffer
from blockcloud.service_chain.agreements.records import Agreement, ProviderRecord
from blockcloud.service_chain.agreements.vouchers import Voucher, sign_voucher
from blockcloud.service_chain.operations import Operation
from blockcloud.service_chain.proof_of_service.cases import JUDGED
from blockcloud.service_chain.proof_of_service.keys import (
    VERIFICATION_ERA_KEY,
    audit_commitment,
    case_key,
    service_key,
    verifier_key,
)
from blockcloud.service_chain.proof_of_service.operations import (
    AppealCase,
    ClaimBreach,
    CommitScores,
    FundVerification,
    JudgeCase,
    PlantAudit,
    RegisterVerifier,
    RetireVerifier,
    RevealAudit,
    RevealScores,
)
from blockcloud.service_chain.proof_of_service.records import (
    CaseRecord,
    CaseStatus,
    ServiceRecord,
    VerificationEra,
    VerifierRecord,
)
from blockcloud.service_chain.proof_of_service.scores import Score, commitment
from blockcloud.service_chain.proof_of_service.sortition import is_drawn, threshold
from blockcloud.service_chain.records import decode_record
from tests.service_chain.ledger_in_memory import PROOF_OF_SERVICE, Ledger
from tests.service_chain.random_agreements import LONG_MS, RandomAgreements

SALT = bytes([6]) * 32
LAYERS = PROOF_OF_SERVICE.onion_length


class RandomVerification:
    """Draws operations; what a verifier does follows from the era and its key, so that reveals fit commitments."""

    def __init__(
        self,
        ledger: Ledger,
        source: random.Random,
        people: Sequence[SigningKey],
        names: Sequence[str],
        agreements: RandomAgreements,
    ) -> None:
        self.ledger, self.source, self.people, self.names = ledger, source, people, names
        self.agreements = agreements
        self.onions: dict[bytes, HashOnion] = {}

    def operation(self, sender: bytes) -> Operation:
        choose, noted = self.source.choice, self._noted()
        record = decode_record(self.ledger.chain.get(verifier_key(sender)), VerifierRecord)
        plan = self.ledger.chain.plan
        place = self.ledger.height + 1 - plan.first_height
        length = self.ledger.genesis.parameters.era_length
        late = place * 100 >= length * PROOF_OF_SERVICE.commit_percent
        scores = self._scores(sender, record, noted)
        hidden = commitment(sender, plan.era, scores, choose([SALT] * 19 + [bytes(32)]))
        reveal = RevealScores(self._value(sender, record), SALT, choose([scores] * 9 + [()]))
        settled = [self._register(sender), self._register(sender)]
        if record is not None and record.from_era <= plan.era <= record.until_era:
            settled = [reveal if late else CommitScores(hidden)] * 12
        if self.source.random() < 0.1:
            settled = [RetireVerifier()]
        others: list[Operation] = [
            *self._of_cases(noted),
            *self._audits(sender, plan.era, late, (*noted.names, *noted.waiting)),
            *self._serving(sender),
            choose([reveal, RevealAudit(choose(list(self.names)), 5, SALT), CommitScores(hidden)]),
        ]
        urgent = self._urgent(sender, noted, plan.era, late)
        return choose(urgent if urgent and self.source.random() < 0.7 else [*settled, *others])

    def _urgent(self, sender: bytes, noted: VerificationEra, era: int, late: bool) -> list[Operation]:
        """What would seldom be drawn in time: verdicts of judges, claims of clients, the truth about audits."""
        steps: list[Operation] = []
        for case in noted.cases:
            record = decode_record(self.ledger.chain.get(case_key(case)), CaseRecord)
            if record is None:
                continue
            told = (*record.guilty, *record.innocent)
            if record.status in JUDGED and sender in record.judges and sender not in told:
                steps.append(JudgeCase(case, self.source.random() < 0.95))
            if record.status is CaseStatus.CONVICTED and sender == record.provider and record.accused_era % 2:
                steps.append(AppealCase(case))
            if record.status is CaseStatus.FINAL:
                steps += [one for one in self._of_cases(noted) if isinstance(one, ClaimBreach | ClaimVoucher)]
        for name in noted.names:
            service = decode_record(self.ledger.chain.get(service_key(name)), ServiceRecord)
            audit = service.audit if service is not None else None
            if late and audit is not None and audit.auditor == sender and audit.era == era and audit.truth_ppm < 0:
                steps.append(RevealAudit(name, 400_000, SALT))
        return steps

    def _noted(self) -> VerificationEra:
        found = decode_record(self.ledger.chain.get(VERIFICATION_ERA_KEY), VerificationEra)
        return found or VerificationEra(0)

    def _register(self, sender: bytes) -> Operation:
        choose = self.source.choice
        made = self._onion(sender)
        owner = choose([sender] * 4 + [choose(self.people).public])
        return RegisterVerifier(owner, choose([made.tip] * 9 + [b""]), choose([0, 9_999, 40_000, 40_000]))

    def _onion(self, sender: bytes) -> HashOnion:
        if sender not in self.onions:
            self.onions[sender] = HashOnion(tagged_hash("test-verifier", sender), LAYERS)
        return self.onions[sender]

    def _value(self, sender: bytes, record: VerifierRecord | None) -> bytes:
        number = record.owed(self.ledger.chain.plan.era) if record is not None else 0
        if not 1 <= number <= LAYERS or self.source.random() < 0.05:
            return self.source.randbytes(32)
        return self._onion(sender).reveal(number)

    def _scores(self, sender: bytes, record: VerifierRecord | None, noted: VerificationEra) -> tuple[Score, ...]:
        plan = self.ledger.chain.plan
        number = record.owed(plan.era) if record is not None else 0
        if not 1 <= number <= LAYERS:
            return ()
        value, below = self._onion(sender).reveal(number), threshold(2 * PROOF_OF_SERVICE.drawn, noted.verifiers)
        # In every other era services are bad, and most say so.
        failed = (90 if plan.era % 2 else 0) if sender[0] % 4 else 45
        return tuple(
            Score(name, 100, failed, sender[1], sender[2], bytes(32))
            for name in sorted(noted.names)
            if is_drawn(value, plan.beacon, name, below)
        )

    def _of_cases(self, noted: VerificationEra) -> list[Operation]:
        choose = self.source.choice
        case = choose(noted.cases) if noted.cases and self.source.random() < 0.95 else bytes(32)
        record = decode_record(self.ledger.chain.get(case_key(case)), CaseRecord)
        agreement = choose(self.agreements.made) if self.agreements.made else bytes(32)
        claims: list[Operation] = []
        for identity in self.agreements.made:
            held = decode_record(self.ledger.chain.get(agreement_key(identity)), Agreement)
            if record is not None and held is not None and (held.name, held.provider) == (record.name, record.provider):
                agreement = identity
                signer = self.agreements.keys.get(held.voucher_key)
                if not held.paid and signer is not None:
                    voucher = Voucher(self.ledger.chain.chain_id, identity, 9, 9, min(9_999, held.deposited), 0)
                    claims = [ClaimVoucher(sign_voucher(voucher, signer))] * 6
        if record is None:
            return [JudgeCase(case, True), AppealCase(case), ClaimBreach(case, agreement)]
        return (
            [JudgeCase(case, self.source.random() < 0.95)] * 8
            + [AppealCase(case), ClaimBreach(case, agreement)] * 2
            + claims
        )

    def _audits(self, sender: bytes, era: int, late: bool, listed: Sequence[str]) -> list[Operation]:
        chain, names = self.ledger.chain, []
        for name in self.names:
            record = chain.name(name)
            if record is not None and record.owner == sender and name in listed:
                names.append(name)
        name = self.source.choice(names or list(self.names))
        truth = self.source.choice([400_000] * 9 + [0])
        weight = 6 if names else 1
        if late:
            return [RevealAudit(name, truth, SALT)] * weight
        return [PlantAudit(name, audit_commitment(sender, name, era + 1, 400_000, SALT))] * weight

    def _serving(self, sender: bytes) -> list[Operation]:
        """What keeps services on offer and under verification."""
        chain, choose = self.ledger.chain, self.source.choice
        steps: list[Operation] = []
        for name in self.names:
            record = chain.name(name)
            if record is None or not record.is_active(chain.height):
                continue
            standing = decode_record(chain.get(provider_key(record.owner, name)), ProviderRecord)
            if standing is not None and standing.offer is not None:
                steps.append(FundVerification(name, choose([1, 20_000, 20_000])))
            elif record.owner == sender:
                steps.append(PostOffer(name, "request", 10, LONG_MS, choose([990_000, 0]), 0, 1_000))
        return choose([steps, [FundVerification(choose(list(self.names)), 20_000)]])
