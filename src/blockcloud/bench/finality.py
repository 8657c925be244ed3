"""How long until a block is final, in the simulator: over the distances of cloud regions, and in message delays.

The production core over a simulated network without faults; processing costs nothing here, so the figures are those of
the protocol and the distances alone, and real validators come on top. Time runs from the moment at which a block is
made, or a payload handed in, to the commit at the same validator. The yardstick is three times the way to a quorum: a
leader's block cannot be committed sooner (DESIGN section 3.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from statistics import fmean
from typing import Any, Final

from blockcloud.simulation.dag_builder import simulated_committee
from blockcloud.simulation.faults import Crash, CrashPoint, Faults
from blockcloud.simulation.hash_machine import HashMachine
from blockcloud.simulation.network import LOOK_MS, Network
from blockcloud.simulation.options import Load, Options
from blockcloud.simulation.runner import plain_payload
from blockcloud.simulation.wan import REGIONS, latency_ms
from blockcloud.transaction_chain.block import Block, BlockReference
from blockcloud.transaction_chain.commit import Commit
from blockcloud.transaction_chain.machine import Result
from blockcloud.transaction_chain.parameters import Parameters

# The parameters of a public network (reference/parameters.md).
WAN: Final = Parameters(
    leader_slots=2, pacing_busy_ms=50, pacing_idle_ms=500, leader_timeout_ms=1_000, checkpoint_period=20
)
# One message delay; against it the least pace of a millisecond is nothing.
UNIT_MS: Final = 1_000
UNPACED: Final = Parameters(leader_slots=2, pacing_busy_ms=1, pacing_idle_ms=1, leader_timeout_ms=2 * UNIT_MS)
# The start is not measured: a crashed leader is waited for until it has been absent for some levels.
WARM_UP_LEVELS: Final = 15
DELAY_LEVELS: Final = 100
# A level of 100 members takes a second or two of processor time to simulate: their runs are shorter.
BLOCKS_AT_MOST: Final = 4_000
LEVELS_AT_LEAST: Final = 20
NEVER_MS: Final = 10**9
MESSAGE_DELAYS_MAX: Final = {"none crashed": 3.0, "one of four crashed": 5.0}


def run(sizes: Sequence[int] = (4, 10, 40, 100), levels: int = 60) -> dict[str, Any]:
    """{"figures": ..., "peer": ..., "ratio": ...}: `ratio` is a block's p50 over the yardstick, of 10 members if they
    are among `sizes`, else of the first. Big committees have fewer levels than `levels` (figure `levels`)."""
    wan = {
        str(size): _over_wan(size, WARM_UP_LEVELS + max(LEVELS_AT_LEAST, min(levels, BLOCKS_AT_MOST // size)))
        for size in sizes
    }
    figures = {
        "wan_ms": wan,
        "message_delays": {
            "none crashed": _in_delays(crashed=()),
            "one of four crashed": _in_delays(crashed=(3,)),
        },
        "processing_cost_ms": 0,
        "regions": list(REGIONS),
    }
    peer = {size: round(3 * _quorum_delay_ms(int(size)), 1) for size in wan}
    shown = "10" if "10" in wan else next(iter(wan))
    return {
        "figures": figures,
        "bars": {"message_delays_leaders_mean": MESSAGE_DELAYS_MAX},
        "peer": {"three_quorum_delays_ms": peer},
        "ratio": round(wan[shown]["block_p50"] / peer[shown], 2),
    }


class Watched(Network):
    """A network without lies that keeps how long everything took, from `WARM_UP_LEVELS` on."""

    def __init__(self, options: Options, levels: int) -> None:
        super().__init__(Random(1), options, HashMachine, plain_payload)
        self.levels = levels
        self.block_ms: list[int] = []
        self.leader_ms: list[int] = []
        self.payload_ms: list[int] = []
        self._made_ms: dict[BlockReference, int] = {}
        self._handed_in_ms: dict[bytes, int] = {}

    def play(self) -> None:
        self.at(LOOK_MS, self._look_for_the_end)
        super().play()

    def _look_for_the_end(self) -> None:
        self.is_over = max(node.core.committed_level for node in self.nodes if node.core is not None) >= self.levels
        self.later(LOOK_MS, self._look_for_the_end)

    def signed(self, member: int, block: Block) -> None:
        super().signed(member, block)
        # A block may be sent again; it was made when it was sent first.
        self._made_ms.setdefault(block.reference, self.now_ms)

    def handed_in(self, payload: bytes) -> None:
        self._handed_in_ms[payload] = self.now_ms

    def committed(self, member: int, commit: Commit, result: Result) -> None:
        super().committed(member, commit, result)
        for block in commit.blocks:
            if block.author != member or block.level < WARM_UP_LEVELS:
                continue
            took_ms = self.now_ms - self._made_ms[block.reference]
            self.block_ms.append(took_ms)
            if block.reference in commit.record.leaders:
                self.leader_ms.append(took_ms)
            self.payload_ms.extend(self.now_ms - self._handed_in_ms[payload] for payload in block.payload)


def _watch(
    parameters: Parameters, latency: tuple[tuple[int, ...], ...], levels: int, crashed: Sequence[int]
) -> Watched:
    crashes = tuple(Crash(member, 1, NEVER_MS, CrashPoint.AT_ONCE) for member in crashed)
    equal = (1,) * len(latency)
    faults = Faults(heal_ms=NEVER_MS, latency_ms=latency, crashes=crashes)
    network = Watched(Options(equal, equal, parameters, Load.BUSY, {}, faults), levels)
    network.play()
    return network


def _over_wan(size: int, levels: int) -> dict[str, float]:
    seen = _watch(WAN, latency_ms(size), levels, ())
    shown: dict[str, float] = {"levels": levels}
    for name, took_ms in (("leader", seen.leader_ms), ("block", seen.block_ms), ("payload", seen.payload_ms)):
        shown |= {f"{name}_p50": _percentile(took_ms, 50), f"{name}_p95": _percentile(took_ms, 95)}
    return shown | {"level_ms": round(seen.now_ms / levels, 1)}


def _in_delays(crashed: Sequence[int]) -> dict[str, float]:
    unit = tuple((UNIT_MS,) * 4 for _ in range(4))
    seen = _watch(UNPACED, unit, DELAY_LEVELS, crashed)
    return {
        "leaders_mean": round(fmean(seen.leader_ms) / UNIT_MS, 2),
        "blocks_mean": round(fmean(seen.block_ms) / UNIT_MS, 2),
        "blocks_p95": round(_percentile(seen.block_ms, 95) / UNIT_MS, 2),
    }


def _percentile(values: Sequence[int], percent: int) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]


def _quorum_delay_ms(size: int) -> float:
    """The mean time, over all members, until one has heard from a quorum, itself included."""
    latency, quorum = latency_ms(size), simulated_committee((1,) * size).quorum
    delays = [
        sorted(0 if source == target else latency[source][target] for source in range(size)) for target in range(size)
    ]
    return fmean(delay[quorum - 1] for delay in delays)
