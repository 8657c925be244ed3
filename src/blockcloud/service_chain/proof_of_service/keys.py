"""Where the records of proof of service stand in the state map, and what names a case or an audit."""

from __future__ import annotations

from typing import Final

from blockcloud.primitives import codec
from blockcloud.primitives.hashes import tagged_hash

VERIFIER_INDEX_KEY: Final = b"Iv"
VERIFICATION_ERA_KEY: Final = b"Ie"


def verifier_key(verifier: bytes) -> bytes:
    """The VerifierRecord of an account."""
    return b"Y" + verifier


def service_key(name: str) -> bytes:
    """The ServiceRecord of a name."""
    return b"G" + name.encode()


def standing_key(provider: bytes) -> bytes:
    """The StandingRecord of a provider's account."""
    return b"H" + provider


def case_key(case: bytes) -> bytes:
    """The CaseRecord of an id."""
    return b"J" + case


def case_id(name: str, provider: bytes, era: int) -> bytes:
    """The id of the case against what `provider` delivered under `name` up to `era`."""
    return tagged_hash("verification-case/v1", codec.encode((name, provider, era)))


def audit_commitment(auditor: bytes, name: str, era: int, failed_ppm: int, salt: bytes) -> bytes:
    """What hides the truth about an audited service until all scores are committed."""
    return tagged_hash("audit/v1", codec.encode((auditor, name, era, failed_ppm, salt)))
