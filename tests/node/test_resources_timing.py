"""Real clocks: who has what it says passes beside busy processors, and who shares one quota among two does not.

Claims are made from what was measured a moment before under the same limits, and verdicts are counted over several
rounds, so that the speed of the machine does not matter and a disturbed second decides nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import pytest

from blockcloud.node.resources.challenge import ANSWER_BYTES, Candidate, Challenger
from blockcloud.node.resources.compute import measure_core_steps_per_second
from blockcloud.node.resources.examination import Examination
from blockcloud.node.resources.frames import read_frame, write_frame
from blockcloud.node.resources.plot import PlotFile, make_chunk, make_plot
from blockcloud.primitives import codec
from blockcloud.transaction_chain.cloudpos.parameters import ChallengeParameters
from blockcloud.transaction_chain.cloudpos.sortition import ChallengeRound
from blockcloud.transaction_chain.cloudpos.stake import Resources, StakeClaim
from blockcloud.transaction_chain.cloudpos.verdicts import Outcome, Report, Verdict, Verdicts, settle
from tests.node.cpu_quota import cpu_quota, quotas_are_permitted
from tests.node.resource_world import SEED, key_of

pytestmark = [pytest.mark.long, pytest.mark.alone]

PARAMETERS = ChallengeParameters()
ROOT = Path(__file__).resolve().parents[2]
NO_PLOT = bytes(32)
CALIBRATION_STEPS_PER_SECOND = 300_000
LONG_AGO = -1e9


@dataclass(frozen=True)
class Child:
    """A prover in a process of its own."""

    number: int
    claim: StakeClaim
    process: subprocess.Popen[str]
    port: int

    async def examined(self, claim: StakeClaim, challenger: bytes, judges: int, start: float) -> Verdicts:
        """What one challenger sees that tests the node for `claim`, in the round that begins at `start`."""
        candidate = Candidate(key_of(self.number).public, claim, SEED, judges)

        async def until(window: int) -> None:
            await asyncio.sleep(max(0.0, start + window * PARAMETERS.window_ms / 1_000 - time.monotonic()))

        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(challenger)
        try:
            return await Examination(Challenger(challenger, candidate, PARAMETERS), reader, writer, until=until).run()
        finally:
            writer.close()
            await writer.wait_closed()


@contextlib.contextmanager
def child(
    number: int,
    claim: StakeClaim,
    path: Path | None = None,
    *,
    cores: tuple[int, ...] = (),
    kept: int | None = None,
) -> Iterator[Child]:
    """A prover in a process of its own; with `kept`, it has only so many of the chunks that it claims."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
    told = {
        "number": number,
        "resources": claim.resources.dimensions(),
        "root": claim.plot_root.hex(),
        "path": str(path) if path else None,
        "cores": cores,
        "kept": kept,
    }
    with subprocess.Popen(
        [sys.executable, "-m", "tests.node.resource_child"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=ROOT,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(told) + "\n")
            process.stdin.flush()
            yield Child(number, claim, process, int(process.stdout.readline()))
        finally:
            process.terminate()


# The plot


def test_making_a_chunk_takes_many_times_as_long_as_reading(tmp_path: Path) -> None:
    key = key_of(1).public
    make_plot(tmp_path / "plot", key, SEED, 4, PARAMETERS.plot)
    plot = PlotFile(tmp_path / "plot")

    def timed_read() -> float:
        begin = time.perf_counter()
        for number in range(PARAMETERS.plot_segments):
            plot.read(number % 4, number)
        return time.perf_counter() - begin

    def timed_making() -> float:
        begin = time.perf_counter()
        make_chunk(key, SEED, 0, PARAMETERS.plot)
        return time.perf_counter() - begin

    reading, making = median(timed_read() for _ in range(9)), median(timed_making() for _ in range(5))
    plot.close()
    assert making > 8 * reading


async def test_a_node_with_half_of_the_storage_it_claims_fails(tmp_path: Path) -> None:
    """Beside one with all of it, on the same machine at the same time; the majority of three challengers counts."""
    chunks, claims = 16, []
    for number in (1, 2):
        root = make_plot(tmp_path / str(number), key_of(number).public, SEED, chunks, PARAMETERS.plot)
        claims.append(StakeClaim(Resources(0, chunks * PARAMETERS.plot.chunk_bytes, 0), 1, root))
    with (
        child(1, claims[0], tmp_path / "1") as honest,
        child(2, claims[1], tmp_path / "2", kept=chunks // 2) as half,
    ):
        seen = await asyncio.gather(
            *(node.examined(node.claim, bytes(32), 3, LONG_AGO) for node in (honest, half) for _ in range(3))
        )
    storage = [verdicts[1] for verdicts in seen]
    assert storage[:3].count(Verdict.PASSED) >= 2, storage
    assert storage[3:].count(Verdict.LATE) >= 2, storage


# One quota


async def rounds(children: list[Child], claim: StakeClaim, count: int) -> list[list[Verdict]]:
    """The compute verdicts of `count` rounds in which all `children` are tested at once."""
    seen = []
    for _ in range(count):
        # A start long ago: nothing waits for its time, so all begin at once, and there is nothing but compute.
        tests = [node.examined(claim, bytes(32), 1, LONG_AGO) for node in children]
        seen.append([verdicts[0] for verdicts in await asyncio.gather(*tests)])
    return seen


async def measured_rate(node: Child) -> int:
    """Steps a second of a node under its limits: first roughly, then by challenges of about a window."""
    rate = CALIBRATION_STEPS_PER_SECOND
    for count in (1, 3):
        rate = int(rate / median([await seconds_for(node, rate) for _ in range(count)]))
    return rate


async def seconds_for(node: Child, rate: int) -> float:
    """How long a node takes for what `rate` does in a window, without the time to judge it."""
    candidate = Candidate(key_of(node.number).public, StakeClaim(Resources(rate, 0, 0), 1, NO_PLOT), SEED, 1)
    challenge = Challenger(bytes(32), candidate, PARAMETERS).compute_challenge()
    assert challenge is not None
    reader, writer = await asyncio.open_connection("127.0.0.1", node.port)
    writer.write(challenge.challenger)
    begin = time.monotonic()
    await write_frame(writer, codec.encode(challenge))
    await read_frame(reader, ANSWER_BYTES)
    elapsed = time.monotonic() - begin
    writer.close()
    await writer.wait_closed()
    return elapsed


async def test_one_quota_that_answers_for_two_nodes_fails() -> None:
    if not quotas_are_permitted():
        pytest.skip("no CPU quota can be set here")
    anything = StakeClaim(Resources(2**40, 0, 0), 1, NO_PLOT)
    with cpu_quota(20) as group, child(1, anything) as one, child(2, anything) as other:
        for node in (one, other):
            (group / "cgroup.procs").write_text(str(node.process.pid))
        await assert_two_fail_where_one_passes(one, other)
        for node in (one, other):
            node.process.terminate()
            node.process.wait()


async def test_one_core_that_answers_for_two_nodes_fails() -> None:
    """The same with a whole core for the quota. Weaker: what else runs on the core takes part in the sharing."""
    if quotas_are_permitted():
        pytest.skip("a CPU quota can be set here, which shows more")
    anything = StakeClaim(Resources(2**40, 0, 0), 1, NO_PLOT)
    core = (max(os.sched_getaffinity(0)),)
    with child(1, anything, cores=core) as one, child(2, anything, cores=core) as other:
        for node in (one, other):
            # Whatever else runs on this core would take from one as from two; where we may, it hardly counts.
            with contextlib.suppress(PermissionError):
                os.setpriority(os.PRIO_PROCESS, node.process.pid, -15)
        await assert_two_fail_where_one_passes(one, other)


async def assert_two_fail_where_one_passes(one: Child, other: Child) -> None:
    """At the same level; one after the other the same two would pass."""
    rate = await measured_rate(one)
    claim = StakeClaim(Resources(rate, 0, 0), 1, NO_PLOT)
    alone = await rounds([one], claim, 3) + await rounds([other], claim, 2)
    together = await rounds([one, other], claim, 5)
    assert [row[0] for row in alone].count(Verdict.PASSED) >= 3, f"alone: {alone}"
    failed = sum(Verdict.LATE in row for row in together)
    assert failed >= 3, f"together: {together}"


# Honest nodes beside busy processors


@contextlib.contextmanager
def busy_processors() -> Iterator[None]:
    """One process for each core that computes all the time."""
    spinners = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in os.sched_getaffinity(0)]
    try:
        yield
    finally:
        for spinner in spinners:
            spinner.kill()
            spinner.wait()


async def test_honest_devnet_nodes_pass_beside_busy_processors(tmp_path: Path) -> None:
    """Four nodes with 5 % of a core, 1 MB/s and a plot of 1 MiB (the time of a read does not depend on how many chunks
    there are, that of the test does), each tested by three challengers at once. The majority counts."""
    chunks = 16
    claims = {}
    compute = measure_core_steps_per_second() // 20
    for number in range(1, 5):
        root = make_plot(tmp_path / str(number), key_of(number).public, SEED, chunks, PARAMETERS.plot)
        claims[number] = StakeClaim(Resources(compute, chunks * PARAMETERS.plot.chunk_bytes, 1_000_000), 1, root)
    challengers = tuple(bytes([200 + judge]) * 32 for judge in range(3))
    drawn = ChallengeRound(0, 0, 0, challengers, tuple(key_of(number).public for number in claims))
    with contextlib.ExitStack() as running:
        nodes = [
            running.enter_context(child(number, claim, tmp_path / str(number))) for number, claim in claims.items()
        ]
        running.enter_context(busy_processors())
        start = time.monotonic() + 0.1
        tests = [
            node.examined(node.claim, challenger, len(challengers), start)
            for challenger in challengers
            for node in nodes
        ]
        seen = await asyncio.gather(*tests)
    reports = [
        (challenger, Report(0, 0, tuple(seen[judge * len(nodes) : (judge + 1) * len(nodes)])))
        for judge, challenger in enumerate(challengers)
    ]
    outcomes = settle(drawn, reports).outcomes
    assert list(outcomes.values()) == [(Outcome.CONFIRMED,) * 3] * len(nodes), seen
