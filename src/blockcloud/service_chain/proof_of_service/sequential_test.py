"""Wald's sequential test: is a provider as good as it promised, or clearly worse? In integers, with as few probes as
a sure answer takes.

Each probe that fails moves the log-likelihood up by ln(p1/p0), each that succeeds down by ln((1-p1)/(1-p0)): p0 is the
share of failures that the promise allows, p1 one that is clearly worse. At ln((1-beta)/alpha) the provider stands
accused, at ln(beta/(1-alpha)) it is cleared and the test begins anew. Who keeps the promise exactly is accused in at
most `alpha` of the tests, whenever one looks (Ville's inequality), so that it does no harm to look only once an era.
Who is clearly worse is cleared in at most `beta` of them. DESIGN section 7.

For a promise of 99 % p1 is 5 %. In general it is twice p0, at least four points more, and at most half way to losing
everything. Nobody promises more than 99.9 %: at p0 = 0 a single lost packet would prove the provider a liar.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from blockcloud.primitives.codec import Struct
from blockcloud.service_chain.agreements.parameters import PARTS_PER_MILLION
from blockcloud.service_chain.proof_of_service.logarithm import micro_nats

ALPHA_PPM: Final = 1_000
BETA_PPM: Final = 10_000
LOSS_MIN_PPM: Final = 1_000
WORSE_BY_MIN_PPM: Final = 40_000
# A promise below this is none: there is nothing to test.
PROMISE_MIN_PPM: Final = 50_000


class Verdict(Enum):
    """What a test says so far."""

    OPEN = "open"
    CLEARED = "cleared"
    ACCUSED = "accused"


class SequentialTest(Struct, frozen=True):
    """The steps and bounds of a test, in micro-nats."""

    fail: int
    success: int
    accuse_at: int
    clear_at: int

    def after(self, log_likelihood: int, probes: int, failed: int) -> int:
        """The log-likelihood after `probes` more, of which `failed` failed."""
        assert 0 <= failed <= probes, "some of the probes fail"
        return log_likelihood + failed * self.fail + (probes - failed) * self.success

    def verdict(self, log_likelihood: int) -> Verdict:
        """What the test says at this log-likelihood."""
        if log_likelihood >= self.accuse_at:
            return Verdict.ACCUSED
        return Verdict.CLEARED if log_likelihood <= self.clear_at else Verdict.OPEN


def clearly_worse_ppm(loss_ppm: int) -> int:
    """p1 for a p0 of `loss_ppm`."""
    return min(loss_ppm + max(WORSE_BY_MIN_PPM, loss_ppm), (loss_ppm + PARTS_PER_MILLION) // 2)


def promise_test(quality_ppm: int, alpha_ppm: int = ALPHA_PPM, beta_ppm: int = BETA_PPM) -> SequentialTest | None:
    """The test of a promise of `quality_ppm`; None if that promises nothing."""
    if quality_ppm < PROMISE_MIN_PPM:
        return None
    loss = max(PARTS_PER_MILLION - quality_ppm, LOSS_MIN_PPM)
    worse = clearly_worse_ppm(loss)
    return SequentialTest(
        fail=micro_nats(worse, loss),
        success=micro_nats(PARTS_PER_MILLION - worse, PARTS_PER_MILLION - loss),
        accuse_at=micro_nats(PARTS_PER_MILLION - beta_ppm, alpha_ppm),
        clear_at=micro_nats(beta_ppm, PARTS_PER_MILLION - alpha_ppm),
    )
