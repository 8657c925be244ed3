"""Challenges and answers: the tests of one candidate by one challenger (CloudPoS phase 2, DESIGN section 3.4).

`Challenger` asks and judges, `Prover` answers; neither has a socket or a clock (`examination.py` has both), but answers
take the time and the disk that they are about, so run them in threads.

Every challenge has a nonce of the challenger's own and names both keys; what is to be read, walked or sent follows from
its digest. So nothing can be prepared, nothing fits two candidates, and nothing fits two challengers. An answer is
signed over the challenge's digest by the candidate's node key: whoever relays it is faster than nobody.

**How much.** The challengers of a candidate share what it staked: each asks for 1/judges of what the stake does in the
window, all at the same time, so a candidate is busy with the whole of its stake for the whole window and a stake that
answers for two needs two windows. The deadline is the window times a tolerance of 1.5: between the two, and far from
both.

**What tolerance means.** A late plot answer may be the fault of a busy processor on either side: on two cores with six
processes that compute all the time, a quarter of them was late. So storage is tested in rounds with fresh places each,
at random times, and `plot_rounds_passed` of `plot_rounds` must be in time. An honest node that is late in half of the
rounds fails 7 % of its challengers, hence hardly ever most of them. With half of the plot on disk a round of 8 segments
passes once in 256 times, and four of twelve once in ten million; with three quarters, once in forty times. Who keeps
nine tenths passes: the test is against those who claim what they do not have, not against a few bad sectors. A wrong
answer has no excuse. Compute and transfer are measured over a whole second, in which such delays vanish.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, TypeAlias, cast

from msgspec import Meta

from blockcloud.node.resources import compute, plot, transfer
from blockcloud.node.resources.plot import Digest, PlotFile, SegmentProof
from blockcloud.primitives import codec
from blockcloud.primitives.codec import Struct
from blockcloud.primitives.errors import BadConfiguration, BadSignature, PeerFault
from blockcloud.primitives.hashes import tagged_hash
from blockcloud.primitives.keys import SIGNATURE_BYTES, SigningKey, verify
from blockcloud.primitives.merkle import merkle_root
from blockcloud.transaction_chain.cloudpos.parameters import (
    LINKS_LIMIT,
    SEGMENTS_LIMIT,
    ChallengeParameters,
    PlotParameters,
)
from blockcloud.transaction_chain.cloudpos.stake import COMPUTE_LANES_LIMIT, RESOURCE_LIMIT, StakeClaim
from blockcloud.transaction_chain.cloudpos.verdicts import Verdict

CHALLENGE_DOMAIN = "challenge/v1"
ANSWER_DOMAIN = "challenge-answer/v1"
PLACES_DOMAIN = "challenge-places/v1"
CHALLENGE_BYTES: Final = 512
ANSWER_BYTES: Final = 1024 * 1024
NONCE_BYTES: Final = 32
# A prover does not work more than this for one challenge: so many times what it staked for one window.
WORK_LIMIT_WINDOWS: Final = 2


class ChallengeRefused(PeerFault):
    """A challenge for someone else, by someone else, or for more than was staked."""

    code = "challenge_refused"


# What is asked


class PlotChallenge(Struct, frozen=True, tag=1):
    """Show `segments` segments of your plot, at the places that the digest says."""

    nonce: Digest
    challenger: Digest
    prover: Digest
    segments: Annotated[int, Meta(ge=1, le=SEGMENTS_LIMIT)]


class ComputeChallenge(Struct, frozen=True, tag=2):
    """Walk `lanes` chains of `links` links of `steps` steps."""

    nonce: Digest
    challenger: Digest
    prover: Digest
    lanes: Annotated[int, Meta(ge=1, le=COMPUTE_LANES_LIMIT)]
    links: Annotated[int, Meta(ge=1, le=LINKS_LIMIT)]
    steps: Annotated[int, Meta(ge=1, le=RESOURCE_LIMIT)]


class TransferChallenge(Struct, frozen=True, tag=3):
    """Send the stream of `size` bytes, and then the answer."""

    nonce: Digest
    challenger: Digest
    prover: Digest
    size: Annotated[int, Meta(ge=1, le=RESOURCE_LIMIT)]


Challenge: TypeAlias = PlotChallenge | ComputeChallenge | TransferChallenge
Signature: TypeAlias = Annotated[bytes, Meta(min_length=SIGNATURE_BYTES, max_length=SIGNATURE_BYTES)]


# What is answered. `signature` is over the digests of challenge and content (`to_be_signed`).


class PlotAnswer(Struct, frozen=True, tag=1):
    """A proof for each place, in their order."""

    content: Annotated[tuple[SegmentProof, ...], Meta(max_length=SEGMENTS_LIMIT)]
    signature: Signature


class ComputeAnswer(Struct, frozen=True, tag=2):
    """The checkpoints of each lane."""

    content: Annotated[
        tuple[Annotated[tuple[Digest, ...], Meta(max_length=LINKS_LIMIT)], ...],
        Meta(max_length=COMPUTE_LANES_LIMIT),
    ]
    signature: Signature


class TransferAnswer(Struct, frozen=True, tag=3):
    """SHA-256 of the stream that came before. The challenger puts what it received beside it."""

    content: Digest
    signature: Signature


Answer: TypeAlias = PlotAnswer | ComputeAnswer | TransferAnswer


def decode_challenge(data: bytes) -> Challenge:
    """Raises Oversized, Malformed or NonCanonical."""
    return codec.decode(data, cast("type[Challenge]", Challenge), limit=CHALLENGE_BYTES)


def decode_answer(data: bytes) -> Answer:
    """Raises Oversized, Malformed or NonCanonical."""
    return codec.decode(data, cast("type[Answer]", Answer), limit=ANSWER_BYTES)


def digest_of(challenge: Challenge) -> bytes:
    """The seed of everything that `challenge` asks for."""
    return tagged_hash(CHALLENGE_DOMAIN, codec.encode(challenge))


def places(challenge: PlotChallenge, chunks: int, parameters: PlotParameters) -> list[tuple[int, int]]:
    """The (chunk, segment) pairs to show; each drawn from all, so one may come twice."""
    seed = digest_of(challenge)
    found = []
    for number in range(challenge.segments):
        point = int.from_bytes(tagged_hash(PLACES_DOMAIN, seed + number.to_bytes(4, "big")), "big")
        found.append(divmod(point % (chunks * parameters.segments), parameters.segments))
    return found


def to_be_signed(challenge: Challenge, content: object) -> bytes:
    """What a candidate signs: that this is its answer to that challenge."""
    return digest_of(challenge) + tagged_hash(ANSWER_DOMAIN, codec.encode(content))


def share(staked: int, judges: int, parameters: ChallengeParameters) -> int:
    """What each of `judges` asks of a resource of which so much a second is `staked`: its part of the window."""
    return staked * parameters.window_ms // (1_000 * judges)


class Prover:
    """The side that has the resources: `stake` is what it claimed, `key` its node key, `cores` the staked CPUs (none:
    the system chooses). Any thread may ask it."""

    def __init__(
        self,
        stake: StakeClaim,
        key: SigningKey,
        plot_path: Path | None,
        parameters: ChallengeParameters,
        cores: Sequence[int] = (),
    ) -> None:
        """Raises StorageFault, or BadConfiguration if the plot is not the one of the claim."""
        self._stake, self._key, self._parameters, self._cores = stake, key, parameters, cores
        self._plot = PlotFile(plot_path) if plot_path is not None else None
        chunks = stake.resources.storage // parameters.plot.chunk_bytes
        if self._plot is None:
            if chunks:
                raise BadConfiguration("a stake of storage needs a plot", chunks=chunks)
        elif (self._plot.node_key, self._plot.chunks, self._plot.root, self._plot.parameters) != (
            key.public,
            chunks,
            stake.plot_root,
            parameters.plot,
        ):
            self._plot.close()
            raise BadConfiguration("the plot on disk is not the one that was staked", path=str(plot_path))

    def close(self) -> None:
        """Close the plot."""
        if self._plot is not None:
            self._plot.close()

    def check(self, challenge: Challenge, challenger: bytes) -> None:
        """Raise ChallengeRefused unless `challenger`, who sent it, may ask this of us."""
        if challenge.prover != self._key.public or challenge.challenger != challenger:
            raise ChallengeRefused("the challenge names other keys")
        window = WORK_LIMIT_WINDOWS * self._parameters.window_ms
        staked = self._stake.resources
        if isinstance(challenge, ComputeChallenge):
            work, most = challenge.lanes * challenge.links * challenge.steps, staked.compute * window // 1_000
            if challenge.lanes > self._stake.compute_lanes or work > most:
                raise ChallengeRefused("more compute than was staked", steps=work, limit=most)
        elif isinstance(challenge, TransferChallenge):
            if challenge.size > (most := staked.data_rate * window // 1_000):
                raise ChallengeRefused("more bytes than was staked", bytes=challenge.size, limit=most)
        elif self._plot is None:
            raise ChallengeRefused("no storage was staked")

    def answer(self, challenge: Challenge) -> Answer:
        """Do what `challenge`, which was checked, asks for. Raises PlotDamaged, StorageFault."""
        if isinstance(challenge, PlotChallenge):
            assert self._plot is not None, "`check` refuses it"
            wanted = places(challenge, self._plot.chunks, self._parameters.plot)
            proofs = tuple(self._plot.read(chunk, segment) for chunk, segment in wanted)
            return PlotAnswer(proofs, self._sign(challenge, proofs))
        seed = digest_of(challenge)
        if isinstance(challenge, ComputeChallenge):
            lanes = compute.walk(seed, challenge.lanes, challenge.links, challenge.steps, self._cores)
            return ComputeAnswer(lanes, self._sign(challenge, lanes))
        digest = transfer.stream_digest(seed, challenge.size)
        return TransferAnswer(digest, self._sign(challenge, digest))

    def _sign(self, challenge: Challenge, content: object) -> bytes:
        return self._key.sign(ANSWER_DOMAIN, to_be_signed(challenge, content))


@dataclass(frozen=True, slots=True)
class Candidate:
    """Whom a challenger tests, as the chain knows it. `judges`: how many challengers test it in this round."""

    node_key: bytes
    stake: StakeClaim
    plot_seed: bytes
    judges: int

    def chunks(self, parameters: ChallengeParameters) -> int:
        """How many chunks the plot has."""
        return self.stake.resources.storage // parameters.plot.chunk_bytes


class Challenger:
    """The side that asks. `random_below(n)` and `nonce(bytes)` must be unknown to the candidate beforehand."""

    def __init__(
        self,
        key: bytes,
        candidate: Candidate,
        parameters: ChallengeParameters,
        *,
        nonce: Callable[[int], bytes] = secrets.token_bytes,
        random_below: Callable[[int], int] = secrets.randbelow,
    ) -> None:
        self.candidate, self.parameters = candidate, parameters
        self._key, self._nonce, self._random_below = key, nonce, random_below

    def plot_challenge(self) -> PlotChallenge | None:
        """One round of reads; None if no storage was staked, and alike below."""
        if not self.candidate.chunks(self.parameters):
            return None
        return PlotChallenge(*self._names(), self.parameters.plot_segments)

    def compute_challenge(self) -> ComputeChallenge | None:
        """This challenger's part of what the staked cores do in the window."""
        lanes, links = self.candidate.stake.compute_lanes, self.parameters.links
        steps = self._share(self.candidate.stake.resources.compute) // (lanes * links)
        return ComputeChallenge(*self._names(), lanes, links, steps) if steps else None

    def transfer_challenge(self) -> TransferChallenge | None:
        """This challenger's part of what the staked rate carries in the window."""
        size = self._share(self.candidate.stake.resources.data_rate)
        return TransferChallenge(*self._names(), size) if size else None

    def judge(self, challenge: Challenge, answer: Answer | None, elapsed_ms: float) -> Verdict:
        """What `answer`, whole after `elapsed_ms`, shows. Cheap but for the few links that are walked again."""
        if answer is None:
            return Verdict.SILENT
        deadline_ms = (
            self.parameters.plot_deadline_ms
            if isinstance(challenge, PlotChallenge)
            else self.parameters.window_deadline_ms
        )
        if elapsed_ms > deadline_ms:
            return Verdict.LATE
        try:
            verify(challenge.prover, ANSWER_DOMAIN, to_be_signed(challenge, answer.content), answer.signature)
        except BadSignature:
            return Verdict.WRONG
        return Verdict.PASSED if self._is_right(challenge, answer) else Verdict.WRONG

    def judge_origin(self, challenge: PlotChallenge, answer: PlotAnswer) -> Verdict:
        """Whether the chunks of an answer that passed are what a plot contains: FORGED if not. Makes `chunks_remade`
        chunks, chosen now, and takes as long as that."""
        wanted = places(challenge, self.candidate.chunks(self.parameters), self.parameters.plot)
        for chosen in self._choose(len(wanted), self.parameters.chunks_remade):
            chunk = plot.make_chunk(
                self.candidate.node_key, self.candidate.plot_seed, wanted[chosen][0], self.parameters.plot
            )
            if merkle_root(plot.segments_of(chunk, self.parameters.plot)) != answer.content[chosen].chunk_root:
                return Verdict.FORGED
        return Verdict.PASSED

    def _is_right(self, challenge: Challenge, answer: Answer) -> bool:
        if isinstance(challenge, PlotChallenge):
            return isinstance(answer, PlotAnswer) and self._is_plot(challenge, answer)
        if isinstance(challenge, ComputeChallenge):
            return isinstance(answer, ComputeAnswer) and self._is_walk(challenge, answer)
        digest = transfer.stream_digest(digest_of(challenge), challenge.size)
        return isinstance(answer, TransferAnswer) and answer.content == digest

    def _is_plot(self, challenge: PlotChallenge, answer: PlotAnswer) -> bool:
        root, chunks = self.candidate.stake.plot_root, self.candidate.chunks(self.parameters)
        wanted = places(challenge, chunks, self.parameters.plot)
        return len(answer.content) == len(wanted) and all(
            plot.verify_segment(root, chunks, chunk, segment, proof, self.parameters.plot)
            for (chunk, segment), proof in zip(wanted, answer.content, strict=True)
        )

    def _is_walk(self, challenge: ComputeChallenge, answer: ComputeAnswer) -> bool:
        if [len(lane) for lane in answer.content] != [challenge.links] * challenge.lanes:
            return False
        seed = digest_of(challenge)
        checks = min(challenge.links, self.parameters.links_checked)
        return all(
            compute.verify_links(seed, lane, checkpoints, challenge.steps, self._choose(challenge.links, checks))
            for lane, checkpoints in enumerate(answer.content)
        )

    def _choose(self, size: int, count: int) -> list[int]:
        """`count` different numbers below `size`."""
        left = list(range(size))
        return [left.pop(self._random_below(len(left))) for _ in range(count)]

    def _share(self, staked: int) -> int:
        return share(staked, self.candidate.judges, self.parameters)

    def _names(self) -> tuple[bytes, bytes, bytes]:
        return self._nonce(NONCE_BYTES), self._key, self.candidate.node_key
