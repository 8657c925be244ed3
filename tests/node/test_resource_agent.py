"""Agents in processes of their own, and the desks that run them: small plots, generous deadlines, real TLS.

Whether times are right is in `test_resources_timing.py`; here it is who may ask, who answers, and who ends when.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from msgspec.structs import replace

from blockcloud.node.resources.answering import Ration
from blockcloud.node.resources.challenge import (
    Challenge,
    ChallengeRefused,
    ComputeChallenge,
    PlotChallenge,
    TransferChallenge,
)
from blockcloud.node.resources.challenging import OWN_ROW, SILENT, examine_all
from blockcloud.node.resources.desk import FAILURES_MAX, START_LATE_MS, Desk, LedgerView
from blockcloud.node.resources.wire import Begin, Staking
from blockcloud.service_chain.records import OpenRound
from blockcloud.transaction_chain.cloudpos.stake import Resources, StakeClaim
from blockcloud.transaction_chain.cloudpos.verdicts import Verdict
from tests.node.cluster import until
from tests.node.resource_world import SEED, SMALL, key_of

# A window of a tenth of a second keeps the tests short; no deadline is anything that a busy machine could miss.
GENEROUS = replace(SMALL, window_ms=100, tolerance_permille=200_000, plot_deadline_ms=20_000, patience_ms=30_000)
CHUNKS = 4
START = 100
PASSED: tuple[Verdict, ...] = (Verdict.PASSED,) * 3


@pytest.fixture(autouse=True)
def _short_lead(monkeypatch: pytest.MonkeyPatch) -> None:
    """For examinations by this process itself; the agents wait as long as they always do."""
    monkeypatch.setattr("blockcloud.node.resources.challenging.LEAD_S", 0.3)


def begin_of(folder: Path, number: int, *, stakes: bool = True) -> Begin:
    key_file = folder / f"key{number}.pem"
    if not key_file.exists():
        key_of(number).save(key_file)
    staking = Staking(
        folder=str(folder / f"resources{number}"),
        storage_bytes=CHUNKS * SMALL.plot.chunk_bytes + 1,
        compute_permille=10,
        compute_lanes=1,
        data_rate=100_000,
        gamma=1_000,
        host="127.0.0.1",
        port=0,
    )
    return Begin(str(key_file), SEED, GENEROUS, "info", staking if stakes else None)


@asynccontextmanager
async def desk_of(folder: Path, number: int, *, stakes: bool = True) -> AsyncIterator[Desk]:
    desk = Desk(key_of(number).public, begin_of(folder, number, stakes=stakes))
    try:
        yield desk
    finally:
        await desk.close()


async def staked(desk: Desk) -> tuple[StakeClaim, str]:
    await until(lambda: desk.staked is not None)
    assert desk.staked is not None
    return desk.staked.claim, f"127.0.0.1:{desk.staked.port}"


def opened(
    challengers: tuple[int, ...], candidates: dict[int, tuple[StakeClaim, str]], era: int = 3, height: int = START
) -> OpenRound:
    ordered = sorted((key_of(number).public, stake) for number, stake in candidates.items())
    return OpenRound(
        era,
        0,
        height,
        height + 100,
        tuple(key_of(number).public for number in challengers),
        tuple(key for key, _ in ordered),
        tuple(stake for _, stake in ordered),
        0,
    )


def begin_round(desk: Desk, round_: OpenRound) -> None:
    """Drawn, and then begun."""
    desk.applied(LedgerView(round_.height - 4, 0, round_))
    desk.applied(LedgerView(round_.height, 0, round_))


# Staking


async def test_an_agent_sets_aside_what_the_configuration_says(tmp_path: Path) -> None:
    async with desk_of(tmp_path, 1) as desk:
        claim, _ = await staked(desk)
        assert claim.resources.storage == CHUNKS * SMALL.plot.chunk_bytes, "whole chunks"
        assert claim.resources.data_rate == 100_000
        assert claim.resources.compute > 0
        assert desk.plot_made == (CHUNKS, CHUNKS)
        written = (tmp_path / "resources1" / "plot").stat().st_mtime_ns
    async with desk_of(tmp_path, 1) as desk:
        again, _ = await staked(desk)
        assert again == claim, "a restart changes neither the plot nor what was measured"
        assert (tmp_path / "resources1" / "plot").stat().st_mtime_ns == written


async def test_a_plot_that_was_cut_short_is_made_again(tmp_path: Path) -> None:
    async with desk_of(tmp_path, 1) as desk:
        claim, _ = await staked(desk)
    with (tmp_path / "resources1" / "plot").open("r+b") as plot:
        plot.truncate(SMALL.plot.chunk_bytes)
    async with desk_of(tmp_path, 1) as desk:
        assert (await staked(desk))[0] == claim


# Rounds


async def test_agents_examine_each_other(tmp_path: Path) -> None:
    """Two that stake, and one that was drawn and stakes nothing; a candidate that nobody can reach is silent."""
    async with desk_of(tmp_path, 1) as one, desk_of(tmp_path, 2) as other, desk_of(tmp_path, 3, stakes=False) as third:
        assert not third.running
        claims = {1: await staked(one), 2: await staked(other)}
        claims[4] = (claims[1][0], "127.0.0.1:1")
        round_ = opened((1, 2, 3), claims)
        desks = {1: one, 2: other, 3: third}
        for desk in desks.values():
            desk.applied(LedgerView(START - 4, 0, round_))
        await until(lambda: third.running)
        for desk in desks.values():
            desk.applied(LedgerView(START, 0, round_))
        await until(lambda: all(desk.report(round_) for desk in desks.values()), 60)
        for number, desk in desks.items():
            report = desk.report(round_)
            assert report is not None
            assert (report.era, report.round_number) == (3, 0)
            rows = dict(zip(round_.candidates, report.rows, strict=True))
            assert rows[key_of(1).public] == (OWN_ROW if number == 1 else PASSED)
            assert rows[key_of(2).public] == (OWN_ROW if number == 2 else PASSED)
            assert rows[key_of(4).public] == SILENT
            assert desk.report(replace(round_, era=4)) is None
        for desk in desks.values():
            desk.applied(LedgerView(START + 100, 0, None))
            assert desk.report(round_) is None, "a round that is settled is forgotten"
        await until(lambda: not third.running)
        assert one.running


async def examined_by(number: int, round_: OpenRound) -> tuple[tuple[Verdict, ...], ...]:
    return await examine_all(key_of(number), SEED, round_, GENEROUS)


async def test_only_who_was_drawn_is_answered_and_only_while_the_round_is_open(tmp_path: Path) -> None:
    async with desk_of(tmp_path, 1) as desk:
        claims = {1: await staked(desk)}
        round_ = opened((2, 4), claims)
        assert await examined_by(2, round_) == (SILENT,), "there is no round yet"
        begin_round(desk, round_)
        assert await examined_by(3, round_) == (SILENT,), "not drawn"
        assert await examined_by(2, round_) == (PASSED,)
        assert (await examined_by(2, round_))[0] != PASSED, "a second walk is not a part of its part"
        desk.applied(LedgerView(START + 100, 0, None))
        assert await examined_by(4, round_) == (SILENT,), "it is over"


async def test_who_answers_under_another_key_is_silent(tmp_path: Path) -> None:
    async with desk_of(tmp_path, 1) as desk:
        claim, address = await staked(desk)
        round_ = opened((3,), {1: (claim, address)})
        begin_round(desk, round_)
        claimed_by_other = opened((3,), {2: (claim, address)})
        assert await examined_by(3, claimed_by_other) == (SILENT,)
        assert await examined_by(3, round_) == (PASSED,)


@pytest.mark.parametrize(
    ("views", "why"),
    [
        ([(START, 0)], "its first look comes after the start"),
        ([(START - 4, 0), (START, START_LATE_MS + 1)], "it applies the start when the others have long begun"),
    ],
)
async def test_who_missed_the_start_reports_nothing(tmp_path: Path, views: list[tuple[int, int]], why: str) -> None:
    async with desk_of(tmp_path, 1) as candidate, desk_of(tmp_path, 2, stakes=False) as late:
        round_ = opened((2,), {1: await staked(candidate)})
        for height, age_ms in views:
            late.applied(LedgerView(height, age_ms, round_))
            await until(lambda: late.running)
        assert late._begun is None, why
        following = replace(round_, era=4, height=START + 200, settle_height=START + 300)
        for desk in (candidate, late):
            begin_round(desk, following)
        await until(lambda: late.report(following), 60)
        assert late.report(round_) is None, why


# Ends


async def test_a_killed_agent_comes_back_and_knows_the_round(tmp_path: Path) -> None:
    async with desk_of(tmp_path, 1) as desk:
        before = await staked(desk)
        # Of itself it has nothing to see; for the other it waits, and is dead by then.
        round_ = opened((1, 2), {1: before, 4: (before[0], "127.0.0.1:1")})
        begin_round(desk, round_)
        first = desk.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        await until(lambda: desk.staked is None)
        claim, address = await staked(desk)
        assert claim == before[0]
        assert desk.pid != first
        again = opened((2, 1), {1: (claim, address)})
        assert await examined_by(2, again) == (PASSED,)
        assert desk.report(round_) is None, "what the dead one saw is lost, and nothing is made up"


async def test_an_agent_that_always_fails_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blockcloud.node.resources.desk.PAUSE_MIN_S", 0.0)
    monkeypatch.setattr("blockcloud.node.resources.desk.FAILURES_MAX", 2)
    begin = replace(begin_of(tmp_path, 1), key_file=str(tmp_path / "nothing.pem"))
    desk = Desk(key_of(1).public, begin)
    assert FAILURES_MAX > 2
    keeping = desk._keeping
    assert keeping is not None
    await asyncio.wait_for(keeping, 30)
    assert not desk.running
    desk.applied(LedgerView(1, 0, opened((1,), {1: (StakeClaim(Resources(0, 0, 0), 1, bytes(32)), "a:1")})))
    await desk.close()


@pytest.mark.parametrize("killed", [False, True])
async def test_an_agent_ends_when_its_input_does_and_its_plot_maker_with_it(tmp_path: Path, killed: bool) -> None:
    """As when the validator is killed: nobody tells it, the pipe is just gone. So for the maker of plots."""
    begin = begin_of(tmp_path, 1)
    assert begin.staking is not None
    desk = Desk(key_of(1).public, replace(begin, staking=replace(begin.staking, storage_bytes=2**34)))
    await until(lambda: desk.plot_made is not None)
    process = desk._process
    assert process is not None
    assert process.stdin is not None
    await until(lambda: children_of(process.pid))
    (maker,) = children_of(process.pid)
    # It has begun: what it then does takes hours.
    await until(lambda: (tmp_path / "resources1" / "plot.partial").exists())
    if killed:
        process.kill()
        await asyncio.wait_for(process.wait(), 30)
    else:
        process.stdin.close()
        assert await asyncio.wait_for(process.wait(), 30) == 0
    await until(lambda: not is_alive(maker))
    await desk.close()


def children_of(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
    return [int(word) for word in text.split()]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# How much one challenger may ask


def asked(kind: Callable[..., Challenge], *amounts: int) -> Challenge:
    return kind(bytes(32), bytes(32), bytes(32), *amounts)


def test_a_challenger_gets_its_part_once() -> None:
    claim = StakeClaim(Resources(8_000, 2**14, 90_000), 2, bytes(32))
    judges = 3
    parameters = replace(SMALL, plot_rounds=2)

    def fresh() -> Ration:
        return Ration(claim, judges, parameters)

    for fits, too_much in (
        (asked(ComputeChallenge, 1, 2, 1_333), asked(ComputeChallenge, 1, 2, 1_334)),
        (asked(TransferChallenge, 30_000), asked(TransferChallenge, 30_001)),
        (asked(PlotChallenge, SMALL.plot_segments), asked(PlotChallenge, SMALL.plot_segments + 1)),
    ):
        with pytest.raises(ChallengeRefused):
            fresh().spend(too_much)
        fresh().spend(fits)
    ration = fresh()
    for once in (asked(ComputeChallenge, 1, 1, 1), asked(TransferChallenge, 1)):
        ration.spend(once)
        with pytest.raises(ChallengeRefused):
            ration.spend(once)
    for _ in range(2):
        ration.spend(asked(PlotChallenge, 1))
    with pytest.raises(ChallengeRefused):
        ration.spend(asked(PlotChallenge, 1))
