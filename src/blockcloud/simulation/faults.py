"""What goes wrong in one simulated run, drawn from its seed before it starts.

Each kind of fault is switched on or off for a whole run, so that some runs are calm in all respects but one (swarm
testing, Groce et al., ISSTA 2012). All faults end at `heal_ms`: until then only safety is asked for, then liveness.
Liars go on lying; what heals is the network, the power, the disks and the clocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from random import Random

# Clocks of one run differ from true time by at most so much, and drift by at most so many ms a second; beyond that
# and a block's time (`CLOCK_AHEAD_MS`) a validator without time service is of no use.
SKEW_MS = 400
DRIFT_MS_PER_S = 40
# What a time service leaves of it.
HEALED_SKEW_MS = 40
SLOW_AT_MOST_MS = 400


class CrashPoint(Enum):
    """Where power fails: at once, in the duties of a node around its next own block, or between the last commit of an
    era, which is on the disk and not synced, and the hand-over."""

    AT_ONCE = "at once"
    BEFORE_PERSIST = "before persist"
    BEFORE_SEND = "before send"
    AMID_SEND = "amid send"
    BEFORE_APPLY = "before apply"
    ERA_END = "at the end of an era"


class Lie(Enum):
    """How a faulty member deviates; one member may do several of these."""

    EQUIVOCATE = "equivocate"  # up to three blocks a level, sent to different members
    WITHHOLD = "withhold"  # blocks to some only, or late, and no answer to some fetches
    PARENTS = "parents"  # valid, but the fewest parents, stale ones, and never a vote it can refuse
    INVALID = "invalid"  # blocks that break a validity rule, as `invalid_blocks` makes them
    PAYLOAD = "payload"  # a payload that the service machine refuses
    TIME = "time"  # the earliest and the latest timestamps that pass, and some that do not
    ROOT = "root"  # statements of a wrong state, and two for one height, also at the end of an era
    ONION = "onion"  # never gives its part to the beacon


@dataclass(frozen=True)
class Crash:
    """Member `member` fails at `at_ms`, or where `point` says after that, and starts again `down_ms` later."""

    member: int
    at_ms: int
    down_ms: int
    point: CrashPoint


@dataclass(frozen=True)
class Spell:
    """From `from_ms` until `until_ms` member `member` is paused, or has a full disk."""

    member: int
    from_ms: int
    until_ms: int


@dataclass(frozen=True)
class Partition:
    """Between `from_ms` and `until_ms` the members of `side` and the others cannot reach each other."""

    from_ms: int
    until_ms: int
    side: frozenset[int]


@dataclass(frozen=True)
class Faults:
    """Times in virtual milliseconds since the start. `latency_ms[a][b]` is the least delay from a to b.

    `slow_percent` of the messages take up to `SLOW_AT_MOST_MS` longer and so arrive out of order.
    """

    heal_ms: int
    latency_ms: tuple[tuple[int, ...], ...]
    jitter_ms: int = 0
    loss_percent: int = 0
    duplicate_percent: int = 0
    slow_percent: int = 0
    skew_ms: tuple[int, ...] = ()
    drift_ms_per_s: tuple[int, ...] = ()
    partitions: tuple[Partition, ...] = ()
    crashes: tuple[Crash, ...] = ()
    pauses: tuple[Spell, ...] = ()
    full_disks: tuple[Spell, ...] = ()

    def kinds(self) -> list[str]:
        """The kinds of fault that are on, for the report."""
        found = {
            "loss": self.loss_percent > 0,
            "duplication": self.duplicate_percent > 0,
            "reordering": self.slow_percent > 0,
            "partitions": bool(self.partitions),
            "pauses": bool(self.pauses),
            "clock skew": any(self.skew_ms),
            "clock drift": any(self.drift_ms_per_s),
            "crashes": bool(self.crashes),
            "full disks": bool(self.full_disks),
        }
        return [kind for kind, is_on in found.items() if is_on]


def draw_latency(random: Random, members: int, slowest_ms: int) -> tuple[tuple[int, ...], ...]:
    """The least delay of each directed link: 1 to `slowest_ms`."""
    return tuple(tuple(random.randint(1, slowest_ms) for _ in range(members)) for _ in range(members))


def draw_faults(random: Random, latency_ms: tuple[tuple[int, ...], ...], heal_ms: int, honest: Sequence[int]) -> Faults:
    """The faults of one run. Any member may be cut off or paused; power and disks fail at `honest` ones only, since
    what a liar's disk forgets is one more lie."""
    members = len(latency_ms)
    on = [random.random() < 0.4 for _ in range(5)]
    return Faults(
        heal_ms=heal_ms,
        latency_ms=latency_ms,
        jitter_ms=random.choice((0, 5, 30)),
        loss_percent=random.randint(1, random.choice((10, 50))) if on[0] else 0,
        duplicate_percent=random.randint(1, 20) if on[1] else 0,
        slow_percent=random.randint(1, 20) if on[2] else 0,
        skew_ms=tuple(random.randint(-SKEW_MS, SKEW_MS) if on[3] else 0 for _ in range(members)),
        drift_ms_per_s=tuple(random.randint(-DRIFT_MS_PER_S, DRIFT_MS_PER_S) if on[4] else 0 for _ in range(members)),
        partitions=_draw_partitions(random, members, heal_ms),
        crashes=_draw_crashes(random, honest, heal_ms),
        pauses=_draw_spells(random, range(members), heal_ms, (0, 0, 1, 3)),
        full_disks=_draw_spells(random, honest, heal_ms, (0, 0, 0, 1, 2)),
    )


def _draw_partitions(random: Random, members: int, heal_ms: int) -> tuple[Partition, ...]:
    partitions = []
    for _ in range(random.choice((0, 0, 1, 2)) if members > 1 else 0):
        start = random.randrange(heal_ms)
        until_ms = random.randint(start, heal_ms)
        # Half of them cut off one member until the end, who has many levels to catch up with then.
        alone = random.random() < 0.5
        side = random.sample(range(members), 1 if alone else random.randint(1, members - 1))
        partitions.append(Partition(start, heal_ms if alone else until_ms, frozenset(side)))
    return tuple(partitions)


def _draw_crashes(random: Random, honest: Sequence[int], heal_ms: int) -> tuple[Crash, ...]:
    crashes = []
    for _ in range(random.choice((0, 1, 2, 4))):
        at_ms = random.randrange(heal_ms)
        # Most come back soon: one who is away until the end meets no second fault.
        longest = max(1, (heal_ms - at_ms) // random.choice((1, 1, 4, 20)))
        crashes.append(
            Crash(random.choice(honest), at_ms, random.randint(1, longest), random.choice(tuple(CrashPoint)))
        )
    return tuple(sorted(crashes, key=lambda crash: (crash.at_ms, crash.member)))


def _draw_spells(random: Random, members: Sequence[int], heal_ms: int, counts: Sequence[int]) -> tuple[Spell, ...]:
    spells = []
    for _ in range(random.choice(counts)):
        start = random.randrange(heal_ms)
        spells.append(Spell(random.choice(members), start, random.randint(start, heal_ms)))
    return tuple(sorted(spells, key=lambda spell: (spell.from_ms, spell.member)))
