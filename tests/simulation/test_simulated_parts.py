"""The simulator's own parts: a disk that tears, a clock that drifts, the distances, and the judge."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockcloud.primitives import codec
from blockcloud.primitives.certificates import CHECKPOINT, DOMAIN, Certificate, SignedStatement, Statement
from blockcloud.primitives.storage import Batch
from blockcloud.simulation.clock import EPOCH_MS, SimulatedClock
from blockcloud.simulation.dag_builder import BlockName, DagBuilder, simulated_key
from blockcloud.simulation.disk import DiskFull, SimulatedDisk
from blockcloud.simulation.faults import DRIFT_MS_PER_S, HEALED_SKEW_MS, SKEW_MS, Faults, Lie
from blockcloud.simulation.judge import COMMIT_AHEAD_MS, Judge, SafetyBroken
from blockcloud.simulation.options import Load, Options
from blockcloud.simulation.wan import REGIONS, latency_ms, round_trip_ms
from blockcloud.transaction_chain.block import Block
from blockcloud.transaction_chain.commit import Commit, CommitRecord, EraStart
from blockcloud.transaction_chain.era import EraPlan, handover_statement
from blockcloud.transaction_chain.machine import Result
from blockcloud.transaction_chain.parameters import Parameters

# ---- disk


def row(number: int) -> Batch:
    batch = Batch()
    batch.put("one", number.to_bytes(2, "big"), b"value" * 9)
    batch.put("two", number.to_bytes(2, "big"), b"")
    return batch


def rows(disk: SimulatedDisk, table: str) -> list[int]:
    return [int.from_bytes(key, "big") for key, _ in disk.scan(table, b"")]


@given(st.lists(st.booleans(), max_size=12), st.integers(0, 2**32))
def test_a_crash_keeps_a_prefix_of_whole_batches_and_all_that_was_synced(syncs: list[bool], seed: int) -> None:
    disk = SimulatedDisk()
    for number, sync in enumerate(syncs):
        disk.write(row(number), sync=sync)
    disk.crash(Random(seed))
    kept = rows(disk, "one")
    assert kept == rows(disk, "two") == list(range(len(kept)))
    assert len(kept) >= max((number + 1 for number, sync in enumerate(syncs) if sync), default=0)
    # What is kept now is kept for good, and the disk goes on behind it.
    disk.write(row(len(kept)), sync=True)
    disk.crash(Random(seed))
    assert rows(disk, "one") == list(range(len(kept) + 1))


def test_crashes_tear_records_and_sometimes_keep_unsynced_ones() -> None:
    kept = []
    for seed in range(200):
        disk = SimulatedDisk()
        for number in range(4):
            disk.write(row(number), sync=number == 0)
        disk.crash(Random(seed))
        kept.append(len(rows(disk, "one")))
    assert set(kept) == {1, 2, 3}, "a cut at the very end is one in hundreds"


def test_a_full_disk_refuses_and_keeps_what_it_has() -> None:
    disk = SimulatedDisk()
    disk.write(row(0), sync=False)
    disk.is_full = True
    with pytest.raises(DiskFull):
        disk.write(row(1), sync=True)
    disk.reopen()
    assert rows(disk, "one") == [0], "the process ended, the machine did not"
    disk.is_full = False
    disk.write(row(2), sync=False)
    disk.sync()
    disk.crash(Random(1))
    assert rows(disk, "one") == [0, 2], "what the refused write left in the log is not in the way"


# ---- clock and distances


@given(
    st.integers(-SKEW_MS, SKEW_MS), st.integers(-DRIFT_MS_PER_S, DRIFT_MS_PER_S), st.integers(0, 10**5), st.integers(1)
)
def test_a_clock_never_goes_backwards_and_is_healed(skew_ms: int, drift: int, heal_ms: int, step_ms: int) -> None:
    clock = SimulatedClock(skew_ms, drift)
    assert clock.read(heal_ms) <= clock.read(heal_ms + step_ms)
    assert abs(clock.offset_ms(heal_ms)) <= SKEW_MS
    before = clock.read(heal_ms)
    clock.heal(heal_ms)
    assert before <= clock.read(heal_ms) <= clock.read(heal_ms + step_ms)
    assert abs(clock.read(heal_ms + 2 * SKEW_MS) - EPOCH_MS - heal_ms - 2 * SKEW_MS) <= HEALED_SKEW_MS


def test_distances_are_symmetric_and_as_published() -> None:
    assert [round_trip_ms("us-east", region) for region in REGIONS] == [2, 65, 75, 92, 150, 215, 115, 225, 190]
    assert round_trip_ms("af-south", "ap-northeast") == round_trip_ms("ap-northeast", "af-south") == 355
    latency = latency_ms(100)
    assert all(latency[one][other] == latency[other][one] > 0 for one in range(100) for other in range(one))
    assert latency[0][1] == 33, "half of 65, rounded up"
    assert latency[0][9] == 1, "the tenth member is in the first one's region"


# ---- judge

QUIET = Faults(heal_ms=1_000, latency_ms=((1,) * 4,) * 4)
OPTIONS = Options((1,) * 4, (1,) * 4, Parameters(), Load.BUSY, {3: frozenset({Lie.ROOT})}, QUIET)
SHORT = replace(OPTIONS, parameters=Parameters(era_length=2, leader_table_period=1))
START, SHORT_START = (EraStart.of_chain(one.genesis.chain_id(), one.genesis.time_ms) for one in (OPTIONS, SHORT))
BLOCK, OTHER_BLOCK = (
    DagBuilder(4).add(BlockName(1, 0), [BlockName(0, 0)], timestamp_ms=EPOCH_MS + stamp) for stamp in (0, 1)
)


def judge() -> Judge:
    return Judge(OPTIONS)


def commit(block: Block = BLOCK, *, time_ms: int = EPOCH_MS) -> Commit:
    record = CommitRecord(0, 1, 1, START.digest, (block.reference,), (block.reference,), time_ms)
    return Commit(record, record.digest(), (block,))


def result(state: bytes = b"state") -> Result:
    return Result(1, state, state)


def certificate(signers: range, digest: bytes, root: bytes) -> Certificate:
    return certificate_of(signers, Statement(CHECKPOINT, OPTIONS.genesis.chain_id(), 0, 1, (digest, root)))


def certificate_of(signers: range, statement: Statement) -> Certificate:
    keys = sorted((simulated_key(member) for member in signers), key=lambda key: key.public)
    return Certificate(statement, tuple((key.public, key.sign(DOMAIN, codec.encode(statement))) for key in keys))


def test_the_judge_lets_agreement_pass() -> None:
    one = judge()
    for member in range(3):
        one.committed(member, commit(), result(), 0)
        one.certified(member, certificate(range(3), commit().digest, b"state"))
    one.signed(0, BLOCK)
    one.signed(0, BLOCK)
    one.accused(0, [simulated_key(3).public])


def test_the_judge_says_what_is_wrong() -> None:
    one = judge()
    one.signed(0, BLOCK)
    with pytest.raises(SafetyBroken, match="double signature"):
        one.signed(0, OTHER_BLOCK)
    one.committed(0, commit(), result(), 0)
    with pytest.raises(SafetyBroken, match="commits differ"):
        one.committed(1, commit(OTHER_BLOCK), result(), 0)
    with pytest.raises(SafetyBroken, match="states differ"):
        one.committed(1, commit(), result(b"another"), 0)
    with pytest.raises(SafetyBroken, match="honest member is accused"):
        one.accused(0, [simulated_key(1).public])
    one.invalid(BLOCK.raw, "some rule")
    with pytest.raises(SafetyBroken, match="invalid block"):
        one.committed(2, commit(), result(), 0)


@pytest.mark.parametrize(
    ("stamp_ms", "levels", "wrong"), [(1, (1, 2), ""), (0, (1, 2), "earlier"), (1, (2,), "before")]
)
def test_parents_come_first_and_are_not_later(stamp_ms: int, levels: tuple[int, ...], wrong: str) -> None:
    builder = DagBuilder(4)
    builder.add(BlockName(1, 0), [BlockName(0, 0)], timestamp_ms=1)
    builder.add(BlockName(2, 0), [BlockName(1, 0)], timestamp_ms=stamp_ms)
    blocks = tuple(builder.blocks[BlockName(level, 0)] for level in levels)
    one, what = judge(), replace(commit(), blocks=blocks)
    if not wrong:
        one.committed(0, what, result(), 0)
        return
    with pytest.raises(SafetyBroken, match=f"a committed block .*{wrong}"):
        one.committed(0, what, result(), 0)


def test_a_commit_from_the_future_is_wrong() -> None:
    judge().committed(0, commit(time_ms=EPOCH_MS + COMMIT_AHEAD_MS), result(), 0)
    with pytest.raises(SafetyBroken, match="later than honest clocks"):
        judge().committed(0, commit(time_ms=EPOCH_MS + COMMIT_AHEAD_MS + 1), result(), 0)


def test_certificates_must_verify_agree_and_be_true() -> None:
    one = judge()
    one.committed(0, commit(), result(), 0)
    with pytest.raises(SafetyBroken, match="does not verify"):
        one.certified(0, certificate(range(2), commit().digest, b"state"))
    with pytest.raises(SafetyBroken, match="no honest member computed"):
        judge().certified(0, certificate(range(3), commit().digest, b"state"))
    one.certified(0, certificate(range(3), commit().digest, b"state"))
    with pytest.raises(SafetyBroken, match="certificates conflict"):
        one.certified(1, certificate(range(1, 4), commit().digest, b"another"))


def test_liars_are_not_judged() -> None:
    one = judge()
    one.committed(3, commit(OTHER_BLOCK), result(b"whatever"), 0)
    one.committed(0, commit(), result(), 0)
    one.signed(3, DagBuilder(4).add(BlockName(1, 3), [BlockName(0, 3)]))


def test_liveness_asks_for_progress_and_for_every_payload() -> None:
    one = judge()
    one.healed()
    assert "are behind" in one.complaint(10_000, 0)
    for member in range(3):
        one.heights[member] = 5
    assert one.complaint(10_000, 0) == ""
    one.accepted(0, b"a payload", 2_000)
    assert one.complaint(2_000 + OPTIONS.commit_within_ms - 1, 0) == ""
    assert "never committed 1 payloads, first b'a payload'" in one.complaint(2_000 + OPTIONS.commit_within_ms, 0)
    one.lost_memory(0)
    assert one.complaint(10**6, 0) == ""


# ---- judge, from era to era


def chained(*eras: int) -> list[Commit]:
    """Commits one after another, of these eras."""
    commits, previous = [], SHORT_START.digest
    for height, era in enumerate(eras, 1):
        record = CommitRecord(era, height, height, previous, (), (), EPOCH_MS)
        commits.append(Commit(record, record.digest(), ()))
        previous = record.digest()
    return commits


def plan_after(height: int, era: int = 1) -> EraPlan:
    return replace_plan(SHORT.genesis.plan(), era, height + 1)


def replace_plan(plan: EraPlan, era: int, first_height: int) -> EraPlan:
    return EraPlan(era, first_height, plan.beacon, plan.protocol_version, plan.seats)


def ended(height: int, plan: EraPlan | None) -> Result:
    return Result(height, b"state", b"state", next_era=plan)


def test_an_era_ends_at_its_last_height_and_nowhere_else() -> None:
    first, second, third = chained(0, 0, 1)
    one = Judge(SHORT)
    one.committed(0, first, ended(1, None), 0)
    one.committed(0, second, ended(2, plan_after(2)), 0)
    one.committed(0, third, ended(3, None), 0)
    assert (one.plans[1], one.era_levels) == (plan_after(2), {0: 2})
    early, late = Judge(SHORT), Judge(SHORT)
    with pytest.raises(SafetyBroken, match="an era ends elsewhere"):
        early.committed(0, first, ended(1, plan_after(1)), 0)
    late.committed(0, first, ended(1, None), 0)
    with pytest.raises(SafetyBroken, match="an era ends elsewhere"):
        late.committed(0, second, ended(2, None), 0)


@pytest.mark.parametrize(
    ("eras", "taken", "wrong"),
    [
        ((0, 0, 0), (0, 1, 2), "another era than its height"),
        ((0, 1), (0, 1), "another era than its height"),
        ((0, 0, 1), (0, 2), "left out"),
    ],
)
def test_commits_are_of_the_era_of_their_height(eras: tuple[int, ...], taken: tuple[int, ...], wrong: str) -> None:
    one, commits = Judge(SHORT), chained(*eras)
    *before, last = taken
    for index in before:
        one.committed(0, commits[index], ended(index + 1, plan_after(2) if index == 1 else None), 0)
    with pytest.raises(SafetyBroken, match=wrong):
        one.committed(0, commits[last], ended(last + 1, None), 0)


def test_the_chain_of_commits_goes_on_from_era_to_era() -> None:
    first, second, _ = chained(0, 0, 1)
    one = Judge(SHORT)
    one.committed(0, first, ended(1, None), 0)
    one.committed(0, second, ended(2, plan_after(2)), 0)
    record = CommitRecord(1, 3, 1, SHORT_START.digest, (), (), EPOCH_MS)
    with pytest.raises(SafetyBroken, match="does not follow"):
        one.committed(0, Commit(record, record.digest(), ()), ended(3, None), 0)


def test_members_that_plan_different_eras_differ() -> None:
    first, second = chained(0, 0)
    one = Judge(SHORT)
    for member in (0, 1):
        one.committed(member, first, ended(1, None), 0)
    one.committed(0, second, ended(2, plan_after(2)), 0)
    with pytest.raises(SafetyBroken, match="states differ"):
        one.committed(1, second, ended(2, replace_plan(plan_after(2), 1, 4)), 0)


def test_a_handover_is_certified_by_the_old_committee_and_true() -> None:
    first, second = chained(0, 0)
    plan, chain_id = plan_after(2), SHORT.genesis.chain_id()
    truth = handover_statement(chain_id, 2, second.digest, b"state", plan)
    lies = [
        handover_statement(chain_id, 2, second.digest, b"other", plan),
        handover_statement(chain_id, 2, second.digest, b"state", replace_plan(plan, 1, 4)),
    ]
    for lie in lies:
        one = Judge(SHORT)
        one.committed(0, first, ended(1, None), 0)
        one.committed(0, second, ended(2, plan), 0)
        with pytest.raises(SafetyBroken, match="no honest member computed"):
            one.certified(0, certificate_of(range(3), lie))
    one = Judge(SHORT)
    one.committed(0, first, ended(1, None), 0)
    one.committed(0, second, ended(2, plan), 0)
    with pytest.raises(SafetyBroken, match="does not verify"):
        one.certified(0, certificate_of(range(2), truth))
    one.began(0, plan, 100, proposing=True)
    assert "no certificate of the hand-over into era 1" in one.uncertified(100)
    assert one.uncertified(99) == "", "it has some time"
    one.certified(0, certificate_of(range(3), truth))
    assert one.uncertified(100) == ""
    with pytest.raises(SafetyBroken, match="certificates conflict"):
        one.certified(0, certificate_of(range(3), lies[0]))


def test_two_statements_about_one_height_are_a_double_signature() -> None:
    one, key = judge(), simulated_key(0)
    for member in (0, 3):
        for root in (b"one", b"other"):
            claim = Statement(CHECKPOINT, b"chain", 0, 1, (b"digest", root))
            signed = SignedStatement(claim, key.public, b"")
            if (member, root) == (0, b"other"):
                with pytest.raises(SafetyBroken, match="two statements"):
                    one.stated(member, signed)
            else:
                one.stated(member, signed)


def test_an_honest_member_can_sign_for_its_seat() -> None:
    one = Judge(SHORT)
    one.began(3, SHORT.genesis.plan(), 0, proposing=False)
    with pytest.raises(SafetyBroken, match="not able to sign"):
        one.began(0, SHORT.genesis.plan(), 0, proposing=False)


def test_short_eras_must_end_after_healing() -> None:
    one = Judge(SHORT)
    one.heights = [3, 3, 3, 0]
    one.healed()
    assert not one.has_crossed()
    one.heights = [5, 5, 4, 0]
    assert not one.has_crossed()
    one.heights = [5, 5, 5, 0]
    assert one.has_crossed()
    assert judge().has_crossed(), "nobody waits for the end of a long era"
