"""Real clocks on real agents: two nodes on one processor quota fail at once what each of them passes alone."""

from __future__ import annotations

import asyncio
import sys
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from statistics import median

import pytest

from blockcloud.node.resources.challenging import examine_all
from blockcloud.node.resources.claim import DETERMINED_FILE, Determined
from blockcloud.node.resources.desk import Desk, LedgerView
from blockcloud.node.resources.wire import Begin, Staking
from blockcloud.primitives import codec
from blockcloud.service_chain.records import OpenRound
from blockcloud.transaction_chain.cloudpos.parameters import ChallengeParameters
from blockcloud.transaction_chain.cloudpos.stake import Resources
from blockcloud.transaction_chain.cloudpos.verdicts import Verdict
from tests.node.cluster import until
from tests.node.cpu_quota import cpu_quota, quotas_are_permitted
from tests.node.resource_world import SEED, key_of

pytestmark = [pytest.mark.long, pytest.mark.alone]

QUOTA_PERCENT = 20
ROUNDS = 5
CHALLENGER = 9


def desk_that_claims(folder: Path, number: int, compute: int) -> Desk:
    """A node that stakes so many steps a second and nothing else."""
    key_file = folder / f"key{number}.pem"
    staking = Staking(str(folder / str(number)), 0, 10, 1, 0, 1_000, "127.0.0.1", 0)
    if not key_file.exists():
        key_of(number).save(key_file)
    Path(staking.folder).mkdir(exist_ok=True)
    determined = Determined(staking, Resources(compute, 0, 0))
    (Path(staking.folder) / DETERMINED_FILE).write_bytes(codec.encode(determined))
    return Desk(key_of(number).public, Begin(str(key_file), SEED, ChallengeParameters(), "info", staking))


def is_staked(desk: Desk) -> bool:
    return desk.staked is not None


async def examined(desks: dict[int, Desk], era: int) -> list[Verdict]:
    """The compute verdicts of a round in which these nodes are tested at once by one challenger."""
    numbers = sorted(desks, key=lambda number: key_of(number).public)
    stakes = []
    for number in numbers:
        staked = desks[number].staked
        assert staked is not None
        stakes.append((staked.claim, f"127.0.0.1:{staked.port}"))
    keys = tuple(key_of(number).public for number in numbers)
    round_ = OpenRound(era, 0, 100, 200, (key_of(CHALLENGER).public,), keys, tuple(stakes), 0)
    for desk in desks.values():
        desk.applied(LedgerView(96, 0, round_))
    rows = await examine_all(key_of(CHALLENGER), SEED, round_, ChallengeParameters())
    return [row[0] for row in rows]


async def test_one_quota_that_answers_for_two_agents_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not quotas_are_permitted():
        pytest.skip("no CPU quota can be set here")
    monkeypatch.setattr("blockcloud.node.resources.challenging.LEAD_S", 0.5)
    rate = await steps_under_quota()
    with cpu_quota(QUOTA_PERCENT) as group:
        async with AsyncExitStack() as stack:
            desks = {number: desk_that_claims(tmp_path, number, rate) for number in (1, 2)}
            for desk in desks.values():
                stack.push_async_callback(desk.close)
                await until(partial(is_staked, desk))
                (group / "cgroup.procs").write_text(str(desk.pid))
            alone, together = [], []
            for era in range(ROUNDS):
                number = 1 + era % 2
                alone += await examined({number: desks[number]}, era)
                together.append(await examined(desks, ROUNDS + era))
            assert alone.count(Verdict.PASSED) > ROUNDS // 2, f"alone: {alone}"
            failed = sum(any(verdict is not Verdict.PASSED for verdict in row) for row in together)
            assert failed > ROUNDS // 2, f"together: {together}; alone: {alone}"


async def steps_under_quota() -> int:
    """How many steps a second a process does whose quota is this, by what it took to walk for about a second."""
    script = (
        "import sys, time\n"
        "from blockcloud.node.resources.compute import walk_link\n"
        "sys.stdin.readline()\n"
        "begin = time.monotonic()\n"
        "walk_link(bytes(32), b'', 0, 0, int(sys.argv[1]))\n"
        "sys.stdout.write(str(time.monotonic() - begin))\n"
    )
    steps = 100_000
    for count in (1, 3):
        took = [await _timed(script, steps) for _ in range(count)]
        steps = int(steps / median(took))
    return steps


async def _timed(script: str, steps: int) -> float:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", script, str(steps)), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    with cpu_quota(QUOTA_PERCENT) as group:
        (group / "cgroup.procs").write_text(str(process.pid))
        out, _ = await process.communicate(b"\n")
    return float(out)
