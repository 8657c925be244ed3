"""Draws hostile DAGs: valid block by block, and as close to the edges of the commit rule as chance and intent can get.

Random parents alone seldom build what a wrong rule trips over, so intent is mixed in:

- *moods*: a level's blocks take all parents they know, or hardly more than a quorum of them;
- *victims*: leaders, or those who vote for them, whose blocks many of the next level leave out;
- *plots*: over three levels, about a quorum votes for a leader and a chosen few certify it;
- *isolation*: members of less than a third of the weight whose blocks nobody else takes up for some levels;
- *sleepers*, whose unseen block comes back when it is stale; silence; and up to three blocks an author and level.

Weights and committee sizes vary. Only members of less than a third of the weight write more than one block a level.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from random import Random

from blockcloud.simulation.dag_builder import BlockName, DagBuilder
from blockcloud.transaction_chain.leaders import LeaderSchedule

# How the blocks of a level choose parents: all they may; a few more than the quorum; hardly more than the quorum.
CALM, ROUGH, STORM = "calm", "rough", "storm"
MOODS = (CALM, CALM, ROUGH, STORM)
# Parents beyond the quorum, in tenths of the committee.
_SPARE = {CALM: (10,), ROUGH: (0, 2, 10, 10), STORM: (0, 0, 2)}
_FORKS = (1, 2, 2, 3)
_LAST_FORK = 2


@dataclass
class _Plot:
    """Against one leader slot: who votes for it one level up, who certifies it two levels up, and, where there is to be
    a sequel, which member three levels up sees no certificate."""

    level: int
    leader: int
    voters: list[int]
    certifiers: list[int]
    blind: int | None = None


@dataclass
class _Isolation:
    """Members whose blocks of the levels `first` to `last` no other member's block takes as parents."""

    members: list[int] = field(default_factory=list)
    first: int = 1
    last: int = 0


class DagDrawing:
    """Grows a DAG level by level in `builder`."""

    def __init__(self, random: Random, builder: DagBuilder, schedule: LeaderSchedule) -> None:
        self._random = random
        self._builder = builder
        self._committee = builder.committee
        self._authors = list(builder.authors)
        self._schedule = schedule
        self._faulty = self._draw_minority()
        self._silence = random.choice((0, 0, 10, 30))
        self._sleeper = random.choice(self._authors) if random.randrange(4) == 0 else None
        self._plotting = random.randrange(2) == 0
        self._plot: _Plot | None = None
        self._sequel = 0
        self._isolation = _Isolation()
        self._unanimous = False
        # The newest blocks of each author: what its next block may name as its own previous one.
        self._newest = {author: [BlockName(0, author)] for author in self._authors}

    def grow(self, levels: int) -> None:
        """Draw the levels 1 to `levels`."""
        after_climax = False
        for level in range(1, levels + 1):
            self._plan_ahead(level, levels)
            climax = self._plot is not None and level == self._plot.level + 2
            self._unanimous = after_climax or self._random.randrange(2) == 0
            after_climax = climax
            mood = self._random.choice(MOODS)
            victims = {} if mood == CALM else self._draw_victims(level - 1)
            if self._plot is not None:
                mood, victims = CALM, {}
            if self._sleeper is not None and level == 2:
                victims[self._sleeper] = 100
            grown: dict[int, list[BlockName]] = {}
            for author in self._present(asleep=1 < level < levels - 2):
                forks = 1 if author not in self._faulty else 3 if climax else self._random.choice(_FORKS)
                grown[author] = [BlockName(level, author, fork) for fork in range(forks)]
                for name in grown[author]:
                    self._builder.add(name, self._parents(name, victims, mood))
            self._newest.update(grown)

    def _draw_minority(self, wanted: Sequence[int] = ()) -> list[int]:
        """Authors of less than a third of the weight: of `wanted` as many as fit, else a random number of anyone."""
        minority: list[int] = []
        for author in wanted or self._random.sample(self._authors, len(self._authors)):
            if self._may_miss([*minority, author]):
                minority.append(author)
        return minority if wanted else minority[: self._random.randint(0, len(minority))]

    def _plan_ahead(self, level: int, levels: int) -> None:
        """Begin or end plots and isolations; `level` is drawn next.

        A sequel is a plot against the first slot that may be the anchor of the plot before, and that sees none of its
        certificates: while the anchor is open, so must the slot be that the plot before was against.
        """
        plot = self._plot
        if plot is not None and level > plot.level + (2 if plot.blind is None else 3):
            self._plot = None
        if level == self._sequel:
            self._plot = self._draw_plot(level - 1, self._schedule.leaders(level - 1)[0])
        elif self._may_plot(level, levels):
            self._plot = plot = self._draw_plot(level - 1, self._random.choice(self._schedule.leaders(level - 1)))
            if level + 5 <= levels and self._random.randrange(3) == 0:
                self._sequel = level + 3
                plot.blind = self._schedule.leaders(level + 2)[0]
                plot.certifiers = [author for author in plot.certifiers if author != plot.blind][:1]
            elif self._random.randrange(3) > 0:
                last = min(levels, level + self._random.randint(1, 4))
                honest = [author for author in plot.certifiers if author not in self._faulty]
                self._isolation = _Isolation(self._draw_minority(honest), level + 1, last)

    def _may_plot(self, level: int, levels: int) -> bool:
        if not self._plotting or self._plot is not None or level < self._sequel:
            return False
        return 1 < level <= levels - 3 and self._random.randrange(2) == 0

    def _draw_plot(self, level: int, leader: int) -> _Plot:
        order = self._random.sample(self._authors, len(self._authors))
        quorum = sum(1 for _ in self._until_quorum(order))
        voters = order[: quorum + self._random.choice((-1, 0, 0, 0, 1))]
        few = self._random.choice((1, len(order) - quorum + 1, quorum - 1, quorum, quorum + 1))
        order = self._random.sample(self._authors, len(self._authors))
        liars_first = sorted(order, key=lambda author: author not in self._faulty)
        return _Plot(level, leader, voters, liars_first[:few])

    def _until_quorum(self, order: Iterable[int]) -> Iterable[int]:
        """As many of `order` as it takes to a quorum."""
        weight = 0
        for author in order:
            if weight >= self._committee.quorum:
                return
            weight += self._committee.weights[author]
            yield author

    def _present(self, asleep: bool) -> list[int]:
        """Who writes at this level: a quorum at least, else the DAG would end here."""
        silent: list[int] = []
        if asleep and self._sleeper is not None and self._may_miss([self._sleeper]):
            silent.append(self._sleeper)
        for author in self._random.sample(self._authors, len(self._authors)) if self._silence else []:
            tired = self._random.randrange(100) < self._silence
            if tired and author not in silent and self._may_miss([*silent, author]):
                silent.append(author)
        return [author for author in self._authors if author not in silent]

    def _may_miss(self, authors: Sequence[int]) -> bool:
        return self._committee.total - self._committee.weight_of(authors) >= self._committee.quorum

    def _draw_victims(self, level: int) -> dict[int, int]:
        """Authors whose blocks of `level` are hidden from the next level, and from how many in a hundred of it.

        Leaders, for the blocks that would vote for them; or voters for a leader of the level before, for the blocks
        that would certify it; or anyone.
        """
        kind = self._random.randrange(4)
        if level == 0 or kind == 0:
            return {}
        candidates = self._authors
        if kind == 1:
            candidates = list(self._schedule.leaders(level))
        elif kind == 2 and level > 1:
            leader = BlockName(level - 1, self._random.choice(self._schedule.leaders(level - 1)))
            plan = self._builder.plan
            candidates = [author for author in candidates if leader in plan.get(BlockName(level, author), ())]
        return {author: self._random.choice((25, 50, 75, 100)) for author in candidates if self._random.randrange(2)}

    def _is_hidden(self, name: BlockName, parent: BlockName, victims: dict[int, int], omitted: int | None) -> bool:
        """Whether the author of `name` behaves as if it did not know `parent`, another author's newest block."""
        plot = self._plot
        if parent.author == omitted:
            return True
        if plot is not None and name.author == plot.blind and name.level == plot.level + 3:
            return parent.author in plot.certifiers
        isolation = self._isolation
        is_inside = isolation.first <= parent.level <= isolation.last and parent.author in isolation.members
        if is_inside and name.author not in isolation.members:
            return True
        return parent.author in victims and self._random.randrange(100) < victims[parent.author]

    def _omitted(self, name: BlockName) -> int | None:
        """Whom the plot makes the author of `name` leave out: the leader, or one of its voters."""
        plot = self._plot
        if plot is None:
            return None
        if name.level == plot.level + 1:
            return None if name.author in plot.voters else plot.leader
        if name.level == plot.level + 2 and (name.author not in plot.certifiers or name.fork == _LAST_FORK):
            return self._random.choice(plot.voters)
        return None

    def _parents(self, name: BlockName, victims: dict[int, int], mood: str) -> list[BlockName]:
        """A valid parent list: own previous first, one for each author, a quorum of the level before."""
        chosen = [self._one_of(self._newest[name.author])]
        omitted = self._omitted(name)
        late: list[BlockName] = []
        hidden: list[BlockName] = []
        shown: list[BlockName] = []
        for other in self._random.sample(self._authors, len(self._authors)):
            if other == name.author:
                continue
            parent = self._one_of(self._newest[other])
            if parent.level < name.level - 1:
                late.append(parent)
            elif self._is_hidden(name, parent, victims, omitted):
                hidden.append(parent)
            else:
                shown.append(parent)
        spare = self._random.choice(_SPARE[mood]) * len(self._authors) // 10
        for parent in (*shown, *hidden):
            if self._weight(chosen, name.level - 1) >= self._committee.quorum:
                if spare == 0 or parent in hidden:
                    break
                spare -= 1
            chosen.append(parent)
        return chosen + [parent for parent in late if parent.level > 0 and self._random.randrange(3) == 0]

    def _one_of(self, names: list[BlockName]) -> BlockName:
        """One of an author's blocks of a level; at some levels all members know the last one only."""
        if len(names) == 1 or self._unanimous:
            return names[-1]
        return self._random.choice(names)

    def _weight(self, names: Sequence[BlockName], level: int) -> int:
        return self._committee.weight_of(name.author for name in names if name.level == level)


def draw_view(random: Random, builder: DagBuilder) -> tuple[BlockName, ...]:
    """A random subset of the DAG closed under parents, in a random order in which parents come first."""
    highest = max(name.level for name in builder.plan)
    cut = random.randint(min(3, highest), highest)
    keep = random.choice((30, 60, 90, 100))
    newest = [name for name in builder.plan if cut - 1 <= name.level <= cut]
    tips = [name for name in newest if keep == 100 or random.randrange(100) < keep]
    if random.randrange(2):
        unseen = random.sample(list(builder.authors), (len(builder.committee) - 1) // 3)
        tips = [name for name in tips if name.author not in unseen]
    return in_some_order(random, builder, closure(builder, tips))


def closure(builder: DagBuilder, tips: Iterable[BlockName]) -> frozenset[BlockName]:
    """`tips` and all their ancestors above the genesis."""
    reached: set[BlockName] = set()
    waiting = list(tips)
    while waiting:
        name = waiting.pop()
        if name.level > 0 and name not in reached:
            reached.add(name)
            waiting.extend(builder.plan[name])
    return frozenset(reached)


def in_some_order(random: Random, builder: DagBuilder, names: frozenset[BlockName]) -> tuple[BlockName, ...]:
    """`names` in a random order in which parents come first. One draw only: orders need no shrinking."""
    shuffler = Random(random.getrandbits(32))
    waiting = sorted(names)
    order: list[BlockName] = []
    placed: set[BlockName] = set()
    while waiting:
        index = shuffler.randrange(min(len(waiting), 2 * len(builder.committee)))
        name = waiting[index]
        if all(parent.level == 0 or parent in placed for parent in builder.plan[name]):
            order.append(name)
            placed.add(name)
            del waiting[index]
    return tuple(order)
