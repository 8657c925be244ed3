"""Committees that hand over to the next under faults and liars, with a hash and with the production ledger.

That the checks can fail is shown by planted bugs of the hand-over and of the ledger: each must show in some run.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise
from random import Random

import pytest
from msgspec.structs import replace as struct_replace

from blockcloud.node.succession import Succession
from blockcloud.primitives.certificates import Certificate, SignedStatement, Statement
from blockcloud.primitives.storage import Batch, Store
from blockcloud.service_chain import rewards
from blockcloud.service_chain.accounts import credit
from blockcloud.service_chain.genesis import Genesis, StakingParameters
from blockcloud.simulation.faults import Crash, CrashPoint, Faults, Lie, Spell
from blockcloud.simulation.hash_machine import HashMachine
from blockcloud.simulation.judge import SafetyBroken
from blockcloud.simulation.ledger import ONION_LAYERS, Ledger
from blockcloud.simulation.network import Network
from blockcloud.simulation.options import Load, Options
from blockcloud.simulation.runner import Length, make_network, plain_payload, quiet_logs
from blockcloud.simulation.simulated_node import MachineFactory, SimulatedNode
from blockcloud.transaction_chain.commit import Commit, CommitRecord
from blockcloud.transaction_chain.core import Core
from blockcloud.transaction_chain.era import EraPlan, HandoverCollector
from blockcloud.transaction_chain.machine import Result
from blockcloud.transaction_chain.parameters import Parameters

MEMBERS, HEAL_MS = 4, 1_200
STAKING = StakingParameters(
    committee_size=5, freeze_percent=40, beacon_from_percent=40, beacon_to_percent=80, onion_length=ONION_LAYERS
)


def options(
    era_length: int, *, liars: dict[int, frozenset[Lie]] | None = None, outsiders: int = 0, **faults: object
) -> Options:
    nodes = MEMBERS + outsiders
    calm = Faults(heal_ms=HEAL_MS, latency_ms=tuple((5,) * nodes for _ in range(nodes)))
    return Options(
        weights=(1,) * MEMBERS,
        resource_weights=(1,) * MEMBERS,
        parameters=Parameters(era_length=era_length, leader_table_period=5, checkpoint_period=5),
        load=Load.STEADY,
        liars=liars or {},
        faults=replace(calm, **faults),  # type: ignore[arg-type]  # one name, one of many types
        levels=2 * era_length + 10,
        outsiders=outsiders,
        staking=STAKING,
    )


def world(chosen: Options, machine: MachineFactory, seed: int = 1) -> Network:
    return Network(Random(seed), chosen, machine, plain_payload)


def played(chosen: Options, machine: MachineFactory, seed: int = 1) -> Network:
    network = world(chosen, machine, seed)
    with quiet_logs():
        network.play()
    assert network.complaint() == ""
    return network


@pytest.mark.parametrize("era_length", [8, 12, 20])
def test_committees_follow_one_another(era_length: int) -> None:
    network = played(options(era_length), HashMachine)
    plans = network.judge.plans
    assert len(plans) >= 3
    keys = [frozenset(seat.consensus_key for seat in plan.seats) for plan in plans.values()]
    assert all(not one & other for one, other in pairwise(keys[:4])), "new keys in each era"
    certified = [height for kind, height in network.judge.certificates if kind == "handover"]
    assert certified[: len(plans) - 2] == [era_length * era for era in range(1, len(plans) - 1)]


def test_a_trace_tells_of_eras() -> None:
    lines: list[str] = []
    network = Network(Random(1), options(8), HashMachine, plain_payload, lines.append)
    with quiet_logs():
        network.play()
    text = "\n".join(lines)
    for event in ("member 3  era 0", "member 3  era 1 ", "member 0  hand-over certified at height 8", "Position from"):
        assert event in text


def test_who_was_away_for_eras_catches_up_through_all_of_them() -> None:
    away = Crash(0, 200, HEAL_MS, CrashPoint.AT_ONCE)
    network = played(options(8, crashes=(away,)), HashMachine)
    assert network.counts["crashes"] == 1
    assert max(network.judge.plans) >= 3
    assert network.nodes[0].era.plan.era >= max(network.judge.plans) - 1


@pytest.mark.parametrize("point", list(CrashPoint))
def test_crashes_around_boundaries(point: CrashPoint) -> None:
    """Power fails again and again while eras of eight commits go by."""
    crashes = tuple(Crash(0, at_ms, 60, point) for at_ms in range(150, HEAL_MS, 140))
    networks = [played(options(8, crashes=crashes), HashMachine, seed) for seed in range(1, 5)]
    # How often a run gets to an era's end on its own feet hangs on its whole course, which any new parameter changes.
    assert sum(network.counts["crashes"] for network in networks) >= 6
    assert all(network.counts["crashes"] >= 1 and max(network.judge.plans) >= 3 for network in networks)


@pytest.mark.parametrize("seed", [41, 50])
def test_nobody_pays_again_and_again_for_reports_of_who_has_nothing_left(seed: int) -> None:
    network = make_network(seed, None, Length.of(None, 60), machine=None)
    with quiet_logs():
        network.play()
    assert network.audit is not None
    codes = [code for _, code in network.audit.acknowledged.values()]
    assert codes.count("nothing_to_slash") <= len(network.options.honest)


def test_a_full_disk_stops_a_node_that_comes_back_with_all_it_had() -> None:
    full = Spell(1, 300, 900)
    network = world(options(20, full_disks=(full,)), Ledger)
    network.at(800, lambda: stopped.append(network.nodes[1].core is None))
    network.at(850, lambda: held.append(network.nodes[1].disk.get("meta", b"height")))
    stopped: list[bool] = []
    held: list[bytes | None] = []
    with quiet_logs():
        network.play()
    assert network.complaint() == ""
    assert network.counts["halts"] >= 2, "it tries again until there is room"
    assert stopped == [True]
    assert held[0] is not None
    assert int.from_bytes(held[0]) > 0, "what was applied before stays"
    assert network.nodes[1].chain.applied_height == network.judge.heights[1]
    assert network.audit is not None
    assert len(network.audit.acknowledged) > 20


def test_candidates_from_outside_get_a_seat_and_money_is_kept() -> None:
    seated = 0
    for seed in range(1, 5):
        network = played(options(20, outsiders=1), Ledger, seed)
        last = network.judge.plans[max(network.judge.plans)]
        seated += len(last.seats) == MEMBERS + 1
        assert network.audit is not None
        assert network.audit.reveals >= MEMBERS
        codes = {code for _, code in network.audit.acknowledged.values()}
        assert {"ok", "insufficient_balance"} <= codes
    # Whether its Ready comes before the freeze hangs on the whole course of a run, which any new parameter changes.
    assert seated >= 2


def test_who_keeps_its_onion_back_forfeits_and_the_beacon_goes_on() -> None:
    network = played(options(20, liars={3: frozenset({Lie.ONION})}), Ledger)
    assert network.audit is not None
    assert network.audit.forfeits >= 1
    beacons = [plan.beacon for plan in network.judge.plans.values()]
    assert len(beacons) >= 3
    assert len({*beacons}) == len(beacons)


def test_liars_about_roots_and_plans_are_slashed_and_nobody_believes_them() -> None:
    network = played(options(20, liars={3: frozenset({Lie.ROOT})}, outsiders=2), Ledger)
    liar = network.nodes[3].folder.node_key.public
    chain = network.nodes[0].chain
    candidate = chain.candidate(liar)
    assert candidate is not None
    assert candidate.offences >= 1
    assert all(seat.node_key != liar for seat in chain.plan.seats)


# ---- planted bugs: each must show


def broken(chosen: Options, machine: MachineFactory, seeds: Iterable[int] = range(1, 6)) -> str:
    """What the judge says, in the first of the seeds in which it says something; else what is not live at the end."""
    for seed in seeds:
        network = world(chosen, machine, seed)
        try:
            with quiet_logs():
                network.play()
        except SafetyBroken as fault:
            return str(fault)
        if complaint := network.complaint():
            return complaint
    return ""


def test_a_core_that_goes_on_after_the_last_commit_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    close = Core._close_level

    def endless(self: Core, level: int, slots: list[object]) -> bool:
        stop = close(self, level, slots)  # type: ignore[arg-type]  # handed through
        ended, self.ended = self.ended, False
        return stop and not ended

    monkeypatch.setattr(Core, "_close_level", endless)
    reason = broken(options(8, loss_percent=20, slow_percent=20), HashMachine)
    # What it commits, or what its blocks carry away from the next era.
    assert "another era than its height" in reason or "never committed" in reason


class OwnView(HashMachine):
    """A machine for which the next committee depends on whose machine it is."""

    made = 0

    def __init__(self, genesis: Genesis, store: Store) -> None:
        super().__init__(genesis, store)
        OwnView.made += 1
        self.order = -1 if OwnView.made % 2 else 1

    def _next_plan(self) -> EraPlan:
        plan = super()._next_plan()
        return struct_replace(plan, seats=plan.seats[:: self.order])


def test_a_next_committee_that_differs_from_node_to_node_shows() -> None:
    assert "states differ" in broken(options(8), OwnView, [1])


def test_a_core_that_begins_the_chain_of_commits_anew_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    record = CommitRecord.digest
    make = Core.__init__

    def forgetful(self: Core, **given: object) -> None:
        make(self, **given)  # type: ignore[arg-type]  # handed through
        if self.last_commit.level == 0:
            self._last_digest = record(self.last_commit)

    monkeypatch.setattr(Core, "__init__", forgetful)
    assert "does not follow the one before" in broken(options(8), HashMachine)


def test_a_certificate_of_a_minority_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    def hasty(self: HandoverCollector, statement: Statement) -> Certificate | None:
        agreeing = [signed for signed in self._signed.values() if signed.statement == statement]
        return Certificate(statement, tuple(sorted((signed.signer, signed.signature) for signed in agreeing)))

    monkeypatch.setattr(HandoverCollector, "certificate", hasty)
    assert "does not verify" in broken(options(8), HashMachine)


def test_statements_of_the_old_committee_that_get_lost_show(monkeypatch: pytest.MonkeyPatch) -> None:
    def deaf(self: Succession, signed: SignedStatement) -> None:
        return None

    monkeypatch.setattr(Succession, "statement", deaf)
    reason = broken(options(8), HashMachine, [1])
    assert "never committed" in reason or "no certificate of the hand-over" in reason


def test_a_member_that_loses_the_key_of_its_seat_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SimulatedNode, "_prepare", lambda self, plan: None)
    assert "not able to sign" in broken(options(8), HashMachine, [1])


def test_money_out_of_nothing_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rewards, "credit", lambda state, key, amount: credit(state, key, amount + 1))
    assert "money came or went" in broken(options(20), Ledger, [1])


def test_a_forfeit_that_is_not_taken_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rewards, "_forfeit", lambda state, candidate, *rest: candidate)
    liars = {3: frozenset({Lie.ONION})}
    assert "owed and nothing is forfeit" in broken(options(20, liars=liars), Ledger, [1])


class Forgetting(Ledger):
    """A ledger that acknowledges transactions and later loses some of the receipts."""

    def execute(self, commit: Commit, batch: Batch) -> Result:
        result = super().execute(commit, batch)
        if commit.height % 5 == 0:
            batch.delete_range("receipts", b"", b"\x40")
        return result


def test_a_lost_receipt_shows() -> None:
    assert "an acknowledged transaction is lost" in broken(options(20), Forgetting, [1])
