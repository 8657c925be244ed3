"""What verifiers report of a service, how it is hidden until all have reported, and what many reports say together.

The median decides: one report, one vote, and fewer than three are no verdict. Of an even number it is the better one
of the two in the middle, so that no half of the verifiers can accuse. The median of failures is a report that somebody
made, with whole counts: the sequential test reads it, and a minority of liars cannot move it past an honest report.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt
from typing import Annotated, Final, TypeAlias

from msgspec import Meta

from blockcloud.primitives import codec
from blockcloud.primitives.codec import Struct
from blockcloud.primitives.hashes import tagged_hash
from blockcloud.service_chain.agreements.parameters import PARTS_PER_MILLION
from blockcloud.service_chain.fields import Digest, NameText

REPORTS_MIN: Final = 3
PROBES_MAX: Final = 10_000
LATENCY_MAX_MS: Final = 3_600_000
THROUGHPUT_MAX_KBPS: Final = 10**9
# Two honest samples differ by chance. Two standard deviations, and two points for what the road does.
TOLERANCE_PPM: Final = 20_000
DEVIATIONS: Final = 2

Probes: TypeAlias = Annotated[int, Meta(ge=1, le=PROBES_MAX)]
Failed: TypeAlias = Annotated[int, Meta(ge=0, le=PROBES_MAX)]
Latency: TypeAlias = Annotated[int, Meta(ge=0, le=LATENCY_MAX_MS)]
Throughput: TypeAlias = Annotated[int, Meta(ge=0, le=THROUGHPUT_MAX_KBPS)]


class Score(Struct, frozen=True):
    """What a verifier found at a service: of its `probes` so many `failed`, because no answer came in time or a wrong
    one; the others took `latency_ms` in the median. `receipts` is the Merkle root of the co-signed receipts."""

    name: NameText
    probes: Probes
    failed: Failed
    latency_ms: Latency
    throughput_kbps: Throughput
    receipts: Digest

    @property
    def failed_ppm(self) -> int:
        """The share that failed."""
        return self.failed * PARTS_PER_MILLION // self.probes


def commitment(verifier: bytes, era: int, scores: Sequence[Score], salt: bytes) -> bytes:
    """What hides the scores until all are committed. It is bound to the verifier, so nobody can copy another's."""
    return tagged_hash("scores/v1", codec.encode((verifier, era, tuple(scores), salt)))


def median(values: Sequence[int]) -> int | None:
    """The median, the lower of two; None: too few for a verdict."""
    return sorted(values)[(len(values) - 1) // 2] if len(values) >= REPORTS_MIN else None


def median_score(scores: Sequence[Score]) -> Score | None:
    """The report with the median share of failures; of equal ones that with the most probes."""
    if len(scores) < REPORTS_MIN:
        return None
    ordered = sorted(scores, key=lambda score: (score.failed_ppm, -score.probes, score.receipts))
    return ordered[(len(ordered) - 1) // 2]


def agrees(score: Score, failed_ppm: int) -> bool:
    """Whether a report may be an honest sample of a service of which `failed_ppm` fail."""
    variance = failed_ppm * (PARTS_PER_MILLION - failed_ppm) // score.probes
    return abs(score.failed_ppm - failed_ppm) <= TOLERANCE_PPM + DEVIATIONS * isqrt(variance)
