"""A whole committee of production cores over a virtual clock, network and disk, from one seed.

Discrete events: messages arrive late, twice, out of order or never; links part and heal; members lose power in the
midst of their duties and come back with what their disk kept; one member lies. First safety is asked for under all
this, then, once everything has healed, liveness (the method of TigerBeetle's VOPR). What is checked:

- *agreement*: whatever height two members commit, they commit the same and compute the same state;
- *no double signature*: an honest member never sends two blocks for one level, crashes or not;
- *liveness*: after healing, every honest member passes the height that the foremost had reached, and goes on;
- *no loss*: what an honest member accepts after healing is committed everywhere.

`run` gives a report that fits into JSON; the same arguments give the same report. From the shell:
`python -m blockcloud.simulation.network --seed 7 --validators 4 --seconds 10`.
"""

from __future__ import annotations

import argparse
import hashlib
import heapq
import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from random import Random

from blockcloud.primitives.errors import BadConfiguration, BlockCloudError, LocalFault
from blockcloud.simulation.dag_builder import AUTHORS, simulated_committee
from blockcloud.simulation.faults import Crash, Faults, Lie, draw_faults
from blockcloud.simulation.hash_machine import HashMachine
from blockcloud.simulation.simulated_node import MachineFactory, Setting, SimulatedNode
from blockcloud.transaction_chain.block import Block, BlockReference
from blockcloud.transaction_chain.commit import Commit
from blockcloud.transaction_chain.machine import Result
from blockcloud.transaction_chain.parameters import Parameters

PASS, NO_PROGRESS, DIVERGED = "Pass", "NoProgress", "Diverged"
SECONDS_AT_LEAST = 4
SECONDS_AT_MOST = 3_600
EVENTS_AT_MOST = 5_000_000
# Heights that every honest member must gain after healing, beyond the highest one before it.
PROGRESS_COMMITS = 5
LOAD_INTERVAL_MS = 100
# A payload accepted so long before the end must be committed everywhere at the end.
COMMIT_WITHIN_MS = 2_500

Report = dict[str, object]
# The n-th payload that clients hand in: the service machine must accept it, and no two may be equal.
PayloadFactory = Callable[[int], bytes]


class SafetyBroken(BlockCloudError):
    """Two members disagree, or an honest one signed twice."""

    code = "safety_broken"


class Network:
    """The world of one run. Times are virtual milliseconds since the start."""

    def __init__(
        self, seed: int, validators: int, run_ms: int, machine: MachineFactory, payload: PayloadFactory
    ) -> None:
        self.random = Random(seed)
        self.now_ms = 0
        self.run_ms = run_ms
        self._payload = payload
        self.faults: Faults = draw_faults(self.random, validators, run_ms)
        self.counts = dict.fromkeys(("events", "messages", "lost", "duplicated", "crashes", "payloads"), 0)
        self.trace = hashlib.sha256()
        # Height -> (commit digest, change digest) of whoever got there first.
        self.agreed: dict[int, tuple[bytes, bytes]] = {}
        self.heights = [0] * validators
        self.foremost_at_heal = 0
        # Payload -> when an honest member accepted it, from healing on.
        self.accepted: dict[bytes, int] = {}
        self.committed_payloads: list[dict[bytes, None]] = [{} for _ in range(validators)]
        self._signed: dict[tuple[int, int], BlockReference] = {}
        self._links = {(one, other): False for other in range(validators) for one in range(other)}
        self._queue: list[tuple[int, int, Callable[[], None]]] = []
        self._scheduled = 0
        slots = self.random.randint(1, min(3, validators))
        parameters = Parameters(leader_slots=slots, gc_depth_levels=self.random.choice((8, 16, 64)))
        setting = Setting(simulated_committee((1,) * validators), parameters, machine)
        lies = [self.faults.lie if member == self.faults.liar else Lie.NONE for member in range(validators)]
        self.nodes = [
            SimulatedNode(member, setting, self, self.faults.skew_ms[member], lies[member])
            for member in range(validators)
        ]

    @property
    def honest(self) -> list[int]:
        """The members that follow the rules, crashes or not."""
        return [node.member for node in self.nodes if node.lie is Lie.NONE]

    # ---- events

    def at(self, time_ms: int, action: Callable[[], None]) -> None:
        """Do `action` at `time_ms`; of one time, what was asked for first."""
        self._scheduled += 1
        heapq.heappush(self._queue, (max(time_ms, self.now_ms), self._scheduled, action))

    def play(self) -> None:
        """Run to the end. Raises SafetyBroken."""
        for node in self.nodes:
            self.at(0, partial(self._start, node))
        for crash in self.faults.crashes:
            self.at(crash.at_ms, partial(self._arm_crash, crash))
        for parted in self.faults.partitions:
            self.at(parted.from_ms, self._relink)
            self.at(parted.until_ms, self._relink)
        self.at(self.faults.heal_ms, self._heal)
        self.at(LOAD_INTERVAL_MS, self._load)
        while self._queue and self._queue[0][0] <= self.run_ms:
            self.now_ms, _, action = heapq.heappop(self._queue)
            self.counts["events"] += 1
            if self.counts["events"] > EVENTS_AT_MOST:
                raise BadConfiguration("the run has more events than its limit", limit=EVENTS_AT_MOST)
            action()

    def _start(self, node: SimulatedNode) -> None:
        if node.core is None:
            self._note("start", node.member)
            node.start(self.now_ms)
            self._rearm(node)
            self._relink()

    def _arm_crash(self, crash: Crash) -> None:
        node = self.nodes[crash.member]
        if node.core is not None:
            node.pending_crash = crash

    def _heal(self) -> None:
        """From here on nothing goes wrong. Who is still waiting to crash is spared, who is down starts at once."""
        self.foremost_at_heal = max(self.heights)
        for node in self.nodes:
            node.pending_crash = None
            self._start(node)
        self._relink()

    def _load(self) -> None:
        """A client somewhere hands in a payload."""
        node = self.nodes[self.random.randrange(len(self.nodes))]
        self.counts["payloads"] += 1
        payload = self._payload(self.counts["payloads"])
        if node.submit(payload, self.now_ms):
            self._rearm(node)
            if self.now_ms >= self.faults.heal_ms and node.lie is Lie.NONE:
                self.accepted[payload] = self.now_ms
        self.at(self.now_ms + LOAD_INTERVAL_MS, self._load)

    def _rearm(self, node: SimulatedNode) -> None:
        """Have the node's next timer wake it, unless an event before moves it."""
        if node.timer_ms is not None:
            self.at(node.timer_ms, partial(self._tick, node, node.timer_ms))

    def _tick(self, node: SimulatedNode, timer_ms: int) -> None:
        if node.core is not None and node.timer_ms == timer_ms:
            self._note("tick", node.member)
            node.tick(self.now_ms)
            self._rearm(node)

    # ---- links

    def _relink(self) -> None:
        """Bring links up and down as crashes and partitions say, and tell both ends."""
        for (one, other), was_up in list(self._links.items()):
            ends = self.nodes[one], self.nodes[other]
            is_up = all(node.core is not None for node in ends) and not self._parted(one, other)
            self._links[(one, other)] = is_up
            if is_up == was_up:
                continue
            for node, peer in zip(ends, reversed(ends), strict=True):
                if is_up:
                    node.connected(peer.member, self.now_ms)
                else:
                    node.lost(peer.member, self.now_ms)
                self._rearm(node)

    def _parted(self, one: int, other: int) -> bool:
        return any(
            parted.from_ms <= self.now_ms < parted.until_ms and (one in parted.side) != (other in parted.side)
            for parted in self.faults.partitions
        )

    def _is_linked(self, one: int, other: int) -> bool:
        return self._links[(min(one, other), max(one, other))]

    def send(self, source: int, target: int, data: bytes) -> None:
        """Hand a message to the network, which may lose, double or delay it."""
        self.counts["messages"] += 1
        faulty = self.now_ms < self.faults.heal_ms
        if not self._is_linked(source, target) or (faulty and self._chance(self.faults.loss_percent)):
            self.counts["lost"] += 1
            return
        copies = 1
        if faulty and self._chance(self.faults.duplicate_percent):
            self.counts["duplicated"] += 1
            copies = 2
        for _ in range(copies):
            delay_ms = self.faults.latency_ms[source][target] + self.random.randint(0, self.faults.jitter_ms)
            self.at(self.now_ms + delay_ms, partial(self._deliver, source, target, data))

    def _chance(self, percent: int) -> bool:
        return percent > 0 and self.random.randrange(100) < percent

    def _deliver(self, source: int, target: int, data: bytes) -> None:
        if not self._is_linked(source, target):
            self.counts["lost"] += 1
            return
        node = self.nodes[target]
        self._note("message", target, data)
        node.receive(source, data, self.now_ms)
        self._rearm(node)

    # ---- what nodes report

    def crashed(self, member: int, crash: Crash) -> None:
        """A node's power failed: its links break, and it starts again after a while."""
        self.counts["crashes"] += 1
        self._note("crash", member, crash.point.value.encode())
        self.at(self.now_ms, self._relink)
        self.at(self.now_ms + crash.down_ms, partial(self._start, self.nodes[member]))

    def signed(self, member: int, block: Block) -> None:
        """A node sends a block of its own: an honest one must never have sent another for that level."""
        first = self._signed.setdefault((member, block.level), block.reference)
        if first != block.reference and member in self.honest:
            raise SafetyBroken(
                "double signature: an honest member sent two blocks for one level", member=member, level=block.level
            )

    def committed(self, member: int, commit: Commit, result: Result) -> None:
        """A node executed a commit: it must be what every other has, or will have, at that height."""
        self._note("commit", member, commit.digest)
        self.heights[member] = commit.height
        for block in commit.blocks:
            self.committed_payloads[member].update(dict.fromkeys(block.payload))
        one = (commit.digest, result.change_digest)
        other = self.agreed.setdefault(commit.height, one)
        if one != other and member in self.honest:
            what = "commits differ" if one[0] != other[0] else "states differ"
            raise SafetyBroken(what, member=member, height=commit.height, level=commit.record.level)

    def _note(self, kind: str, member: int, data: bytes = b"") -> None:
        self.trace.update(f"{self.now_ms} {kind} {member} ".encode() + hashlib.sha256(data).digest())

    # ---- verdict

    def why_no_progress(self) -> str:
        """What liveness lacks at the end; empty if nothing."""
        needed = self.foremost_at_heal + PROGRESS_COMMITS
        behind = [member for member in self.honest if self.heights[member] < needed]
        if behind:
            reached = [self.heights[member] for member in behind]
            return f"members {behind} reached heights {reached}, needed {needed} after healing"
        due = [payload for payload, since_ms in self.accepted.items() if since_ms <= self.run_ms - COMMIT_WITHIN_MS]
        for member in self.honest:
            missing = [payload for payload in due if payload not in self.committed_payloads[member]]
            if missing:
                return f"member {member} never committed {len(missing)} payloads, first {missing[0][:32]!r}"
        return ""


def plain_payload(number: int) -> bytes:
    """A payload for a machine that takes anything."""
    return f"payload {number}".encode()


def run(
    seed: int,
    validators: int = 4,
    seconds: int = 10,
    machine: MachineFactory = HashMachine,
    payload: PayloadFactory = plain_payload,
) -> Report:
    """One simulated run of `seconds` of virtual time; the end of it is without faults. Raises BadConfiguration.

    `verdict` is Pass, NoProgress (it is safe but did not go on) or Diverged (it is not safe, or a
    member broke down), with a `reason`.
    """
    if not 1 <= validators <= AUTHORS or not SECONDS_AT_LEAST <= seconds <= SECONDS_AT_MOST:
        raise BadConfiguration(
            "a run has 1 to 26 validators and takes 4 to 3,600 seconds", validators=validators, seconds=seconds
        )
    network = Network(seed, validators, seconds * 1000, machine, payload)
    try:
        network.play()
    except SafetyBroken as broken:
        verdict, reason = DIVERGED, str(broken)
    except (AssertionError, LocalFault, LookupError) as broken:
        verdict, reason = DIVERGED, f"a member broke down: {type(broken).__name__}: {broken}"
    else:
        reason = network.why_no_progress()
        verdict = NO_PROGRESS if reason else PASS
    return _report(network, seed, seconds, verdict, reason)


def _report(network: Network, seed: int, seconds: int, verdict: str, reason: str) -> Report:
    faults = network.faults
    heights = [network.heights[member] for member in network.honest]
    return {
        "verdict": verdict,
        "reason": reason,
        "seed": seed,
        "validators": len(network.nodes),
        "seconds": seconds,
        "commits": min(heights),
        "levels": max((node.core.level for node in network.nodes if node.core is not None), default=0),
        **network.counts,
        "partitions": len(faults.partitions),
        "lie": faults.lie.value,
        "liar": faults.liar,
        "heal_ms": faults.heal_ms,
        "heights": list(network.heights),
        "complaints": sum(node.complaints for node in network.nodes),
        "trace": network.trace.hexdigest(),
        "again": f"blockcloud sim --seed {seed} --validators {len(network.nodes)} --seconds {seconds}",
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run seeds one after another and print their reports; 1 at the first that does not pass."""
    parser = argparse.ArgumentParser(prog="python -m blockcloud.simulation.network", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="the first seed")
    parser.add_argument("--count", type=int, default=1, help="number of seeds to run")
    parser.add_argument("--validators", type=int, default=4)
    parser.add_argument("--seconds", type=int, default=10, help="virtual seconds a run")
    options = parser.parse_args(arguments)
    for seed in range(options.seed, options.seed + options.count):
        report = run(seed, options.validators, options.seconds)
        sys.stdout.write(json.dumps(report) + "\n")
        if report["verdict"] != PASS:
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
