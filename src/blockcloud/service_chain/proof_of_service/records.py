"""What the state holds about proof of service: amounts in micro-BLOC, shares in parts per million."""

from __future__ import annotations

from enum import Enum
from typing import Final

from blockcloud.primitives.codec import Struct
from blockcloud.service_chain.proof_of_service.scores import Score

# An era that never comes.
NEVER: Final = 2**62
NO_ERA: Final = -1


class VerifierRecord(Struct, frozen=True):
    """A verifier. In the era `from_era + n` it owes layer n + 1 of its onion; `onion` is the last layer known, which is
    number `reveals` (0: the tip). It serves until `until_era`. `missed`: whose audits it got wrong since the last one
    that it got right."""

    owner: bytes
    bond: int
    onion: bytes
    from_era: int
    reveals: int = 0
    until_era: int = NEVER
    committed_era: int = NO_ERA
    commitment: bytes = b""
    missed: tuple[bytes, ...] = ()
    earned_total: int = 0

    @property
    def at_stake(self) -> int:
        """What can be slashed."""
        return self.bond

    def owed(self, era: int) -> int:
        """The number of the layer that the verifier owes in `era`."""
        return era - self.from_era + 1

    def serves(self, era: int, bond_min: int) -> bool:
        """Whether it verifies and judges in `era`."""
        return self.from_era <= era <= self.until_era and self.bond >= bond_min


class VerifierIndex(Struct, frozen=True):
    """All verifiers, ascending."""

    keys: tuple[bytes, ...]


class VerificationEra(Struct, frozen=True):
    """What is verified in `era`: the services, and how many verifiers may be drawn. `waiting` come with the next era;
    `cases` are not over."""

    era: int
    verifiers: int = 0
    names: tuple[str, ...] = ()
    waiting: tuple[str, ...] = ()
    cases: tuple[bytes, ...] = ()


class Report(Struct, frozen=True):
    """A score and whose it is."""

    verifier: bytes
    score: Score


class AuditRecord(Struct, frozen=True):
    """What the auditor knows about its service in `era`: hidden in `commitment`, and `truth_ppm` once revealed."""

    auditor: bytes
    era: int
    commitment: bytes
    truth_ppm: int = -1


class ServiceRecord(Struct, frozen=True):
    """What is known of the service of a name: whose it is, and what it promised when the era began; the reports of this
    era; the log-likelihood of the test, in micro-nats; the last verdict. `case`: the one that is not over."""

    name: str
    provider: bytes = b""
    quality_ppm: int = 0
    likelihood: int = 0
    reports: tuple[Report, ...] = ()
    case: bytes = b""
    audit: AuditRecord | None = None
    verdict_era: int = NO_ERA
    failed_ppm: int = 0
    latency_ms: int = 0
    throughput_kbps: int = 0


class StandingRecord(Struct, frozen=True):
    """Why a provider may offer nothing: until after `quarantine_era`, or, `banned`, for ever."""

    convictions: int
    quarantine_era: int
    banned: bool


class CaseStatus(Enum):
    """Where a case is in its life."""

    UNKNOWN = "unknown"
    JUDGING = "judging"
    CONVICTED = "convicted"  # unless the provider appeals in this era
    APPEALED = "appealed"  # the panel is drawn when the era ends
    APPEAL_JUDGING = "appeal_judging"
    FINAL = "final"  # slashed; clients may claim
    CLOSED = "closed"  # and nobody may claim any more
    DISMISSED = "dismissed"


class CaseRecord(Struct, frozen=True):
    """A provider accused of `failed_ppm` in `accused_era`. `era` is the one in which the present status lasts."""

    name: str
    provider: bytes
    accused_era: int
    accused_ms: int
    failed_ppm: int
    accusers: tuple[bytes, ...]
    status: CaseStatus
    era: int
    judges: tuple[bytes, ...] = ()
    guilty: tuple[bytes, ...] = ()
    innocent: tuple[bytes, ...] = ()
    appeal_bond: int = 0

    @property
    def at_stake(self) -> int:
        """What the provider has put up for its appeal."""
        return self.appeal_bond
