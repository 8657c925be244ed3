"""A ledger whose eras are twenty commits long, with a provider under verification and verifiers who play an era."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from msgspec.structs import replace

from blockcloud.primitives.hash_onion import HashOnion
from blockcloud.primitives.keys import SigningKey
from blockcloud.service_chain.agreements.keys import pot_key, provider_key
from blockcloud.service_chain.agreements.records import PotRecord, ProviderRecord
from blockcloud.service_chain.operations import Operation, Transfer
from blockcloud.service_chain.proof_of_service.keys import (
    VERIFICATION_ERA_KEY,
    case_key,
    service_key,
    standing_key,
    verifier_key,
)
from blockcloud.service_chain.proof_of_service.operations import (
    CommitScores,
    FundVerification,
    JudgeCase,
    RegisterVerifier,
    RevealScores,
)
from blockcloud.service_chain.proof_of_service.records import (
    CaseRecord,
    ServiceRecord,
    StandingRecord,
    VerificationEra,
    VerifierRecord,
)
from blockcloud.service_chain.proof_of_service.scores import Score, commitment
from blockcloud.service_chain.proof_of_service.sortition import is_drawn, threshold
from blockcloud.service_chain.records import decode_record
from tests.service_chain.agreements.channel_world import NAME, PROVIDER, offer
from tests.service_chain.era_world import ERA_LENGTH, EraLedger, era_genesis
from tests.service_chain.ledger_in_memory import NAMING, PROOF_OF_SERVICE, USERS

VERIFIERS = [SigningKey(bytes([7, number]) + bytes(30)) for number in range(12)]
BY_KEY = {verifier.public: number for number, verifier in enumerate(VERIFIERS)}
FUNDS = 200_000
BOND = 20_000
POT = 100_000
SALT = bytes([3]) * 32
PROBES = 100
COMMIT_END, REVEAL_END = 14, 19  # commits of an era

# How many of PROBES a verifier says that failed at a service; None: it says nothing.
Finds = Callable[[int, str], int | None]
Votes = Callable[[int], bool | None]


def onion(number: int, generation: int = 0) -> HashOnion:
    return HashOnion(bytes([8, number, generation]) + bytes(29), PROOF_OF_SERVICE.onion_length)


class VerificationWorld:
    """`ledger`, where the offer is posted and its pot funded, and all verifiers serve."""

    def __init__(self, verifiers: int = len(VERIFIERS), owners: Sequence[int] = ()) -> None:
        """`owners[n]`: the number of the verifier that owns verifier n; by default each is its own."""
        genesis = replace(era_genesis(), naming=replace(NAMING, lifetime=10_000))
        self.ledger = EraLedger(genesis)
        self.verifiers = VERIFIERS[:verifiers]
        assert self.ledger.register(PROVIDER, NAME) == "ok"
        assert self.ledger.run(PROVIDER, offer(longest_ms=100_000)) == "ok"
        funds = [Transfer(verifier.public, FUNDS) for verifier in self.verifiers]
        assert self.ledger.run(USERS[0], *funds) == "ok"
        self.commit(
            (verifier, RegisterVerifier(self.owner(number, owners), onion(number).tip, BOND))
            for number, verifier in enumerate(self.verifiers)
        )
        self.end_era()
        assert self.ledger.run(USERS[0], FundVerification(NAME, POT)) == "ok"
        self.end_era()

    def owner(self, number: int, owners: Sequence[int]) -> bytes:
        return VERIFIERS[owners[number] if owners else number].public

    @property
    def era(self) -> int:
        return self.ledger.plan.era

    @property
    def place(self) -> int:
        """Commits of this era so far."""
        return self.ledger.height + 1 - self.ledger.plan.first_height

    def go_to(self, place: int) -> None:
        """So many commits of this era are made."""
        assert self.place <= place
        self.ledger.advance(place - self.place)

    def end_era(self) -> None:
        self.go_to(ERA_LENGTH - 1)
        self.ledger.advance(1)

    def value(self, number: int) -> bytes:
        """The layer that verifier `number` owes in this era."""
        return onion(number).reveal(self.era - self.verifier(number).from_era + 1)

    def drawn(self, number: int) -> list[str]:
        """The services that verifier `number` is to verify in this era."""
        noted = self.noted()
        below = threshold(2 * PROOF_OF_SERVICE.drawn, noted.verifiers)
        beacon = self.ledger.plan.beacon
        return sorted(name for name in noted.names if is_drawn(self.value(number), beacon, name, below))

    def scores(self, number: int, finds: Finds) -> tuple[Score, ...]:
        found = [(name, finds(number, name)) for name in self.drawn(number)]
        return tuple(
            Score(name, PROBES, failed, 20 + number, 1_000 - number, bytes(32))
            for name, failed in found
            if failed is not None
        )

    def play_era(
        self, finds: Finds, silent: Sequence[int] = (), guilty: Callable[[int], bool | None] | None = None
    ) -> None:
        """An era in which all but the `silent` verifiers do their work, and judges say `guilty(number)`."""
        if guilty is not None:
            for case in self.noted().cases:
                for judge in self.case(case).judges:
                    verdict = guilty(BY_KEY[judge])
                    if verdict is not None:
                        self.ledger.run(VERIFIERS[BY_KEY[judge]], JudgeCase(case, verdict))
        active = [number for number in range(len(self.verifiers)) if number not in silent and self.serves(number)]
        told = {number: self.scores(number, finds) for number in active}
        self.commit(
            (VERIFIERS[number], CommitScores(commitment(VERIFIERS[number].public, self.era, told[number], SALT)))
            for number in active
        )
        self.go_to(COMMIT_END)
        self.commit((VERIFIERS[number], RevealScores(self.value(number), SALT, told[number])) for number in active)
        self.end_era()

    def commit(self, wanted: Iterable[tuple[SigningKey, Operation]]) -> None:
        """One commit in which each of these transactions is good."""
        payloads = [self.ledger.sign(user, operation) for user, operation in wanted]
        assert self.ledger.commit(*payloads) == ["ok"] * len(payloads)

    def run(self, number: int, operation: Operation) -> str:
        return self.ledger.run(VERIFIERS[number], operation)

    def serves(self, number: int) -> bool:
        return self.verifier(number).serves(self.era, PROOF_OF_SERVICE.bond_min)

    def noted(self) -> VerificationEra:
        found = decode_record(self.ledger.chain.get(VERIFICATION_ERA_KEY), VerificationEra)
        assert found is not None
        return found

    def verifier(self, number: int) -> VerifierRecord:
        found = decode_record(self.ledger.chain.get(verifier_key(VERIFIERS[number].public)), VerifierRecord)
        assert found is not None
        return found

    def service(self, name: str = NAME) -> ServiceRecord:
        found = decode_record(self.ledger.chain.get(service_key(name)), ServiceRecord)
        assert found is not None
        return found

    def case(self, case: bytes) -> CaseRecord:
        found = decode_record(self.ledger.chain.get(case_key(case)), CaseRecord)
        assert found is not None
        return found

    def standing(self) -> StandingRecord | None:
        return decode_record(self.ledger.chain.get(standing_key(PROVIDER.public)), StandingRecord)

    def pot(self, name: str = NAME) -> int:
        found = decode_record(self.ledger.chain.get(pot_key(name)), PotRecord)
        return found.balance if found is not None else 0

    def provider_bond(self) -> int:
        found = decode_record(self.ledger.chain.get(provider_key(PROVIDER.public, NAME)), ProviderRecord)
        return found.bond if found is not None else 0

    def balance(self, user: SigningKey) -> int:
        account = self.ledger.chain.account(user.public)
        return account.balance if account is not None else 0

    def accused(self) -> bytes:
        """The id of the case against the provider, who lost half of all probes in an era."""
        self.play_era(lambda number, name: 50)
        case = self.service().case
        assert case
        return case

    def check_money(self) -> None:
        assert self.ledger.money() == self.ledger.chain.fees.supply
