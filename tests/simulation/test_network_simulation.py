"""A committee of production cores under faults and liars: nobody diverges, and all go on once everything has healed.

Each run comes from one seed; a failure prints the command that repeats it. That the checks can fail is shown by cores,
disks and machines with a planted bug, here and in `test_mutants.py`.
"""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from blockcloud.primitives.errors import BadConfiguration
from blockcloud.primitives.storage import Batch, Store
from blockcloud.service_chain.genesis import Genesis
from blockcloud.simulation.disk import SimulatedDisk
from blockcloud.simulation.faults import Lie
from blockcloud.simulation.hash_machine import HashMachine
from blockcloud.simulation.network import Network
from blockcloud.simulation.options import NO_BOUNDARY, Length
from blockcloud.simulation.runner import DIVERGED, NO_PROGRESS, PASS, Summary, main, make_network, run, run_many
from blockcloud.simulation.simulated_node import SimulatedNode
from blockcloud.transaction_chain.commit import Commit
from blockcloud.transaction_chain.core import Core, Recovered
from blockcloud.transaction_chain.machine import Result

SUITE = range(1, 21)
LEVELS = 20


def must_pass(seed: int, validators: int | None = None, *, levels: int) -> dict[str, object]:
    report = run(seed, validators, levels=levels)
    assert report["verdict"] == PASS, f"{report['reason']}\nagain: {report['again']}\n{report}"
    return report


@pytest.mark.parametrize("seed", SUITE)
def test_seeds(seed: int) -> None:
    must_pass(seed, levels=LEVELS)


@pytest.mark.parametrize(("seed", "validators"), [(1, 1), (2, 2), (3, 3)])
def test_committees_that_bear_no_liar(seed: int, validators: int) -> None:
    must_pass(seed, validators, levels=LEVELS)


@pytest.mark.long
@pytest.mark.parametrize("first", range(100, 300, 20))
def test_two_hundred_seeds(first: int) -> None:
    for seed in range(first, first + 20):
        must_pass(seed, levels=40)


def test_the_same_seed_gives_the_same_run() -> None:
    one, other = run(7, 4, levels=LEVELS), run(7, 4, levels=LEVELS)
    assert one == other
    assert one["trace"] != run(8, 4, levels=LEVELS)["trace"]
    assert json.loads(json.dumps(one)) == one


def test_the_long_seeds_meet_everything_that_can_be_drawn() -> None:
    options = [make_network(seed, None, Length(levels=40)).options for seed in range(100, 300)]
    assert {one.members for one in options} == set(range(4, 11))
    assert {one.parameters.leader_slots for one in options} == {1, 2, 3}
    assert {one.load for one in options} == {"busy", "steady", "bursts", "idle"}
    assert {lie for one in options for lies in one.liars.values() for lie in lies} == set(Lie)
    assert {kind for one in options for kind in one.faults.kinds()} == {
        *("loss", "duplication", "reordering", "partitions", "pauses"),
        *("clock skew", "clock drift", "crashes", "full disks"),
    }
    assert any(not one.liars and not one.faults.kinds()[3:] for one in options), "some runs are nearly calm"
    lengths = [one.parameters.era_length for one in options]
    assert {one.ledger for one in options} == {False, True}
    assert {one.outsiders for one in options if one.ledger} == {0, 1, 2}
    assert set(range(8, 13)) < set(lengths), "eras that are over before they have well begun"
    assert NO_BOUNDARY in lengths
    assert max(length for length in lengths if length != NO_BOUNDARY) > 30
    for one in options:
        # The definition of f: less than a third of the weight.
        assert 3 * sum(one.weights[liar] for liar in one.liars) < sum(one.weights)


def test_a_run_of_seconds_takes_them() -> None:
    report = run(3, 4, seconds=6)
    assert report["verdict"] == PASS, report
    assert 6.0 <= float(str(report["seconds"])) < 9.0
    assert report["again"] == "blockcloud sim --seed 3 --validators 4 --seconds 6"


@pytest.mark.parametrize(
    ("validators", "seconds", "levels"), [(27, None, None), (0, None, None), (4, 0, None), (4, None, 9), (4, 5, 50)]
)
def test_out_of_range_is_refused(validators: int, seconds: int | None, levels: int | None) -> None:
    with pytest.raises(BadConfiguration):
        run(1, validators, seconds=seconds, levels=levels)


def test_a_traced_run_is_the_same_run_with_a_line_for_each_event() -> None:
    lines: list[str] = []
    assert run(2, 4, levels=10, tracer=lines.append) == run(2, 4, levels=10)
    times = [int(line.split()[0]) for line in lines]
    assert times == sorted(times)
    text = "\n".join(lines)
    for event in ("member 0  start", "link up to", "block of level 1 ", "BlockMessage from", "commit 1 ", "heal"):
        assert event in text


def test_a_summary_counts_runs_and_keeps_those_that_failed() -> None:
    summary = Summary()
    timed = list(run_many(range(3, 5), None, Length(levels=10)))
    for one in (*timed, replace(timed[0], report=timed[0].report | {"verdict": NO_PROGRESS})):
        summary.add(one)
    report = summary.as_object()
    assert (report["verdict"], report["runs"], report["passed"]) == (NO_PROGRESS, 3, 2)
    assert report["events"] == sum(int(str(one.report["events"])) for one in (*timed, timed[0]))
    assert [failed["seed"] for failed in summary.failed] == [3]


def test_many_processes_give_the_same_reports() -> None:
    one, two = (list(run_many(range(5, 9), None, Length(levels=10), processes=count)) for count in (1, 2))
    assert [timed.report for timed in one] == [timed.report for timed in two]


def test_the_module_prints_one_report_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seed", "3", "--count", "2", "--levels", "10"]) == 0
    reports = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [report["seed"] for report in reports] == [3, 4]
    assert all(report["verdict"] == PASS for report in reports)


# ---- planted bugs: each must show


def crashing_seeds(count: int) -> list[int]:
    """Seeds in which a member loses power after it has signed something."""
    found = []
    for seed in range(1, 500):
        crashes = make_network(seed, 4, Length(levels=LEVELS)).faults.crashes
        if any(crash.at_ms > 300 for crash in crashes):
            found.append(seed)
        if len(found) == count:
            break
    return found


def test_forgetting_what_was_signed_shows_as_a_double_signature(monkeypatch: pytest.MonkeyPatch) -> None:
    """A core that starts again at level 0, without first hearing where the others are."""
    recover = Core._recover

    def amnesia(self: Core, recovered: Recovered, now_ms: int) -> None:
        recover(self, recovered, now_ms)
        self.level = 0
        self._quiet_until_ms = now_ms

    monkeypatch.setattr(Core, "_recover", amnesia)
    assert_some("double signature", crashing_seeds(20))


def test_a_disk_that_lies_about_syncing_shows_as_a_double_signature(monkeypatch: pytest.MonkeyPatch) -> None:
    write = SimulatedDisk.write

    def lazy(self: SimulatedDisk, batch: Batch, *, sync: bool) -> None:
        write(self, batch, sync=False)

    monkeypatch.setattr(SimulatedDisk, "write", lazy)
    monkeypatch.setattr(SimulatedDisk, "sync", lambda self: None)
    # A core that waits for what the others know of it survives such a disk; one that does not wait shows it.
    monkeypatch.setattr(Core, "_hear", lambda self, source: setattr(self, "_heard", None))
    assert_some("double signature", crashing_seeds(40))


def assert_some(wanted: str, seeds: list[int], machine: type[HashMachine] = HashMachine) -> None:
    reasons = []
    for seed in seeds:
        report = run(seed, 4, levels=LEVELS, machine=machine)
        reasons.append(report["reason"])
        if report["verdict"] == DIVERGED and wanted in str(report["reason"]):
            return
    pytest.fail(f"no run showed it: {reasons}")


class ForgetfulMachine(HashMachine):
    """Its state depends on what it has seen since it was started, so it differs after a crash."""

    def __init__(self, genesis: Genesis, store: Store) -> None:
        super().__init__(genesis, store)
        self._state = bytes(32)

    def execute(self, commit: Commit, batch: Batch) -> Result:
        result = super().execute(commit, batch)
        return replace(result, change_digest=self._state)


def test_a_machine_that_is_not_deterministic_diverges() -> None:
    assert_some("states differ", crashing_seeds(20), ForgetfulMachine)


class CarelessMachine(HashMachine):
    """It takes what every machine must refuse."""

    def check(self, payload: bytes) -> int:
        return 1


def test_a_refused_payload_in_a_commit_is_an_invalid_block() -> None:
    lying = [seed for seed in range(1, 200) if Lie.PAYLOAD in lies_of(seed)]
    assert_some("an invalid block is committed", lying[:10], CarelessMachine)


def lies_of(seed: int) -> set[Lie]:
    return {lie for lies in make_network(seed, 4, Length(levels=LEVELS)).options.liars.values() for lie in lies}


def test_links_that_never_heal_are_no_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Network, "_parted", lambda self, one, other: self.now_ms > 300)
    report = run(1, 4, levels=LEVELS)
    assert report["verdict"] == NO_PROGRESS
    assert "needed" in str(report["reason"])


def test_a_lost_payload_is_no_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mempools that take payloads and forget them."""
    monkeypatch.setattr(SimulatedNode, "submit", lambda self, payload, now_ms: True)
    report = run(1, 4, levels=LEVELS)
    assert report["verdict"] == NO_PROGRESS
    assert "never committed" in str(report["reason"])
