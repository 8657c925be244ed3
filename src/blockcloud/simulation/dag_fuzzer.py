"""Adversarial DAGs for the commit rule, and the oracle that judges what it makes of them.

A network simulator rarely reaches the narrow DAGs on which a wrong commit rule shows; drawing the DAG itself does
(`dag_drawing`). All that a validator checks in a block holds. Then several *views* (random subsets closed under
parents, each in its own insertion order) are decided by the production code. Whatever two views decide must agree,
however they got there.

`draw_scenario` takes any `random.Random`, so hypothesis can supply one that shrinks. From the shell:
`python -m blockcloud.simulation.dag_fuzzer --seed 7 --count 500` tries the seeds 7, 8, ... and stops at a violation.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from random import Random

from blockcloud.primitives.errors import BlockCloudError, PeerFault
from blockcloud.simulation.commit_model import COMMIT, SKIP, UNDECIDED, CommitModel, Outcome
from blockcloud.simulation.core_checks import WrongCommits, check_core
from blockcloud.simulation.dag_builder import BEACON, CHAIN_ID, GENESIS, BlockName, DagBuilder, show_plan, simulated_key
from blockcloud.simulation.dag_drawing import DagDrawing, draw_view, in_some_order
from blockcloud.simulation.invalid_blocks import invalid_versions
from blockcloud.transaction_chain.block import Block, BlockReference, parse_block, verify_block_signature
from blockcloud.transaction_chain.committer import Committer, Decision, SlotStatus
from blockcloud.transaction_chain.dag import Dag
from blockcloud.transaction_chain.leaders import LeaderSchedule
from blockcloud.transaction_chain.linearizer import linearise

MEMBERS = (4, 7, 10)
LEADER_SLOTS = (1, 2, 3)
LEVELS_AT_MOST = {4: 14, 7: 11, 10: 9}
VIEWS_AT_MOST = 4
GC_DEPTH_LEVELS = 7

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
    DagDrawing(random, builder, schedule).grow(levels or random.randint(4, LEVELS_AT_MOST.get(count, 8)))
    views = [draw_view(random, builder) for _ in range(random.randint(1, VIEWS_AT_MOST - 1))]
    views.append(in_some_order(random, builder, frozenset(builder.plan)))
    return Scenario(slots, builder, tuple(views))


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
    """Raise Violation unless committer, linearizer and core decide and output exactly what the model does."""
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
    blocks_of_views = [[scenario.builder.blocks[name] for name in view] for view in scenario.views]
    try:
        check_core(scenario.builder, scenario.leader_slots, GC_DEPTH_LEVELS, blocks_of_views)
    except WrongCommits as wrong:
        raise _violation(scenario, f"the core: {wrong}") from None


def check_validity(scenario: Scenario, random: Random) -> None:
    """Raise Violation unless every block passes the validator's checks and every invalid version of one fails them."""
    builder = scenario.builder
    for block in builder.blocks.values():
        parse_block(block.raw, CHAIN_ID, 0, builder.committee, GENESIS)
    block = builder.blocks[random.choice(sorted(builder.plan))]
    for rule, raw in invalid_versions(block, builder.committee, simulated_key(block.author)):
        try:
            parsed = parse_block(raw, CHAIN_ID, 0, builder.committee, GENESIS)
            verify_block_signature(parsed, builder.committee)
        except PeerFault:
            continue
        raise _violation(scenario, f"a block is accepted that is invalid: {rule}")


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
        random = Random(seed)
        scenario = draw_scenario(random)
        try:
            slots += check(scenario)
            check_validity(scenario, random)
            if options.model:
                check_model(scenario)
        except (AssertionError, BlockCloudError, LookupError) as violation:
            again = f"python -m blockcloud.simulation.dag_fuzzer --seed {seed} --count 1 --model"
            where = "" if isinstance(violation, Violation) else f"\n{scenario.describe()}"
            sys.stdout.write(f"seed {seed}: {type(violation).__name__}: {violation}{where}\nagain: {again}\n")
            return 1
    sys.stdout.write(f"{options.count} DAGs, {slots} decided slots, no violation\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
