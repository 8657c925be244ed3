"""A committee of production cores under faults: nobody diverges, and all go on once everything has healed.

Each run comes from one seed; a failure prints the command that repeats it. That the checks can fail is shown by cores
and disks with a planted bug.
"""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from blockcloud.primitives.errors import BadConfiguration
from blockcloud.primitives.storage import Batch, Store
from blockcloud.simulation.disk import SimulatedDisk
from blockcloud.simulation.hash_machine import HashMachine
from blockcloud.simulation.network import DIVERGED, NO_PROGRESS, PASS, Network, main, plain_payload, run
from blockcloud.simulation.simulated_node import SimulatedNode
from blockcloud.transaction_chain.commit import Commit
from blockcloud.transaction_chain.core import Core, Recovered
from blockcloud.transaction_chain.machine import Result


def must_pass(seed: int, validators: int = 4, seconds: int = 6) -> dict[str, object]:
    report = run(seed, validators, seconds)
    assert report["verdict"] == PASS, f"{report['reason']}\nagain: {report['again']}\n{report}"
    return report


@pytest.mark.parametrize("seed", range(1, 13))
def test_four_validators(seed: int) -> None:
    must_pass(seed)


@pytest.mark.parametrize(("seed", "validators"), [(1, 1), (2, 2), (3, 3), (4, 7)])
def test_other_committees(seed: int, validators: int) -> None:
    must_pass(seed, validators, seconds=4)


@pytest.mark.long
@pytest.mark.parametrize("first", range(100, 220, 20))
def test_more_seeds(first: int) -> None:
    for seed in range(first, first + 20):
        must_pass(seed, seconds=10)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(300, 312))
def test_more_seeds_with_seven(seed: int) -> None:
    must_pass(seed, 7, seconds=8)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(400, 404))
def test_more_seeds_with_ten(seed: int) -> None:
    must_pass(seed, 10, seconds=6)


def test_same_seed_gives_the_same_run() -> None:
    one, other = run(7, 4, 4), run(7, 4, 4)
    assert one == other
    assert one["trace"] != run(8, 4, 4)["trace"]
    assert json.loads(json.dumps(one)) == one


def test_the_seeds_of_the_suite_meet_every_kind_of_fault() -> None:
    networks = [Network(seed, 4, 6000, HashMachine, plain_payload) for seed in range(1, 13)]
    faults = [one.faults for one in networks]
    assert {fault.lie.value for fault in faults} == {"none", "equivocate", "withhold"}
    assert any(fault.crashes for fault in faults)
    assert any(fault.partitions for fault in faults)
    assert any(fault.loss_percent for fault in faults)
    assert any(fault.duplicate_percent for fault in faults)
    assert any(any(fault.skew_ms) for fault in faults)


def test_out_of_range_is_refused() -> None:
    with pytest.raises(BadConfiguration):
        run(1, validators=27)
    with pytest.raises(BadConfiguration):
        run(1, seconds=0)


def test_command_prints_one_report_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seed", "3", "--count", "2", "--seconds", "4"]) == 0
    reports = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [report["seed"] for report in reports] == [3, 4]
    assert all(report["verdict"] == PASS for report in reports)


# ---- planted bugs: each must show


def crashing_seeds(count: int, seconds: int = 5) -> list[int]:
    """Seeds in which an honest member loses power after it has signed something."""
    found = []
    for seed in range(1, 500):
        faults = Network(seed, 4, seconds * 1000, HashMachine, plain_payload).faults
        if any(crash.member != faults.liar and crash.at_ms > 300 for crash in faults.crashes):
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
    assert_some_double_signature(crashing_seeds(8))


def test_a_disk_that_lies_about_syncing_shows_as_a_double_signature(monkeypatch: pytest.MonkeyPatch) -> None:
    write = SimulatedDisk.write

    def lazy(self: SimulatedDisk, batch: Batch, *, sync: bool) -> None:
        write(self, batch, sync=False)

    monkeypatch.setattr(SimulatedDisk, "write", lazy)
    assert_some_double_signature(crashing_seeds(20))


def assert_some_double_signature(seeds: list[int]) -> None:
    reasons = []
    for seed in seeds:
        report = run(seed, 4, 5)
        reasons.append(report["reason"])
        if report["verdict"] == DIVERGED and "double signature" in str(report["reason"]):
            return
    pytest.fail(f"no run showed it: {reasons}")


class ForgetfulMachine(HashMachine):
    """Its state depends on what it has seen since it was started, so it differs after a crash."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._state = bytes(32)

    def execute(self, commit: Commit, batch: Batch) -> Result:
        result = super().execute(commit, batch)
        return replace(result, change_digest=self._state)


def test_a_machine_that_is_not_deterministic_diverges() -> None:
    reports = [run(seed, 4, 5, machine=ForgetfulMachine) for seed in crashing_seeds(6)]
    assert any(report["verdict"] == DIVERGED and "states differ" in str(report["reason"]) for report in reports)


def test_links_that_never_heal_are_no_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Network, "_parted", lambda self, one, other: self.now_ms > 300)
    report = run(1, 4, 4)
    assert report["verdict"] == NO_PROGRESS
    assert "needed" in str(report["reason"])


def test_a_lost_payload_is_no_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mempools that take payloads and forget them."""
    monkeypatch.setattr(SimulatedNode, "submit", lambda self, payload, now_ms: True)
    report = run(1, 4, 4)
    assert report["verdict"] == NO_PROGRESS
    assert "never committed" in str(report["reason"])
