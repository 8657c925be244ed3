"""Challenges: what an honest node answers passes, what it does not have fails, whatever it says.

Times are arguments here: what real clocks say is in `test_resources_timing.py`.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from fractions import Fraction
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockcloud.node.resources import compute, transfer
from blockcloud.node.resources.challenge import (
    ANSWER_BYTES,
    CHALLENGE_BYTES,
    Answer,
    Challenge,
    Challenger,
    ChallengeRefused,
    ComputeAnswer,
    PlotAnswer,
    PlotChallenge,
    Prover,
    TransferAnswer,
    decode_answer,
    decode_challenge,
    digest_of,
    places,
    to_be_signed,
)
from blockcloud.node.resources.examination import Examination, serve
from blockcloud.node.resources.frames import read_frame, write_frame
from blockcloud.node.resources.plot import SegmentProof, make_chunk, make_plot
from blockcloud.primitives import codec
from blockcloud.primitives.errors import BadConfiguration, BlockCloudError, Oversized, PeerFault
from blockcloud.transaction_chain.cloudpos.parameters import (
    LINKS_LIMIT,
    SEGMENTS_LIMIT,
    ChallengeParameters,
    PlotParameters,
)
from blockcloud.transaction_chain.cloudpos.stake import Resources, StakeClaim
from blockcloud.transaction_chain.cloudpos.verdicts import Verdict
from tests.node.resource_world import CHALLENGER, SEED, SMALL, SMALL_PLOT, Staked, key_of, stake

SOON = 1.0
PASSED, LATE, WRONG, FORGED, SILENT = Verdict


def challenges(challenger: Challenger) -> list[Challenge]:
    asked = (challenger.compute_challenge(), challenger.plot_challenge(), challenger.transfer_challenge())
    return [challenge for challenge in asked if challenge is not None]


# Answers and verdicts


def test_an_honest_node_passes(tmp_path: Path) -> None:
    staked = stake(tmp_path, lanes=2)
    prover, challenger = staked.prover(), staked.challenger()
    asked = challenges(challenger)
    assert len(asked) == 3
    for challenge in asked:
        prover.check(challenge, CHALLENGER)
        answer = decode_answer(codec.encode(prover.answer(challenge)))
        assert decode_challenge(codec.encode(challenge)) == challenge
        assert challenger.judge(challenge, answer, SOON) is PASSED
        if isinstance(challenge, PlotChallenge):
            assert isinstance(answer, PlotAnswer)
            assert challenger.judge_origin(challenge, answer) is PASSED
    prover.close()


def test_late_and_silent(tmp_path: Path) -> None:
    staked = stake(tmp_path)
    prover, challenger = staked.prover(), staked.challenger()
    for challenge in challenges(challenger):
        answer = prover.answer(challenge)
        deadline = SMALL.plot_deadline_ms if isinstance(challenge, PlotChallenge) else 1_500
        assert challenger.judge(challenge, answer, deadline) is PASSED
        assert challenger.judge(challenge, answer, deadline + 0.1) is LATE
        assert challenger.judge(challenge, None, 0) is SILENT
    prover.close()


def test_an_answer_fits_its_challenge_and_its_signer(tmp_path: Path) -> None:
    staked, other = stake(tmp_path), stake(tmp_path, number=2)
    prover, challenger, thief = staked.prover(), staked.challenger(), other.prover()
    first, second = challenges(challenger), challenges(challenger)
    for number, challenge in enumerate(first):
        answer = prover.answer(challenge)
        assert challenger.judge(second[number], answer, SOON) is WRONG
        assert challenger.judge(first[number - 1], answer, SOON) is WRONG
        assert challenger.judge(challenge, thief.answer(challenge), SOON) is WRONG
        unsigned = msgspec.structs.replace(answer, signature=bytes(64))
        assert challenger.judge(challenge, unsigned, SOON) is WRONG
    prover.close()
    thief.close()


def resigned(staked: Staked, challenge: Challenge, answer: Answer, content: object) -> Answer:
    """`answer` with other content, signed by the node itself: it lies and stands by it."""
    signature = staked.key.sign("challenge-answer/v1", to_be_signed(challenge, content))
    return msgspec.structs.replace(answer, content=content, signature=signature)


def test_an_answer_to_one_question_is_none_to_the_same_question_asked_again(tmp_path: Path) -> None:
    """Where there is only one segment, every challenge asks for it; the signature says for which one it was shown."""
    one = PlotParameters(chunk_bytes=2_048, segment_bytes=2_048, window_bytes=256, passes=2)
    staked = stake(tmp_path, chunks=1, parameters=msgspec.structs.replace(SMALL, plot=one))
    prover, challenger = staked.prover(), staked.challenger()
    first, second = challenger.plot_challenge(), challenger.plot_challenge()
    assert first is not None
    assert second is not None
    answer = prover.answer(first)
    prover.close()
    assert challenger.judge(first, answer, SOON) is PASSED
    assert challenger.judge(second, answer, SOON) is WRONG


def test_a_signed_lie_is_wrong(tmp_path: Path) -> None:
    staked = stake(tmp_path, lanes=2)
    prover, challenger = staked.prover(), staked.challenger()
    asked = challenges(challenger)
    walk, reads, sent = (prover.answer(challenge) for challenge in asked)
    assert isinstance(walk, ComputeAnswer)
    assert isinstance(reads, PlotAnswer)
    assert isinstance(sent, TransferAnswer)
    assert challenger.judge(asked[0], resigned(staked, asked[0], walk, walk.content), SOON) is PASSED
    lies: list[tuple[Challenge, Answer, object]] = [
        (asked[0], walk, walk.content[:1]),
        (asked[0], walk, (walk.content[0], walk.content[0])),
        (asked[0], walk, (walk.content[0], walk.content[1][:-1])),
        (asked[0], walk, ()),
        (asked[1], reads, reads.content[:-1]),
        (asked[1], reads, ()),
        (asked[1], reads, (msgspec.structs.replace(reads.content[0], data=bytes(256)), *reads.content[1:])),
        (asked[2], sent, bytes(32)),
    ]
    for challenge, answer, content in lies:
        assert challenger.judge(challenge, resigned(staked, challenge, answer, content), SOON) is WRONG
    prover.close()


@given(st.integers(0, 7), st.sets(st.integers(0, 7), min_size=3, max_size=3))
def test_a_link_that_was_left_out_is_seen_when_it_is_checked(wrong: int, checked: set[int]) -> None:
    seed = bytes([3]) * 32
    honest = compute.walk_lane(seed, 0, 8, 2)
    # From the wrong checkpoint on the chain is honest again, as a cheat that saves one link would make it.
    rest = [bytes([1]) * 32]
    for link in range(wrong + 1, 8):
        rest.append(compute.walk_link(rest[-1], seed, 0, link, 2))
    assert compute.verify_links(seed, 0, honest, 2, range(8))
    assert compute.verify_links(seed, 0, (*honest[:wrong], *rest), 2, checked) is (wrong not in checked)


def test_one_lane_cannot_be_shown_for_another() -> None:
    seed = bytes([3]) * 32
    first = compute.walk_lane(seed, 0, 8, 2)
    assert not any(compute.verify_links(seed, 1, first, 2, [link]) for link in range(8))


def test_lanes_and_links_make_chains_of_their_own() -> None:
    seed = bytes([3]) * 32
    lanes = compute.walk(seed, 3, 4, 5)
    assert lanes == tuple(compute.walk_lane(seed, lane, 4, 5) for lane in range(3))
    assert len({checkpoint for lane in lanes for checkpoint in lane}) == 12
    assert compute.walk(seed, 2, 4, 5, cores=sorted(os.sched_getaffinity(0))[:1]) == lanes[:2]


def test_challengers_share_the_stake_and_fill_the_window(tmp_path: Path) -> None:
    staked = stake(tmp_path, compute=240_000, data_rate=300_000, lanes=2)
    for judges in (1, 3):
        challenger = staked.challenger(judges)
        walk, sent = challenger.compute_challenge(), challenger.transfer_challenge()
        assert walk is not None
        assert sent is not None
        assert walk.lanes * walk.links * walk.steps * judges == 240_000
        assert sent.size * judges == 300_000


def test_what_was_not_staked_is_not_asked_for(tmp_path: Path) -> None:
    claim = StakeClaim(Resources(0, 0, 0), 1, bytes(32))
    staked = Staked(key_of(1), tmp_path, claim, SMALL)
    prover = Prover(claim, staked.key, None, SMALL)
    assert challenges(staked.challenger()) == []
    with pytest.raises(ChallengeRefused):
        prover.check(PlotChallenge(bytes(32), CHALLENGER, staked.key.public, 1), CHALLENGER)


# Who has less than it says


class Forgetful(Prover):
    """Has deleted all chunks from `kept` on after committing to them. What it lacks it would have to make again, which
    takes too long; so it does not answer in time."""

    kept = 4

    def elapsed_ms(self, challenge: PlotChallenge, chunks: int) -> float:
        lacking = any(chunk >= self.kept for chunk, _ in places(challenge, chunks, SMALL_PLOT))
        return SMALL.plot_deadline_ms * 2 if lacking else SOON


def test_a_node_with_half_of_the_storage_it_claims_fails_as_often_as_it_should(tmp_path: Path, run_seed: int) -> None:
    """With half of the chunks, c reads all hit with 2^-c. Within five standard deviations of 2,000 rounds."""
    staked, random = stake(tmp_path), Random(run_seed)
    prover = Forgetful(staked.claim, staked.key, staked.path, SMALL)
    challenger = Challenger(CHALLENGER, staked.candidate(), SMALL, nonce=random.randbytes)
    rounds, passed = 2_000, 0
    for _ in range(rounds):
        challenge = challenger.plot_challenge()
        assert challenge is not None
        elapsed_ms = prover.elapsed_ms(challenge, 8)
        answer = prover.answer(challenge) if elapsed_ms <= SMALL.plot_deadline_ms else None
        passed += challenger.judge(challenge, answer, elapsed_ms) is PASSED
    prover.close()
    chance = Fraction(1, 2**SMALL.plot_segments)
    assert abs(passed - rounds * chance) ** 2 <= 25 * rounds * chance * (1 - chance)


def test_places_are_drawn_from_the_whole_plot() -> None:
    challenge = PlotChallenge(bytes(32), CHALLENGER, key_of(1).public, SEGMENTS_LIMIT)
    drawn: set[tuple[int, int]] = set()
    for nonce in range(40):
        drawn |= set(places(msgspec.structs.replace(challenge, nonce=bytes([nonce]) * 32), 8, SMALL_PLOT))
    assert drawn == set(itertools.product(range(8), range(8)))


def test_what_only_looks_like_a_plot_is_forged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A root over bytes that are quick to make: every proof holds, and the chunk is not what a plot contains."""
    key = key_of(3)
    real = make_chunk(key.public, SEED, 0, SMALL_PLOT)

    def quick(node_key: bytes, seed: bytes, number: int, parameters: PlotParameters) -> bytes:
        return real if number == 0 else bytes([number]) * parameters.chunk_bytes

    with monkeypatch.context() as patched:
        patched.setattr("blockcloud.node.resources.plot.make_chunk", quick)
        root = make_plot(tmp_path / "plot3", key.public, SEED, 8, SMALL_PLOT)
    claim = StakeClaim(Resources(0, 8 * SMALL_PLOT.chunk_bytes, 0), 1, root)
    staked = Staked(key, tmp_path / "plot3", claim, SMALL)
    prover, challenger = staked.prover(), staked.challenger()
    verdicts = []
    for _ in range(100):
        challenge = challenger.plot_challenge()
        assert challenge is not None
        answer = prover.answer(challenge)
        assert challenger.judge(challenge, answer, SOON) is PASSED
        assert isinstance(answer, PlotAnswer)
        verdicts.append(challenger.judge_origin(challenge, answer))
    prover.close()
    # One chunk of eight is real.
    assert set(verdicts) <= {PASSED, FORGED}
    assert verdicts.count(FORGED) > 60


def test_a_prover_needs_the_plot_it_claims(tmp_path: Path) -> None:
    staked, other = stake(tmp_path), stake(tmp_path, number=2, chunks=4)
    twice = StakeClaim(Resources(0, 16 * SMALL_PLOT.chunk_bytes, 0), 1, staked.claim.plot_root)
    for claim, path in ((twice, staked.path), (staked.claim, other.path), (staked.claim, None)):
        with pytest.raises(BadConfiguration):
            Prover(claim, staked.key, path, SMALL)


# Bad input


def test_a_prover_refuses_more_than_it_staked(tmp_path: Path) -> None:
    staked = stake(tmp_path)
    prover = staked.prover()
    walk, reads, sent = challenges(staked.challenger())
    refused = [
        msgspec.structs.replace(walk, steps=2_001),
        msgspec.structs.replace(walk, lanes=2),
        msgspec.structs.replace(sent, size=200_001),
        msgspec.structs.replace(reads, prover=key_of(2).public),
    ]
    for challenge in refused:
        with pytest.raises(ChallengeRefused):
            prover.check(challenge, CHALLENGER)
    with pytest.raises(ChallengeRefused):
        prover.check(reads, bytes(32))
    prover.close()


@given(st.binary(max_size=600))
def test_garbage_is_refused_with_a_reason(data: bytes) -> None:
    for decode in (decode_challenge, decode_answer):
        with pytest.raises(PeerFault):
            decode(data)


def test_the_largest_messages_are_within_their_limits() -> None:
    proof = SegmentProof(bytes(4_096), bytes(32), (bytes(32),) * 32, (bytes(32),) * 32)
    answers: list[Answer] = [
        PlotAnswer((proof,) * SEGMENTS_LIMIT, bytes(64)),
        ComputeAnswer(((bytes(32),) * LINKS_LIMIT,) * 64, bytes(64)),
    ]
    assert all(decode_answer(codec.encode(answer)) == answer for answer in answers)
    with pytest.raises(PeerFault):
        decode_answer(codec.encode(PlotAnswer((proof,) * (SEGMENTS_LIMIT + 1), bytes(64))))


@pytest.mark.parametrize(
    "wrong",
    [
        {"plot_deadline_ms": 0},
        {"plot_segments": SEGMENTS_LIMIT + 1},
        {"plot_rounds_passed": 2},
        {"plot_rounds_passed": 13},
        {"chunks_remade": 0},
        {"window_ms": 0},
        {"tolerance_permille": 2_000},
        {"tolerance_permille": 1_000},
        {"links_checked": 65},
        {"links": LINKS_LIMIT + 1},
        {"patience_ms": 1_500},
        {"plot": PlotParameters(passes=1)},
        {"plot": PlotParameters(passes=3)},
        {"plot_deadline_ms": 26},
    ],
)
def test_parameters_fit_together(wrong: dict[str, Any]) -> None:
    ChallengeParameters().check()
    with pytest.raises(BadConfiguration):
        msgspec.structs.replace(ChallengeParameters(), **wrong).check()


def test_a_public_network_has_parameters_that_fit() -> None:
    public = PlotParameters(chunk_bytes=2**20, segment_bytes=1_024, window_bytes=16_384, passes=4)
    ChallengeParameters(plot=public, plot_deadline_ms=250).check()
    assert public.remake_ms >= 1_000


# Over a connection

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, object]]


@asynccontextmanager
async def connected(answer: Serve) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to a server that runs `answer`; what it raises is raised here at the end."""
    ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await answer(reader, writer)
            ended.set_result(None)
        except BlockCloudError as error:
            ended.set_exception(error)
        finally:
            writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    try:
        yield reader, writer
    finally:
        writer.close()
        async with asyncio.timeout(10):
            await writer.wait_closed()
            try:
                await ended
            finally:
                server.close()
                await server.wait_closed()


class Steps:
    """A clock that goes on by so much each time it is asked."""

    def __init__(self, *steps_ms: float) -> None:
        self._steps = itertools.cycle(steps_ms)
        self._now = 0.0

    def __call__(self) -> float:
        self._now += next(self._steps) / 1_000
        return self._now


async def at_once(window: int) -> None:
    pass


def honest(prover: Prover) -> Serve:
    return lambda reader, writer: serve(prover, CHALLENGER, reader, writer)


async def examine(staked: Staked, answer: Serve, clock: Steps) -> tuple[Verdict, Verdict, Verdict]:
    async with connected(answer) as (reader, writer):
        return await Examination(staked.challenger(), reader, writer, until=at_once, pause=at_once, clock=clock).run()


async def test_an_examination_of_an_honest_node(tmp_path: Path) -> None:
    staked = stake(tmp_path)
    prover = staked.prover()
    assert await examine(staked, honest(prover), Steps(1)) == (PASSED, PASSED, PASSED)
    prover.close()


async def test_the_tests_have_times_of_their_own(tmp_path: Path) -> None:
    staked = stake(tmp_path)
    prover, waited = staked.prover(), []

    async def until(window: int) -> None:
        waited.append(window)

    async with connected(honest(prover)) as (reader, writer):
        await Examination(staked.challenger(), reader, writer, until=until, pause=at_once, clock=Steps(1)).run()
    prover.close()
    assert waited == [0, 2, 4]


async def test_a_busy_node_may_be_late_in_some_rounds(tmp_path: Path) -> None:
    staked = stake(tmp_path)
    prover = staked.prover()
    # The clock is asked twice a challenge: compute, transfer, then rounds of reads.
    in_time, late = [0.0, 1.0], [0.0, 30.0]
    most_late = Steps(*in_time * 3, *late * 8, *in_time * 3)
    assert await examine(staked, honest(prover), most_late) == (PASSED, PASSED, PASSED)
    too_many_late = Steps(*in_time * 5, *late * 9)
    assert await examine(staked, honest(prover), too_many_late) == (PASSED, LATE, PASSED)
    assert await examine(staked, honest(prover), Steps(0, 1_501, 0, 1_499, *[0, 1] * 9)) == (LATE, PASSED, PASSED)
    assert await examine(staked, honest(prover), Steps(0, 1_499, 0, 1_501, *[0, 1] * 9)) == (PASSED, PASSED, LATE)
    prover.close()


async def test_a_node_that_hangs_up_is_silent(tmp_path: Path) -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_frame(reader, CHALLENGE_BYTES)

    assert await examine(stake(tmp_path), hang_up, Steps(1)) == (SILENT, SILENT, SILENT)


async def test_a_node_that_says_nothing_is_silent(tmp_path: Path) -> None:
    async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.read(CHALLENGE_BYTES)
        assert not await reader.read()

    short = msgspec.structs.replace(SMALL, window_ms=40, patience_ms=100)
    assert await examine(stake(tmp_path, parameters=short), wait, Steps(1)) == (SILENT, SILENT, SILENT)


@pytest.mark.parametrize("frame", [b"nonsense", codec.encode(3), None])
async def test_a_node_that_talks_nonsense_is_wrong(tmp_path: Path, frame: bytes | None) -> None:
    async def nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_frame(reader, CHALLENGE_BYTES)
        if frame is None:
            writer.write((ANSWER_BYTES + 1).to_bytes(4, "big"))
        else:
            await write_frame(writer, frame)
        await reader.read()

    assert await examine(stake(tmp_path), nonsense, Steps(1)) == (WRONG, SILENT, SILENT)


async def test_a_node_that_sends_other_bytes_than_it_says_is_wrong(tmp_path: Path) -> None:
    staked = stake(tmp_path, compute=0)
    prover = staked.prover()

    async def other_bytes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        challenge = decode_challenge(await read_frame(reader, CHALLENGE_BYTES))
        await transfer.send_stream(writer, bytes(32), 100_000)
        await write_frame(writer, codec.encode(prover.answer(challenge)))
        await serve(prover, CHALLENGER, reader, writer)

    assert await examine(staked, other_bytes, Steps(1)) == (PASSED, PASSED, WRONG)
    prover.close()


async def test_a_challenger_that_asks_too_much_is_blamed(tmp_path: Path) -> None:
    staked = stake(tmp_path)
    prover = staked.prover()
    walk = staked.challenger().compute_challenge()
    assert walk is not None
    frames = [
        (codec.encode(msgspec.structs.replace(walk, steps=10**9)), ChallengeRefused),
        (b"\xc1", PeerFault),
        (bytes(CHALLENGE_BYTES + 1), Oversized),
    ]
    for frame, fault in frames:
        with pytest.raises(fault):
            await send_frames(prover, [frame])
    with pytest.raises(PeerFault, match="too many"):
        await send_frames(prover, [codec.encode(walk)] * 33)
    prover.close()


async def send_frames(prover: Prover, frames: list[bytes]) -> None:
    """Send all, and then wait until the other side closes."""
    async with connected(honest(prover)) as (reader, writer):
        for frame in frames:
            await write_frame(writer, frame)
        while await reader.read(65_536):
            pass


@given(st.integers(1, 200_000))
def test_the_stream_is_whole_and_its_own(size: int) -> None:
    seed = bytes([1]) * 32
    sent = b"".join(transfer.pieces(seed, size))
    assert len(sent) == size
    assert transfer.stream_digest(seed, size) != transfer.stream_digest(bytes(32), size) or size < 4
    assert sent.startswith(next(transfer.pieces(seed, min(size, 1_000))))


def test_digests_tell_challenges_apart(tmp_path: Path) -> None:
    challenger = stake(tmp_path).challenger()
    asked = [challenge for _ in range(5) for challenge in challenges(challenger)]
    assert len({digest_of(challenge) for challenge in asked}) == 15
