"""A whole committee of production cores over a virtual clock, network and disk, from one seed.

Discrete events: messages arrive late, twice, out of order or never; links part and heal; members lose power in the
midst of their duties and come back with what their disk kept; one member lies. First safety is asked for under all
this, then, once everything has healed, liveness (the method of TigerBeetle's VOPR). What is checked, at every step:

- *agreement*: whatever height two members commit, they commit the same and compute the same state;
- *no double signature*: an honest member never sends two blocks for one level, crashes or not;
- *liveness*: after healing, every honest member passes the height that the foremost had reached, and goes on;
- *no loss*: what an honest member accepts after healing is committed.

`run` gives a report that fits into JSON; the same arguments give the same report, to the byte.
"""

from __future__ import annotations

import argparse
import hashlib
import heapq
import json
import sys
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from blockcloud.primitives.errors import BadConfiguration, BlockCloudError
from blockcloud.simulation.dag_builder import AUTHORS, simulated_committee
from blockcloud.simulation.faults import Crash, Faults, Lie, draw_faults
from blockcloud.simulation.hash_machine import HashMachine
from blockcloud.simulation.simulated_node import MachineFactory, Setting, SimulatedNode
from blockcloud.transaction_chain.block import Block, BlockReference
from blockcloud.transaction_chain.commit import Commit
from blockcloud.transaction_chain.machine import Result
from blockcloud.transaction_chain.parameters import Parameters

PASS, NO_PROGRESS, DIVERGED = "Pass", "NoProgress", "Diverged"
SECONDS_AT_MOST = 3_600
EVENTS_AT_MOST = 5_000_000
# Heights that every honest member must gain after healing, beyond the highest one before it.
PROGRESS_COMMITS = 5
LOAD_INTERVAL_MS = 100
# A payload accepted so long before the end must be committed everywhere at the end.
COMMIT_WITHIN_MS = 1_500


class SafetyBroken(BlockCloudError):
    """Two members disagree, or an honest one signed twice."""

    code = "safety_broken"


class Network:
    """The world of one run. Times are virtual milliseconds since the start."""

    def __init__(self, seed: int, validators: int, run_ms: int, machine: MachineFactory) -> None:
        self.random = Random(seed)
        self.now_ms = 0
        self.run_ms = run_ms
        self.faults = draw_faults(self.random, validators, run_ms)
        self.events = 0
        self.crashes = 0
        self.lost = 0
        self.duplicated = 0
        self.trace = hashlib.sha256()
        self.agreed: dict[int, tuple[bytes, bytes]] = {}
        self.heights = [0] * validators
        self.foremost_at_heal = 0
        self.accepted: dict[bytes, int] = {}
        self._signed: dict[tuple[int, int], BlockReference] = {}
        self._committed_payloads: list[dict[bytes, None]] = [{} for _ in range(validators)]
        self._queue: list[tuple[int, int, Callable[[], None]]] = []
        self._scheduled = 0
        parameters = Parameters(
            leader_slots=self.random.randint(1, min(3, validators)), gc_depth_levels=self.random.choice((8, 16, 64))
        )
        setting = Setting(simulated_committee((1,) * validators), parameters, machine)
        self.nodes = [
            SimulatedNode(
                member, setting, self, self.faults.skew_ms[member], self.faults.lie if self._lies(member) else Lie.NONE
            )
            for member in range(validators)
        ]

    def _lies(self, member: int) -> bool:
        return member == self.faults.liar

    @property
    def honest(self) -> list[int]:
        """The members that follow the rules, crashes or not."""
        return [node.member for node in self.nodes if not self._lies(node.member)]

    # ---- events

    def at(self, time_ms: int, action: Callable[[], None]) -> None:
        """Do `action` at `time_ms`; what was asked for first comes first."""
        self._scheduled += 1
        heapq.heappush(self._queue, (max(time_ms, self.now_ms), self._scheduled, action))

    def play(self) -> None:
        """Run to the end. Raises SafetyBroken."""
        for node in self.nodes:
            self.at(0, lambda node=node: self._start(node))  # type: ignore[misc]
        for crash in self.faults.crashes:
            self.at(crash.at_ms, lambda crash=crash: self._arm(crash))  # type: ignore[misc]
        for partition in self.faults.partitions:
            self.at(partition.from_ms, self._relink)
            self.at(partition.until_ms, self._relink)
        self.at(self.faults.heal_ms, self._heal)
        self.at(LOAD_INTERVAL_MS, self._load)
        while self._queue and self._queue[0][0] <= self.run_ms:
            self.now_ms, _, action = heapq.heappop(self._queue)
            self.events += 1
            if self.events > EVENTS_AT_MOST:
                raise BadConfiguration("the run has more events than its limit", events=self.events)
            action()
