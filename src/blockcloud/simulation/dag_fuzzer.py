"""Adversarial DAGs for the commit rule, and the oracle that judges what it makes of them.

A network simulator rarely reaches the narrow DAGs on which a wrong commit rule shows; drawing the DAG itself does. Each
block here takes a random set of parents that just makes, or exceeds, the quorum; chosen victims are left out as far as
the rules allow; members of less than a third of the weight write two blocks a level; members fall silent. All that a
validator checks in a block holds. Then several *views* (random subsets closed under parents, each in its own insertion
order) are decided by the production code. Whatever two views decide must agree, however they got there.

`draw_scenario` takes any `random.Random`, so hypothesis can supply one that shrinks. From the shell:
`python -m blockcloud.simulation.dag_fuzzer --seed 7 --count 500` tries the seeds 7, 8, ... and stops at a violation.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from random import Random

from blockcloud.primitives.errors import BlockCloudError
from blockcloud.simulation.commit_model import COMMIT, SKIP, UNDECIDED, CommitModel, Outcome
from blockcloud.simulation.dag_builder import BEACON, GENESIS, BlockName, DagBuilder, show_plan
from blockcloud.transaction_chain.block import Block, BlockReference
from blockcloud.transaction_chain.committer import Committer, Decision, SlotStatus
from blockcloud.transaction_chain.dag import Dag
from blockcloud.transaction_chain.leaders import LeaderSchedule
from blockcloud.transaction_chain.linearizer import linearise

MEMBERS = (4, 7, 10)
LEADER_SLOTS = (1, 2, 3)
LEVELS_AT_MOST = {4: 14, 7: 11, 10: 9}
VIEWS_AT_MOST = 4
GC_DEPTH_LEVELS = 7

# How the blocks of a level choose parents: all they may; a few more than the quorum; hardly more than the quorum.
CALM, ROUGH, STORM = "calm", "rough", "storm"
MOODS = (CALM, CALM, ROUGH, STORM)
# Parents beyond the quorum, in tenths of the committee.
_SPARE = {CALM: (10,), ROUGH: (0, 2, 10, 10), STORM: (0, 0, 2)}

_STATUS = {SlotStatus.COMMIT: COMMIT, SlotStatus.SKIP: SKIP, SlotStatus.UNDECIDED: UNDECIDED}


class Violation(BlockCloudError):
    """The production code broke a property that it must have on every DAG."""

    code = "violation"


@dataclass(frozen=True)
class Scenario:
    """A DAG, the leaders to decide, and the views to compare. The last view is the whole DAG."""

    leader_slots: int
    builder: DagBuilder
    views: tuple[tuple[BlockName, ...], ...]

    @property
    def schedule(self) -> LeaderSchedule:
        """Whom the scenario's levels have as leaders."""
        return LeaderSchedule(self.builder.committee, self.leader_slots, BEACON)

    def describe(self, names: Iterable[BlockName] | None = None) -> str:
        """The DAG, or these blocks of it, in the text form, with what else is needed to read it."""
        shown = self.builder.show(names)
        highest = max((name.level for name in self.builder.plan), default=0)
        leaders = " ".join(
            "".join(chr(ord("A") + author) for author in self.schedule.leaders(level))
            for level in range(1, highest + 1)
        )
        weights = ",".join(map(str, self.builder.committee.weights))
        return f"# weights {weights}; quorum {self.builder.committee.quorum}; leaders by level: {leaders}\n{shown}"


# ---- drawing


def draw_scenario(
    random: Random, *, members: int | None = None, leader_slots: int | None = None, levels: int | None = None
) -> Scenario:
    """A scenario in which members of less than a third of the weight misbehave. What is not given is drawn."""
    count = members or random.choice(MEMBERS)
    slots = leader_slots or random.choice(LEADER_SLOTS)
    weights = tuple(random.randint(1, 3) for _ in range(count)) if random.randrange(4) == 0 else (1,) * count
    builder = DagBuilder(count, weights=weights)
    schedule = LeaderSchedule(builder.committee, slots, BEACON)
    _Drawer(random, builder, schedule).grow(levels or random.randint(4, LEVELS_AT_MOST.get(count, 8)))
    views = [draw_view(random, builder) for _ in range(random.randint(1, VIEWS_AT_MOST - 1))]
    views.append(_in_some_order(random, builder, frozenset(builder.plan)))
    return Scenario(slots, builder, tuple(views))


class _Drawer:
    """Grows a DAG level by level in `builder`."""

    def __init__(self, random: Random, builder: DagBuilder, schedule: LeaderSchedule) -> None:
        self._random = random
        self._builder = builder
        self._committee = builder.committee
        self._schedule = schedule
        self._faulty = self._draw_faulty()
        self._silence = random.choice((0, 0, 10, 30))
        self._sleeper = random.choice(list(builder.authors)) if random.randrange(4) == 0 else None
        # The newest blocks of each author: what its next block may name as its own previous one.
        self._newest = {author: [BlockName(0, author)] for author in builder.authors}

    def _draw_faulty(self) -> tuple[int, ...]:
        """Authors of less than a third of the weight, so that the rest make a quorum."""
        faulty: list[int] = []
        for author in self._random.sample(list(self._builder.authors), len(self._committee)):
            if self._committee.total - self._committee.weight_of([*faulty, author]) >= self._committee.quorum:
                faulty.append(author)
        return tuple(sorted(faulty[: self._random.randint(0, len(faulty))]))

    def grow(self, levels: int) -> None:
        """Levels 1 to `levels`. A sleeper writes a block that nobody sees, and comes back with it when it is stale."""
        for level in range(1, levels + 1):
            mood = self._random.choice(MOODS)
            victims = {} if mood == CALM else self._draw_victims(level - 1)
            if self._sleeper is not None and level == 2:
                victims[self._sleeper] = 100
            grown: dict[int, list[BlockName]] = {}
            for author in self._present(asleep=1 < level < levels - 2):
                forks = 2 if author in self._faulty and self._random.randrange(3) > 0 else 1
                grown[author] = [BlockName(level, author, fork) for fork in range(forks)]
                for name in grown[author]:
                    self._builder.add(name, self._parents(level, author, victims, mood))
            self._newest.update(grown)

    def _present(self, asleep: bool) -> list[int]:
        """Who writes at this level: a quorum at least, else the DAG would end here."""
        order = self._random.sample(list(self._builder.authors), len(self._committee)) if self._silence else []
        alone = self._sleeper is not None and self._committee.total - self._committee.weight_of([self._sleeper])
        silent = [self._sleeper] if asleep and self._sleeper is not None and alone >= self._committee.quorum else []
        for author in order:
            left = self._committee.total - self._committee.weight_of([*silent, author])
            if author not in silent and left >= self._committee.quorum and self._random.randrange(100) < self._silence:
                silent.append(author)
        return [author for author in self._builder.authors if author not in silent]

    def _draw_victims(self, level: int) -> dict[int, int]:
        """Authors whose blocks of `level` are hidden from the next level, and from how many in a hundred of it.

        Leaders, for the blocks that would vote for them; or voters for a leader of the level before, for the blocks
        that would certify it; or anyone.
        """
        kind = self._random.randrange(4)
        if level == 0 or kind == 0:
            return {}
        candidates = list(self._builder.authors)
        if kind == 1:
            candidates = list(self._schedule.leaders(level))
        elif kind == 2 and level > 1:
            leader = BlockName(level - 1, self._random.choice(self._schedule.leaders(level - 1)))
            candidates = [author for author in candidates if leader in self._builder.plan.get(BlockName(level, author), ())]
        return {author: self._random.choice((25, 50, 75, 100)) for author in candidates if self._random.randrange(2)}

    def _parents(self, level: int, author: int, victims: dict[int, int], mood: str) -> list[BlockName]:
        """A valid parent list: own previous first, one for each author, a quorum of the level before."""
        own = self._random.choice(self._newest[author]) if len(self._newest[author]) > 1 else self._newest[author][0]
        chosen = [own]
        late: list[BlockName] = []
        hidden: list[BlockName] = []
        shown: list[BlockName] = []
        for other in self._random.sample(list(self._builder.authors), len(self._committee)):
            if other == author:
                continue
            newest = self._newest[other]
            name = newest[0] if len(newest) == 1 else self._random.choice(newest)
            if name.level < level - 1:
                late.append(name)
            elif other in victims and self._random.randrange(100) < victims[other]:
                hidden.append(name)
            else:
                shown.append(name)
        spare = self._random.choice(_SPARE[mood]) * len(self._committee) // 10
        for name in (*shown, *hidden):
            if self._weight(chosen, level - 1) >= self._committee.quorum:
                if spare == 0 or name in hidden:
                    break
                spare -= 1
            chosen.append(name)
        return chosen + [name for name in late if name.level > 0 and self._random.randrange(3) == 0]

    def _weight(self, names: Sequence[BlockName], level: int) -> int:
        return self._committee.weight_of(name.author for name in names if name.level == level)


def draw_view(random: Random, builder: DagBuilder) -> tuple[BlockName, ...]:
    """A random subset of the DAG closed under parents, in a random order in which parents come first."""
    highest = max(name.level for name in builder.plan)
    cut = random.randint(min(3, highest), highest)
    keep = random.choice((30, 60, 90))
    tips = [name for name in builder.plan if cut - 1 <= name.level <= cut and random.randrange(100) < keep]
    return _in_some_order(random, builder, closure(builder, tips))


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


def _in_some_order(random: Random, builder: DagBuilder, names: frozenset[BlockName]) -> tuple[BlockName, ...]:
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


# ---- judging


def check(scenario: Scenario) -> int:
    """Raise Violation unless every property holds. Returns the number of slots that the whole DAG decides.

    That every view's decisions begin the whole DAG's implies that any two views agree.
    """
    schedule = scenario.schedule
    committer = Committer(scenario.builder.committee, schedule)
    histories: list[list[Outcome]] = []
    outputs: list[list[tuple[BlockReference, ...]]] = []
    for view in scenario.views:
        at_once = committer.decide(scenario.builder.dag(view), 0)
        history = outcomes_of(at_once, scenario)
        _check_whole_levels(scenario, schedule, history, 0)
        _check_agreement(scenario, history, outcomes_of(_step_by_step(scenario, committer, view), scenario), "steps")
        histories.append(history)
        outputs.append(_output(scenario, view, at_once))
    for history, output, view in zip(histories, outputs, scenario.views, strict=True):
        _check_prefix(scenario, history, histories[-1], view)
        shared = min(len(output), len(outputs[-1]))
        if output[:shared] != outputs[-1][:shared]:
            raise _violation(scenario, "two views linearise different blocks", view)
    return len(histories[-1])


def check_model(scenario: Scenario) -> None:
    """Raise Violation unless production decides and outputs exactly what the model of the rule does."""
    schedule = scenario.schedule
    committer = Committer(scenario.builder.committee, schedule)
    for view in scenario.views:
        blocks = [scenario.builder.blocks[name] for name in view]
        model = CommitModel(scenario.builder.committee, schedule.leaders, blocks)
        decisions = committer.decide(scenario.builder.dag(view), 0)
        _check_agreement(scenario, model.decided(), outcomes_of(decisions, scenario), "the model")
        output = _output(scenario, view, decisions)
        expected = model.commits(GC_DEPTH_LEVELS)
        if [frozenset(references) for references in output] != [new for _, _, new in expected]:
            raise _violation(scenario, "a commit has other blocks than the model's", view)


def outcomes_of(decisions: Iterable[Decision], scenario: Scenario | None = None) -> list[Outcome]:
    """Decisions in the form that is compared: slot, author, status and the digest of the block."""
    outcomes = []
    for decision in decisions:
        status = _STATUS[decision.status]
        if (status == COMMIT) != (decision.block is not None):
            raise Violation(f"{decision.status} with block {decision.block}")
        digest = decision.block.reference.digest if decision.block else b""
        if decision.block and (decision.block.level, decision.block.author) != (decision.level, decision.author):
            raise Violation("a slot is decided with another slot's block", level=decision.level, slot=decision.slot)
        outcomes.append(Outcome(decision.level, decision.slot, decision.author, status, digest))
    return outcomes


def _step_by_step(scenario: Scenario, committer: Committer, view: tuple[BlockName, ...]) -> list[Decision]:
    """Decide again and again while the blocks arrive; each answer must be final."""
    dag = Dag(scenario.builder.committee, GENESIS)
    decisions: list[Decision] = []
    step = 1 + len(view) % 5
    for index, name in enumerate(view, start=1):
        dag.add(scenario.builder.blocks[name])
        if index % step == 0 or index == len(view):
            last = decisions[-1].level if decisions else 0
            newly = committer.decide(dag, last)
            _check_whole_levels(scenario, scenario.schedule, outcomes_of(newly), last)
            if committer.decide(dag, last) != newly:
                raise _violation(scenario, "deciding twice differs", view)
            decisions.extend(newly)
    return decisions


def _output(
    scenario: Scenario, view: tuple[BlockName, ...], decisions: list[Decision]
) -> list[tuple[BlockReference, ...]]:
    """The blocks of each commit in order. Memory is collected after each, as a node's is."""
    dag = scenario.builder.dag(view)
    done: set[BlockReference] = set()
    output: list[tuple[BlockReference, ...]] = []
    gc_level = 0
    for level in sorted({decision.level for decision in decisions}):
        leaders: list[Block] = [d.block for d in decisions if d.level == level and d.block is not None]
        if not leaders:
            continue
        blocks = linearise(dag, leaders, done, gc_level, BEACON)
        references = tuple(block.reference for block in blocks)
        _check_commit(scenario, view, leaders, references, done)
        done.update(references)
        output.append(references)
        gc_level = max(0, level - GC_DEPTH_LEVELS)
        dag.collect(gc_level)
    return output


def _check_commit(
    scenario: Scenario,
    view: tuple[BlockName, ...],
    leaders: list[Block],
    references: tuple[BlockReference, ...],
    done: set[BlockReference],
) -> None:
    if len(set(references)) != len(references) or any(reference in done for reference in references):
        raise _violation(scenario, "a block is output twice", view)
    placed = {reference: index for index, reference in enumerate(references)}
    if any(leader.reference not in placed and leader.reference not in done for leader in leaders):
        raise _violation(scenario, "a committed leader is not output", view)
    levels = [reference.level for reference in references]
    if levels != sorted(levels):
        raise _violation(scenario, "a commit is not ordered by level", view)


def _check_whole_levels(scenario: Scenario, schedule: LeaderSchedule, history: list[Outcome], last: int) -> None:
    """Decisions come level after level from `last` + 1, every slot of each in order, and none is undecided."""
    highest = history[-1].level if history else last
    expected = [
        (level, slot, author)
        for level in range(last + 1, highest + 1)
        for slot, author in enumerate(schedule.leaders(level))
    ]
    if [(outcome.level, outcome.slot, outcome.author) for outcome in history] != expected:
        raise _violation(scenario, "decisions are not whole levels in order")
    if any(outcome.status == UNDECIDED for outcome in history):
        raise _violation(scenario, "an undecided slot is output as decided")


def _check_agreement(scenario: Scenario, one: list[Outcome], other: list[Outcome], what: str) -> None:
    if one != other:
        raise _violation(scenario, f"decided at once: {_text(one)}; by {what}: {_text(other)}")


def _check_prefix(
    scenario: Scenario, history: list[Outcome], whole: list[Outcome], view: tuple[BlockName, ...]
) -> None:
    """What a part of the DAG decides, the whole decides in the same way."""
    if history != whole[: len(history)]:
        raise _violation(scenario, f"a view decides {_text(history)}; the whole DAG {_text(whole)}", view)


def _text(history: list[Outcome]) -> str:
    return ", ".join(map(str, history)) or "nothing"


def _violation(scenario: Scenario, what: str, view: Iterable[BlockName] | None = None) -> Violation:
    seen = "" if view is None else f"\nthe view:\n{show_plan({name: scenario.builder.plan[name] for name in view})}"
    return Violation(f"{what}\nthe DAG:\n{scenario.describe()}{seen}")


# ---- from the shell


def main(arguments: Sequence[str] | None = None) -> int:
    """Check seeds one after another; 1 and a report on standard output at the first violation."""
    parser = argparse.ArgumentParser(prog="python -m blockcloud.simulation.dag_fuzzer", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="the first seed")
    parser.add_argument("--count", type=int, default=100, help="number of seeds to try")
    parser.add_argument("--model", action="store_true", help="also compare with the slow model of the rule")
    options = parser.parse_args(arguments)
    slots = 0
    for seed in range(options.seed, options.seed + options.count):
        scenario = draw_scenario(Random(seed))
        try:
            slots += check(scenario)
            if options.model:
                check_model(scenario)
        except Violation as violation:
            again = f"python -m blockcloud.simulation.dag_fuzzer --seed {seed} --count 1 --model"
            sys.stdout.write(f"seed {seed}: {violation}\nagain: {again}\n")
            return 1
    sys.stdout.write(f"{options.count} DAGs, {slots} decided slots, no violation\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
