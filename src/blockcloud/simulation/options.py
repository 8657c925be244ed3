"""The swarm options of one run: everything that is drawn from the seed before the first event.

Committee size, weights, leader slots, collection depth, checkpoint period, era length, service machine, candidates
from outside, load, who lies and how, and the faults.
What a caller gives is not drawn, but the draw still happens, so the other options of a seed stay what they were.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from blockcloud.primitives.certificates import quorum_weight
from blockcloud.primitives.errors import BadConfiguration
from blockcloud.service_chain.genesis import Genesis, StakingParameters
from blockcloud.simulation.faults import Faults, Lie, draw_faults, draw_latency
from blockcloud.simulation.ledger import ONION_LAYERS, make_genesis
from blockcloud.transaction_chain.parameters import Parameters

MEMBERS_AT_LEAST, MEMBERS_AT_MOST = 4, 10
LEADER_SLOTS_AT_MOST = 3
SECONDS_AT_LEAST, SECONDS_AT_MOST = 4, 3_600
LEVELS_AT_LEAST, LEVELS_AT_MOST = 10, 100_000
LEVELS = 100
# Time after healing in which every honest member must pass what the foremost had reached, and gain
# `PROGRESS_COMMITS`: the longest retry of the core (3 s for a lost chunk of levels), then some levels at idle pace.
LIVENESS_MS = 6_000
PROGRESS_COMMITS = 5
# Time in which a payload that an honest member accepts is committed everywhere.
COMMIT_WITHIN_MS = 2_500
# Both bounds hold where honest members lead. A level that a liar leads and whose block it withholds takes the leader
# timeout, and is decided only by a later one that is committed; so with liars both are longer by twice the leader
# weight of all over that of the honest.
LIARS_FACTOR = 2
# In a run of given seconds: the end that is without faults.
HEALTHY_SHARE_PERCENT = 40
HEALTHY_AT_LEAST_MS = 3_500
# In a run of given levels: the share of them that the faulty phase takes if it goes at full speed.
FAULTY_SHARE_PERCENT = 60
FAULTY_AT_LEAST_MS = 1_000
# An era in commits: with the ledger it must be long enough for a candidate to get ready in time.
ERA_AT_LEAST, LEDGER_ERA_AT_LEAST, ERA_AT_MOST = 8, 20, 40
NO_BOUNDARY = 10**6
# In a run of given seconds an era of so many commits ends after healing too; else one of as many as the run has levels.
ERA_IN_SIGHT = 40
OUTSIDERS_AT_MOST = 2
DEFAULT_STAKING = StakingParameters()
# A healthy level takes at most so long: idle pace, leader timeout, two slow messages.
SLOWEST_LEVEL_MS = 1_000


class Load:
    """How often clients hand in a payload, to every member (busy) or to one. `BURSTS` alternates with nothing."""

    BUSY, STEADY, BURSTS, IDLE = "busy", "steady", "bursts", "idle"


LOAD_INTERVAL_MS = {Load.BUSY: 40, Load.STEADY: 100, Load.BURSTS: 40, Load.IDLE: 1_500}
BURST_MS = 1_000


@dataclass(frozen=True)
class Length:
    """How long a run goes on: for so many virtual seconds, or until every honest member is at a level."""

    seconds: int | None = None
    levels: int | None = None

    @classmethod
    def of(cls, seconds: int | None, levels: int | None) -> Length:
        """What a person asked for, or 100 levels. Raises BadConfiguration."""
        if seconds is not None and levels is not None:
            raise BadConfiguration("a run is as long as its seconds or its levels say, not both")
        if seconds is not None and not SECONDS_AT_LEAST <= seconds <= SECONDS_AT_MOST:
            raise BadConfiguration("a run takes 4 to 3,600 seconds", seconds=seconds)
        if levels is not None and not LEVELS_AT_LEAST <= levels <= LEVELS_AT_MOST:
            raise BadConfiguration("a run has 10 to 100,000 levels", levels=levels)
        return cls(seconds, levels) if seconds is not None or levels is not None else cls(levels=LEVELS)


@dataclass(frozen=True)
class Options:
    """`liars` are members with how they lie; their weight is below a third. `outsiders` are candidates beside the first
    committee; with `ledger` the production service machine runs, else a hash. A run ends when it has taken `least_ms`,
    every honest node is at level `levels` and all is well; at `run_ms` it ends whatever is."""

    weights: tuple[int, ...]
    resource_weights: tuple[int, ...]
    parameters: Parameters
    load: str
    liars: dict[int, frozenset[Lie]]
    faults: Faults
    least_ms: int = 0
    levels: int = 0
    ledger: bool = False
    outsiders: int = 0
    staking: StakingParameters = DEFAULT_STAKING

    @property
    def members(self) -> int:
        """Size of the first committee."""
        return len(self.weights)

    @property
    def nodes(self) -> int:
        """The members of the first committee and the candidates beside it."""
        return self.members + self.outsiders

    @property
    def genesis(self) -> Genesis:
        """The genesis of the chain."""
        return make_genesis(self.weights, self.resource_weights, self.nodes, self.parameters, self.staking)

    @property
    def era_commits_after_healing(self) -> int:
        """Commits in which an era must end after healing; 0 where eras are long."""
        length = self.parameters.era_length
        return length if length <= (self.levels or ERA_IN_SIGHT) else 0

    @property
    def honest(self) -> list[int]:
        """The nodes that follow the rules, crashes or not."""
        return [member for member in range(self.nodes) if member not in self.liars]

    @property
    def liveness_ms(self) -> int:
        """How long after healing every honest member must be going on again."""
        return self._with_liars(LIVENESS_MS)

    @property
    def commit_within_ms(self) -> int:
        """How long it may take until what was accepted is committed everywhere, nothing else being wrong."""
        return self._with_liars(COMMIT_WITHIN_MS)

    @property
    def run_ms(self) -> int:
        """When the run ends at the latest."""
        levels = self.levels + self.era_commits_after_healing
        healthy_ms = self.liveness_ms + self.commit_within_ms + self._with_liars(levels * SLOWEST_LEVEL_MS)
        return max(self.least_ms, self.faults.heal_ms + healthy_ms)

    def _with_liars(self, bound_ms: int) -> int:
        if not self.liars:
            return bound_ms
        honest = sum(self.resource_weights[member] for member in self.honest if member < self.members)
        return LIARS_FACTOR * bound_ms * sum(self.resource_weights) // honest


def draw_options(random: Random, members: int | None, length: Length) -> Options:
    """The options of one run."""
    drawn = random.randint(MEMBERS_AT_LEAST, MEMBERS_AT_MOST)
    count = members if members is not None else drawn
    weights, resource_weights = _draw_weights(random, count), _draw_weights(random, count)
    slowest_ms = random.choice((2, 10, 50))
    load = random.choice((Load.BUSY, Load.STEADY, Load.STEADY, Load.BURSTS, Load.IDLE))
    ledger = random.random() < 0.4
    outsiders = random.randint(0, OUTSIDERS_AT_MOST) if ledger else 0
    era_length = _draw_era_length(random, ledger=ledger)
    parameters = Parameters(
        leader_slots=random.randint(1, min(LEADER_SLOTS_AT_MOST, count)),
        gc_depth_levels=random.choice((8, 16, 64)),
        checkpoint_period=random.choice((5, 10)),
        leader_table_period=min(random.choice((6, 15, 40)), era_length - 1),
        era_length=era_length,
    )
    heal_ms, least_ms = _times(length, parameters, slowest_ms, idle=load == Load.IDLE)
    liars = draw_liars(random, weights)
    if ledger:
        # It disturbs nobody's consensus, so it goes with any other lie.
        liars = {liar: lies | {Lie.ONION} if random.random() < 0.5 else lies for liar, lies in liars.items()}
    honest = [node for node in range(count + outsiders) if node not in liars]
    return Options(
        weights=weights,
        resource_weights=resource_weights,
        parameters=parameters,
        load=load,
        liars=liars,
        faults=draw_faults(random, draw_latency(random, count + outsiders, slowest_ms), heal_ms, honest),
        least_ms=least_ms,
        levels=length.levels or 0,
        ledger=ledger,
        outsiders=outsiders,
        staking=_draw_staking(random, count + outsiders),
    )


def _draw_era_length(random: Random, *, ledger: bool) -> int:
    """No boundary in a fifth of the runs; else short eras, the shortest most often."""
    shortest = LEDGER_ERA_AT_LEAST if ledger else ERA_AT_LEAST
    drawn = min(random.randint(shortest, ERA_AT_MOST) for _ in range(2))
    return NO_BOUNDARY if random.random() < 0.2 else drawn


def _draw_staking(random: Random, nodes: int) -> StakingParameters:
    """When candidates freeze and onions are revealed, and whether there are seats for all."""
    freeze, first, last = random.choice(((40, 40, 80), (50, 55, 90)))
    return StakingParameters(
        committee_size=random.choice((nodes, nodes, max(MEMBERS_AT_LEAST, nodes - 1))),
        freeze_percent=freeze,
        beacon_from_percent=first,
        beacon_to_percent=last,
        onion_length=ONION_LAYERS,
    )


def draw_liars(random: Random, weights: tuple[int, ...]) -> dict[int, frozenset[Lie]]:
    """In two of three runs: members of less than a third of the weight, all drawing from the same few lies."""
    quorum = quorum_weight(sum(weights))
    lies = random.sample(tuple(Lie), random.randint(1, 3))
    if random.random() < 1 / 3:
        return {}
    left = sum(weights) - quorum
    liars: dict[int, frozenset[Lie]] = {}
    for member in random.sample(range(len(weights)), len(weights)):
        if weights[member] <= left and (not liars or random.random() < 0.7):
            left -= weights[member]
            liars[member] = frozenset(random.sample(lies, random.randint(1, len(lies))))
    return dict(sorted(liars.items()))


def _draw_weights(random: Random, members: int) -> tuple[int, ...]:
    """Equal in half of the runs; else uneven, or a few heavy ones among light ones."""
    kind = random.choice(("equal", "equal", "uneven", "heavy"))
    drawn = [random.randint(1, 5) for _ in range(members)]
    if kind == "equal":
        return (1,) * members
    return tuple(drawn) if kind == "uneven" else tuple(10 if weight == 5 else 1 for weight in drawn)


def _times(length: Length, parameters: Parameters, slowest_ms: int, *, idle: bool) -> tuple[int, int]:
    """(when everything heals, how long the run takes at the least)."""
    if length.levels is None:
        least_ms = 1_000 * (length.seconds or SECONDS_AT_LEAST)
        return least_ms - max(HEALTHY_AT_LEAST_MS, least_ms * HEALTHY_SHARE_PERCENT // 100), least_ms
    level_ms = parameters.pacing_idle_ms if idle else parameters.pacing_busy_ms + slowest_ms
    return max(FAULTY_AT_LEAST_MS, length.levels * FAULTY_SHARE_PERCENT * level_ms // 100), 0
