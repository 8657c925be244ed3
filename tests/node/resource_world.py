"""Candidates with small plots, for the tests of resources."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from blockcloud.node.resources.challenge import Candidate, Challenger, Prover
from blockcloud.node.resources.plot import make_plot
from blockcloud.primitives.keys import SigningKey
from blockcloud.transaction_chain.cloudpos.parameters import ChallengeParameters, PlotParameters
from blockcloud.transaction_chain.cloudpos.stake import Resources, StakeClaim

SEED = bytes([5]) * 32
CHALLENGER = bytes([6]) * 32
SMALL_PLOT = PlotParameters(chunk_bytes=2_048, segment_bytes=256, window_bytes=256, passes=2)
SMALL = ChallengeParameters(plot=SMALL_PLOT, plot_segments=4, links=8, links_checked=3)


def key_of(number: int) -> SigningKey:
    return SigningKey(bytes([number]) * 32)


@dataclass
class Staked:
    """A node with its plot on disk and what it claims."""

    key: SigningKey
    path: Path
    claim: StakeClaim
    parameters: ChallengeParameters

    def prover(self) -> Prover:
        return Prover(self.claim, self.key, self.path, self.parameters)

    def candidate(self, judges: int = 1) -> Candidate:
        return Candidate(self.key.public, self.claim, SEED, judges)

    def challenger(self, judges: int = 1) -> Challenger:
        return Challenger(CHALLENGER, self.candidate(judges), self.parameters)


def stake(
    folder: Path,
    *,
    number: int = 1,
    chunks: int = 8,
    compute: int = 8_000,
    data_rate: int = 100_000,
    lanes: int = 1,
    parameters: ChallengeParameters = SMALL,
) -> Staked:
    """A node that has what it claims."""
    key, path = key_of(number), folder / f"plot{number}"
    root = make_plot(path, key.public, SEED, chunks, parameters.plot)
    resources = Resources(compute, chunks * parameters.plot.chunk_bytes, data_rate)
    return Staked(key, path, StakeClaim(resources, lanes, root), parameters)
