"""Eras of proof of service over the production rules: registration, draws, scores, settlement, cases, claims.

The subject is one of five services; two more are audits in turns. A request costs 0.001 BLOC, of which delivering it
takes 60 %; 100,000 come in an era. A verifier pays for its 60 probes of each service it is drawn for. All other fees
are left out. Money is in micro-BLOC.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from blockcloud.primitives.hash_onion import HashOnion
from blockcloud.primitives.hashes import sha256
from blockcloud.service_chain.accounts import Context, credit
from blockcloud.service_chain.agreements.keys import agreement_id, agreement_key, provider_key
from blockcloud.service_chain.agreements.operations import ClaimVoucher, OpenAgreement, PostOffer
from blockcloud.service_chain.agreements.parameters import AgreementParameters
from blockcloud.service_chain.agreements.records import Agreement, ProviderRecord
from blockcloud.service_chain.agreements.vouchers import SignedVoucher, Voucher
from blockcloud.service_chain.contracts.runtime import ContractRuntime
from blockcloud.service_chain.execution import RULES
from blockcloud.service_chain.genesis import ContractParameters, FeeParameters, NamingParameters, StakingParameters
from blockcloud.service_chain.market.parameters import MarketParameters
from blockcloud.service_chain.operations import Operation
from blockcloud.service_chain.proof_of_service.cases import JUDGED, case_of
from blockcloud.service_chain.proof_of_service.keys import audit_commitment, standing_key, verifier_key
from blockcloud.service_chain.proof_of_service.operations import (
    ClaimBreach,
    CommitScores,
    FundVerification,
    JudgeCase,
    PlantAudit,
    RegisterVerifier,
    RevealAudit,
    RevealScores,
)
from blockcloud.service_chain.proof_of_service.parameters import ProofOfServiceParameters
from blockcloud.service_chain.proof_of_service.records import CaseStatus, StandingRecord, VerifierRecord
from blockcloud.service_chain.proof_of_service.scores import Score, commitment
from blockcloud.service_chain.proof_of_service.sequential_test import Verdict, promise_test
from blockcloud.service_chain.proof_of_service.services import service_of, verification_era
from blockcloud.service_chain.proof_of_service.settlement import turn_verification
from blockcloud.service_chain.proof_of_service.sortition import is_drawn, threshold
from blockcloud.service_chain.proof_of_service.verifiers import DRAWN_FACTOR
from blockcloud.service_chain.records import REGISTERED, Account, Fees, NameRecord
from blockcloud.service_chain.rejections import Failed
from blockcloud.service_chain.state_keys import FEES_KEY, account_key, name_key
from blockcloud.service_chain.working_state import WorkingState
from blockcloud.simulation.verification.scenario import HONEST_LOSS, Scenario
from blockcloud.transaction_chain.cloudpos.parameters import ChallengeParameters
from blockcloud.transaction_chain.era import EraPlan, Seat

BLOC: Final = 1_000_000
PRICE: Final = 1_000
REQUESTS: Final = 100_000
REVENUE: Final = PRICE * REQUESTS
COST_PERCENT: Final = 60
PROMISE_PPM: Final = 990_000
PROVIDER_BOND: Final = 20 * REVENUE
VERIFIERS: Final = 20
PROBES: Final = 60
AUDIT_LOSS: Final = 0.4
AUDIT_PPM: Final = 400_000
ERA_LENGTH: Final = 100
COMMITTING, REVEALING, LAST = 10, 80, 99
ERA_MS: Final = 600_000
SUBJECT: Final = "subject"
OTHERS: Final = ("other-a", "other-b", "other-c", "other-d")
AUDITS: Final = ("audit-a", "audit-b")
LIMITS: Final = ProofOfServiceParameters(onion_length=512)
SALT: Final = bytes(32)
LONG_MS: Final = 300 * 24 * 3_600 * 1_000
_RUNTIME: Final = ContractRuntime(ContractParameters())


def key_of(what: str) -> bytes:
    """The account of somebody."""
    return sha256(what.encode())


@dataclass(frozen=True, slots=True)
class Money:
    """What the subject's provider and one liar (or the first verifier) had in the end, in micro-BLOC, costs off."""

    provider: int
    verifier: int
    convictions: int
    refunded: int
    slashed: int


class Trial:
    """One run. `scenario` says who cheats."""

    def __init__(self, scenario: Scenario, seed: int) -> None:
        self.scenario, self.draw = scenario, random.Random(seed)
        self.seed = seed
        self.state = WorkingState(lambda key: None)
        self.era = 0
        self.keys = [key_of(f"verifier {number}") for number in range(VERIFIERS)]
        self.onions = {key: HashOnion(sha256(key + bytes([seed % 256])), LIMITS.onion_length) for key in self.keys}
        self.auditors = {name: key_of(f"owner of {name}") for name in AUDITS}
        self.spent: dict[bytes, int] = {}
        self.agreements: dict[str, bytes] = {}
        self.claimed: dict[bytes, int] = {}
        self.convictions = self.refunded = 0

    def run(self, eras: int) -> Money:
        """So many eras in which all verifiers serve."""
        self._begin()
        for _ in range(eras + 2):
            self._era()
        owner, liar = key_of(f"owner of {SUBJECT}"), self.keys[0]
        bond = self._bond(SUBJECT)
        verifier = self.state.get(verifier_key(liar), VerifierRecord)
        held = verifier.bond if verifier is not None else 0
        return Money(
            self._balance(owner) + bond - self.spent.get(owner, 0),
            self._balance(liar) + held - self.spent.get(liar, 0),
            self.convictions,
            self.refunded,
            max(0, LIMITS.bond_min * 2 - held),
        )

    def _begin(self) -> None:
        self._set(FEES_KEY, Fees, Fees(1, 0, 0, 0))
        self.plan = self._plan(0)
        names = (SUBJECT, *OTHERS, *AUDITS)
        for name in names:
            owner = key_of(f"owner of {name}")
            record = NameRecord(name, owner, b"", (), 0, 2**40, 0, REGISTERED, 0, 0, 2**40)
            self._set(name_key(name), NameRecord, record)
            credit(self.state, owner, PROVIDER_BOND)
            self._do(owner, 1, PostOffer(name, "request", PRICE, LONG_MS, PROMISE_PPM, 0, PROVIDER_BOND))
        for number, key in enumerate(self.keys):
            credit(self.state, key, 2 * LIMITS.bond_min)
            owned = self.scenario.owned and number < self.scenario.liars
            owner = key_of(f"owner of {SUBJECT}") if owned else key
            self._do(key, 1, RegisterVerifier(owner, self.onions[key].tip, 2 * LIMITS.bond_min))
        self._fund(names)

    def _fund(self, names: tuple[str, ...]) -> None:
        """Put what a pot starts with into those that are not verified."""
        era = verification_era(self.state)
        for name in names:
            if era is None or name not in (*era.names, *era.waiting):
                payer = key_of("funds")
                credit(self.state, payer, 2 * BLOC)
                self._try(payer, 5, FundVerification(name, 2 * BLOC))

    def _era(self) -> None:
        self._serve()
        if self.scenario.audits:
            self._plant()
        self._judge()
        if self.era >= 2:
            self._report()
        following = self._plan(self.era + 1)
        turn_verification(self.state, self._context(LAST), following)
        self._claim_breaches()
        self.era, self.plan = self.era + 1, following

    # What providers and their customers do

    def _serve(self) -> None:
        """Customers pay for what they ask for, while the provider may offer it."""
        for name in (SUBJECT, *OTHERS):
            owner, client = key_of(f"owner of {name}"), key_of(f"client of {name}")
            if self._quarantined(owner):
                self.agreements.pop(name, None)
                continue
            if self._offerless(name):
                self._do(owner, 2, PostOffer(name, "request", PRICE, LONG_MS, PROMISE_PPM, 0, 0))
            self._fund((name,))
            if name not in self.agreements:
                salt = sha256(f"{name} {self.era}".encode())
                credit(self.state, client, 1_000 * REVENUE)
                opening = OpenAgreement(name, owner, salt, client, 1_000 * REVENUE, PRICE, PROMISE_PPM, LONG_MS)
                self._do(client, 3, opening)
                self.agreements[name] = agreement_id(client, salt, self._context(3).height)
                self.claimed[self.agreements[name]] = 0
            agreement = self.agreements[name]
            self.claimed[agreement] += REVENUE
            voucher = Voucher(bytes(32), agreement, 0, self.era + 1, self.claimed[agreement], 0)
            self._do(owner, 4, ClaimVoucher(SignedVoucher(voucher, client, bytes(64))))
            loss = self.scenario.loss if name == SUBJECT else HONEST_LOSS
            self.spent[owner] = self.spent.get(owner, 0) + int(REVENUE * (1 - loss)) * COST_PERCENT // 100

    def _quarantined(self, owner: bytes) -> bool:
        standing = self.state.get(standing_key(owner), StandingRecord)
        return standing is not None and (standing.banned or self.era <= standing.quarantine_era)

    def _offerless(self, name: str) -> bool:
        record = self.state.get(provider_key(key_of(f"owner of {name}"), name), ProviderRecord)
        return record is None or record.offer is None

    def _plant(self) -> None:
        name = AUDITS[self.era % 2]
        owner = self.auditors[name]
        self._fund((name,))
        hidden = audit_commitment(owner, name, self.era + 1, AUDIT_PPM, SALT)
        self._do(owner, 6, PlantAudit(name, hidden))

    def _claim_breaches(self) -> None:
        noted = verification_era(self.state)
        for case in noted.cases if noted is not None else ():
            record = case_of(self.state, case)
            if record.status is not CaseStatus.FINAL or record.era != self.era:
                continue
            self.convictions += record.name == SUBJECT
            agreement = self.agreements.get(record.name)
            if agreement is not None:
                self._do(key_of("anybody"), LAST, ClaimBreach(case, agreement))
                paid = self.state.get(agreement_key(agreement), Agreement)
                self.refunded += paid.breach_paid if paid is not None else 0

    # What verifiers do

    def _seen(self, name: str) -> float:
        """The share of failures that a probe of a service meets."""
        if name in AUDITS:
            return AUDIT_LOSS if self.scenario.audits and name == AUDITS[(self.era - 1) % 2] else HONEST_LOSS
        if name != SUBJECT:
            return HONEST_LOSS
        known = self.scenario.recognises
        return known * HONEST_LOSS + (1 - known) * self.scenario.loss

    def _failed(self, key: bytes, name: str) -> int:
        """What a verifier says of its probes."""
        if self.keys.index(key) < self.scenario.liars:
            lie = self.scenario.lie if name == SUBJECT else self.scenario.others
            if lie is not None:
                return int(PROBES * lie)
        self.spent[key] = self.spent.get(key, 0) + PROBES * PRICE
        share = self._seen(name)
        return sum(self.draw.random() < share for _ in range(PROBES))

    def _report(self) -> None:
        noted = verification_era(self.state)
        assert noted is not None, "services are verified"
        below = threshold(DRAWN_FACTOR * LIMITS.drawn, noted.verifiers)
        for key in self.keys:
            record = self.state.get(verifier_key(key), VerifierRecord)
            if record is None or not record.serves(self.era, LIMITS.bond_min):
                continue
            value = self.onions[key].reveal(record.owed(self.era))
            barred = (SUBJECT,) if self.scenario.owned and self.keys.index(key) < self.scenario.liars else ()
            drawn = [
                name
                for name in sorted(noted.names)
                if name not in barred and is_drawn(value, self.plan.beacon, name, below)
            ]
            scores = tuple(Score(name, PROBES, self._failed(key, name), 20, 1_000, bytes(32)) for name in drawn)
            self._do(key, COMMITTING, CommitScores(commitment(key, self.era, scores, SALT)))
            self._do(key, REVEALING, RevealScores(value, SALT, scores))
        for name in AUDITS:
            audit = service_of(self.state, name).audit
            if audit is not None and audit.era == self.era:
                self._do(self.auditors[name], REVEALING, RevealAudit(name, AUDIT_PPM, SALT))

    def _judge(self) -> None:
        """Honest judges test for themselves."""
        noted = verification_era(self.state)
        test = promise_test(PROMISE_PPM)
        assert test is not None, "99 % is a promise"
        for case in noted.cases if noted is not None else ():
            record = case_of(self.state, case)
            for judge in record.judges if record.status in JUDGED else ():
                if record.name == SUBJECT and self.keys.index(judge) < self.scenario.liars:
                    self._do(judge, 7, JudgeCase(case, self.scenario.convicts))
                    continue
                likelihood = 0
                while test.verdict(likelihood) is Verdict.OPEN:
                    likelihood = test.after(likelihood, 1, int(self.draw.random() < self._seen(record.name)))
                self._do(judge, 7, JudgeCase(case, test.verdict(likelihood) is Verdict.ACCUSED))

    # The ledger

    def _do(self, sender: bytes, place: int, operation: Operation) -> None:
        RULES[type(operation)](self.state, sender, operation, self._context(place))

    def _try(self, sender: bytes, place: int, operation: Operation) -> None:
        """What may be refused: a pot whose service is not offered."""
        try:
            self._do(sender, place, operation)
        except Failed:
            return

    def _set(self, key: bytes, shape: type[Any], record: Any) -> None:
        self.state.get(key, shape)
        self.state.put(key, record)

    def _balance(self, key: bytes) -> int:
        account = self.state.get(account_key(key), Account)
        return account.balance if account is not None else 0

    def _bond(self, name: str) -> int:
        record = self.state.get(provider_key(key_of(f"owner of {name}"), name), ProviderRecord)
        return record.bond if record is not None else 0

    def _plan(self, era: int) -> EraPlan:
        seats = tuple(Seat(key, key, BLOC, 1_000_000, "", "") for key in self.auditors.values())
        return EraPlan(era, era * ERA_LENGTH, sha256(f"beacon {self.seed} {era}".encode()), 1, seats)

    def _context(self, place: int) -> Context:
        return Context(
            height=self.era * ERA_LENGTH + place,
            time_ms=(self.era * ERA_LENGTH + place) * ERA_MS // ERA_LENGTH,
            naming=NamingParameters(),
            fees=FeeParameters(),
            staking=StakingParameters(),
            chain_id=bytes(32),
            plan=self.plan,
            era_length=ERA_LENGTH,
            challenges=ChallengeParameters(),
            contracts=_RUNTIME,
            agreements=AgreementParameters(),
            market=MarketParameters(),
            proof_of_service=LIMITS,
        )


def run_trial(scenario: Scenario, eras: int, seed: int) -> Mapping[str, Any]:
    """What cheating brought to the provider and to one of the verifiers, beside the honest ones of the same seed."""
    honest, found = Trial(replace_liars(scenario), seed).run(eras), Trial(scenario, seed).run(eras)
    return {
        "what": scenario.what,
        "eras": eras,
        "provider_gain_bloc": round((found.provider - honest.provider) / BLOC, 1),
        "verifier_gain_bloc": round((found.verifier - honest.verifier) / BLOC, 2),
        "convictions": found.convictions,
        "refunded_bloc": round(found.refunded / BLOC, 1),
        "verifier_lost_of_its_bond_bloc": round(found.slashed / BLOC, 2),
        "honest_provider_bloc": round((honest.provider - PROVIDER_BOND) / BLOC, 1),
        "honest_verifier_bloc": round((honest.verifier - 2 * LIMITS.bond_min) / BLOC, 2),
    }


def replace_liars(scenario: Scenario) -> Scenario:
    """The same with everybody honest."""
    return Scenario("everybody is honest", audits=scenario.audits)
