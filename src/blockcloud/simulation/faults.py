"""What goes wrong in one simulated run, drawn from its seed before it starts.

Each kind of fault is switched on or off for a whole run, so that some runs are calm in all respects but one (swarm
testing, Groce et al., ISSTA 2012). All faults end at `heal_ms`: until then only safety is asked for, then liveness.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from random import Random

# The end of a run is without faults: long enough for the longest retry of the core (a lost chunk of levels, 3 s).
HEALTHY_SHARE_PERCENT = 40
HEALTHY_AT_LEAST_MS = 3_500
SKEW_MS = 40


class CrashPoint(Enum):
    """Where in the duties of a node, around a block of its own, power fails."""

    BEFORE_PERSIST = "before persist"
    BEFORE_SEND = "before send"
    AMID_SEND = "amid send"
    BEFORE_APPLY = "before apply"


class Lie(Enum):
    """How the faulty member deviates."""

    NONE = "none"
    EQUIVOCATE = "equivocate"
    WITHHOLD = "withhold"


@dataclass(frozen=True)
class Crash:
    """Member `member` fails at its first own block at or after `at_ms`, and starts again `down_ms` later."""

    member: int
    at_ms: int
    down_ms: int
    point: CrashPoint


@dataclass(frozen=True)
class Partition:
    """Between `from_ms` and `until_ms` the members of `side` and the others cannot reach each other."""

    from_ms: int
    until_ms: int
    side: frozenset[int]


@dataclass(frozen=True)
class Faults:
    """Times in virtual milliseconds since the start. `latency_ms[a][b]` is the least delay from a to b."""

    heal_ms: int
    latency_ms: tuple[tuple[int, ...], ...]
    jitter_ms: int
    loss_percent: int
    duplicate_percent: int
    skew_ms: tuple[int, ...]
    partitions: tuple[Partition, ...]
    crashes: tuple[Crash, ...]
    liar: int | None
    lie: Lie


def draw_faults(random: Random, validators: int, run_ms: int) -> Faults:
    """The faults of one run of `run_ms`, by at most one lying member and any number of crashes."""
    heal_ms = run_ms - max(HEALTHY_AT_LEAST_MS, run_ms * HEALTHY_SHARE_PERCENT // 100)
    slowest = random.choice((2, 10, 50))
    latency = tuple(tuple(random.randint(1, slowest) for _ in range(validators)) for _ in range(validators))
    lossy, doubling, skewed = (random.random() < 0.5 for _ in range(3))
    lie = random.choice(tuple(Lie)) if validators >= 4 else Lie.NONE
    return Faults(
        heal_ms=heal_ms,
        latency_ms=latency,
        jitter_ms=random.choice((0, 5, 30)),
        loss_percent=random.randint(1, 10) if lossy else 0,
        duplicate_percent=random.randint(1, 20) if doubling else 0,
        skew_ms=tuple(random.randint(-SKEW_MS, SKEW_MS) if skewed else 0 for _ in range(validators)),
        partitions=_draw_partitions(random, validators, heal_ms),
        crashes=_draw_crashes(random, validators, heal_ms),
        liar=random.randrange(validators) if lie is not Lie.NONE else None,
        lie=lie,
    )


def _draw_partitions(random: Random, validators: int, heal_ms: int) -> tuple[Partition, ...]:
    partitions = []
    for _ in range(random.choice((0, 0, 1, 2))):
        start = random.randrange(heal_ms)
        side = frozenset(random.sample(range(validators), random.randint(1, validators - 1))) if validators > 1 else ()
        partitions.append(Partition(start, random.randint(start, heal_ms), frozenset(side)))
    return tuple(partitions)


def _draw_crashes(random: Random, validators: int, heal_ms: int) -> tuple[Crash, ...]:
    crashes = []
    for _ in range(random.choice((0, 1, 2, 4))):
        at_ms = random.randrange(heal_ms)
        down_ms = random.randint(1, max(1, heal_ms - at_ms))
        crashes.append(Crash(random.randrange(validators), at_ms, down_ms, random.choice(tuple(CrashPoint))))
    return tuple(sorted(crashes, key=lambda crash: (crash.at_ms, crash.member)))
