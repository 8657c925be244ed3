"""The rules of eras once more, slow and obvious: what the ledger must do, told without looking at how it does it.

Whole histories are kept and searched; nothing is pruned, indexed or accumulated, and every amount is a fraction until
it is paid.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from fractions import Fraction

from blockcloud.primitives.amounts import GENESIS_SUPPLY_MICRO_BLOC
from blockcloud.primitives.certificates import CHECKPOINT
from blockcloud.service_chain.operations import (
    Bond,
    Operation,
    Ready,
    ReportChallenges,
    ReportConflict,
    ReportEquivocation,
    Reveal,
    StakeResources,
    Unbond,
    Unjail,
    Withdraw,
    header_of,
)
from tests.service_chain.era_world import BOND as FIRST_BOND
from tests.service_chain.era_world import ERA_LENGTH, MEMBERS, MINIMUM, NODES, ONION_LAYERS, STAKING, onion
from tests.service_chain.round_model import EQUAL, Rounds

SIX_YEARS_MS = 6 * 365 * 24 * 3_600_000
TIPS = {onion(node, generation).tip: (node, generation) for node in range(len(NODES)) for generation in range(40)}


@dataclass
class Person:
    """A candidate."""

    bond: int
    unbonding: list[tuple[int, int]] = field(default_factory=list)
    named: dict[int, bytes] = field(default_factory=dict)  # era -> consensus key
    onions: list[tuple[int, tuple[int, int]]] = field(default_factory=list)  # (first era, which onion)
    revealed: dict[int, bytes] = field(default_factory=dict)
    jailed_era: int | None = None
    offences: int = 0

    @property
    def stake(self) -> int:
        return self.bond + sum(amount for _, amount in self.unbonding)

    def onion_in(self, era: int) -> tuple[int, tuple[int, int]] | None:
        started = [entry for entry in self.onions if entry[0] <= era]
        return started[-1] if started else None

    def lose(self, amount: int) -> int:
        """One micro-BLOC after the other would be the obvious way; this is the same a little faster."""
        lost = min(self.bond, amount)
        self.bond -= lost
        while self.unbonding and lost < amount:
            era, held = self.unbonding.pop(0)
            part = min(held, amount - lost)
            lost += part
            if part < held:
                self.unbonding.insert(0, (era, held - part))
        return lost


@dataclass
class EraOfModel:
    number: int
    first: int
    seats: list[tuple[bytes, bytes, int]]  # node key, consensus key, bond
    frozen: dict[bytes, tuple[bytes, int]] = field(default_factory=dict)
    reveals: list[bytes] = field(default_factory=list)
    levels: set[tuple[int, int]] = field(default_factory=set)
    earned: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    end_ms: int = 0
    weights: list[int] = field(default_factory=lambda: [EQUAL] * MEMBERS)  # of the seats, for leaders and shares
    short: set[bytes] = field(default_factory=set)  # whose seat weighs more than the bond and was unbonded in part


class Model:
    """A ledger of candidates."""

    def __init__(self, genesis_time_ms: int, unbonding_ms: int = 1, report_ms: int = 0) -> None:
        self.genesis_time_ms, self.unbonding_ms = genesis_time_ms, unbonding_ms
        self.now_ms = genesis_time_ms
        self.people = {node.public: Person(FIRST_BOND) for node in NODES[:MEMBERS]}
        for number, node in enumerate(NODES[:MEMBERS]):
            self.people[node.public].named[0] = node.public
            self.people[node.public].onions.append((0, (number, 0)))
        self.eras = [EraOfModel(0, 1, [(n.public, n.public, FIRST_BOND) for n in NODES[:MEMBERS]])]
        self.balances: dict[bytes, int] = defaultdict(int)
        self.used_keys = {node.public for node in NODES[:MEMBERS]}
        self.offences: set[tuple[object, ...]] = set()
        self.issued = self.pot = self.burned = 0
        self.height = 0
        self.rounds = Rounds(report_ms)
        self.beacon = b""  # of the present era

    @property
    def era(self) -> EraOfModel:
        return self.eras[-1]

    def is_over(self, era: int) -> bool:
        """Both the eras and the time have passed."""
        return self.era.number >= era + 3 and self.now_ms >= self.eras[era].end_ms + self.unbonding_ms

    def begin_commit(self, time_ms: int) -> None:
        self.height += 1
        self.now_ms = time_ms
        if self.height == self.era.first + ERA_LENGTH * 30 // 100:
            for key, person in self.people.items():
                named = person.named.get(self.era.number + 1)
                if named and person.jailed_era is None and person.bond >= MINIMUM:
                    self.era.frozen[key] = (named, person.bond)
        members = [key for key, _, _ in self.era.seats]
        self.rounds.begin_commit(
            self.height, time_ms, self.era.number, self.era.first, self.beacon, members, list(self.era.frozen)
        )

    def apply(self, sender: bytes, operation: Operation, fee: int) -> str:
        """The code of a transaction with one operation."""
        self.balances[sender] -= fee
        self.pot += fee // 2
        self.burned += fee - fee // 2
        rule = getattr(self, "_" + type(operation).__name__.lower())
        code: str = rule(sender, operation)
        return code

    def end_commit(self, leaders: list[int], blocks: list[tuple[int, int]], time_ms: int) -> bool:
        """Whether the era is over. `blocks` are (author, level)."""
        elapsed = min(max(time_ms - self.genesis_time_ms, 0), SIX_YEARS_MS)
        due = int(Fraction(GENESIS_SUPPLY_MICRO_BLOC * 3 * elapsed, 10 * SIX_YEARS_MS)) - self.issued
        self.issued += due
        for place, leader in enumerate(leaders):
            self.era.earned[leader] += due // len(leaders) + (due % len(leaders) if place == 0 else 0)
        self.era.levels |= set(blocks)
        if self.height < self.era.first + ERA_LENGTH - 1:
            return False
        self._end_era()
        return True

    def _end_era(self) -> None:
        era, pot = self.era, self.pot
        counts = [sum(1 for author, _ in era.levels if author == number) for number in range(len(era.seats))]
        parts = [count * weight for count, weight in zip(counts, era.weights, strict=True)]
        for number, (key, _, _) in enumerate(era.seats):
            share = int(Fraction(pot * parts[number], sum(parts))) if sum(parts) else 0
            self.pot -= share
            reward = share + era.earned[number]
            self.balances[key] += reward
            person = self.people.get(key)
            if person is None:
                continue
            if person.onion_in(era.number) and era.number not in person.revealed:
                self.burned += person.lose(2 * reward)
            if key in self.rounds.silent:
                self.burned += person.lose(reward)
            if Fraction(counts[number], ERA_LENGTH) < Fraction(1, 10) and person.jailed_era is None:
                person.jailed_era = era.number
        era.end_ms = self.now_ms
        seats = self._choose()
        short = {
            key
            for key, _, weight in seats
            if (person := self.people.get(key)) and weight > person.bond and person.unbonding
        }
        weights = self.rounds.weights([key for key, _, _ in seats])
        self.eras.append(EraOfModel(era.number + 1, self.height + 1, seats, weights=weights, short=short))
        self.rounds.silent = set()

    def _choose(self) -> list[tuple[bytes, bytes, int]]:
        ready = []
        for key, (named, bond) in self.era.frozen.items():
            person = self.people.get(key)
            if person and person.jailed_era is None and min(bond, person.bond) >= MINIMUM:
                ready.append((key, named, min(bond, person.bond)))
        present = self.era.seats
        if len(ready) >= min(4, len(present)):
            return sorted(ready, key=lambda seat: (-seat[2], seat[0]))[: STAKING.committee_size]
        honest = [
            seat
            for seat in present
            if not ((person := self.people.get(seat[0])) and person.jailed_era is not None and person.offences)
        ]
        return honest if len(honest) >= min(4, len(present)) else present

    # One method for each operation; the code is "ok" or why not.

    def _bond(self, sender: bytes, operation: Bond) -> str:
        person = self.people.get(sender) or Person(0)
        if person.bond + operation.amount < MINIMUM:
            return "bond_below_minimum"
        if self.balances[sender] < operation.amount:
            return "insufficient_balance"
        self.balances[sender] -= operation.amount
        person.bond += operation.amount
        self.people[sender] = person
        if operation.onion_tip:
            era = self.era.number
            tip = TIPS[operation.onion_tip]
            now = person.onion_in(era)
            coming = [entry for entry in person.onions if entry[0] > era]
            unrevealed = now is not None and not any(now[0] <= e for e in person.revealed)
            known = [entry[1] for entry in coming] + ([now[1]] if now is not None and unrevealed else [])
            if tip not in known:
                person.onions = [entry for entry in person.onions if entry[0] <= era] + [(era + 2, tip)]
        return "ok"

    def _unbond(self, sender: bytes, operation: Unbond) -> str:
        person = self.people.get(sender)
        if person is None:
            return "not_a_candidate"
        left = person.bond - operation.amount
        if left < 0:
            return "insufficient_bond"
        if 0 < left < MINIMUM:
            return "bond_below_minimum"
        release = self.era.number + 3
        if len({era for era, _ in person.unbonding if era != release}) >= 8:
            return "too_many_unbondings"
        person.bond = left
        together = sum(amount for era, amount in person.unbonding if era == release) + operation.amount
        person.unbonding = [entry for entry in person.unbonding if entry[0] != release] + [(release, together)]
        return "ok"

    def _withdraw(self, sender: bytes, operation: Withdraw) -> str:
        person = self.people.get(sender)
        if person is None:
            return "not_a_candidate"
        due = [entry for entry in person.unbonding if self.is_over(entry[0] - 3)]
        amount = sum(part for _, part in due)
        if amount == 0:
            return "nothing_to_withdraw"
        if any(sender in era.short and not self.is_over(era.number) for era in self.eras):
            return "stake_needed"
        self.balances[sender] += amount
        person.unbonding = [entry for entry in person.unbonding if entry not in due]
        if person.stake == 0 and person.offences == 0:
            del self.people[sender]
            self.rounds.stakes.pop(sender, None)
        return "ok"

    def _ready(self, sender: bytes, operation: Ready) -> str:
        person = self.people.get(sender)
        if person is None:
            return "not_a_candidate"
        if operation.era != self.era.number + 1:
            return "not_the_next_era"
        if self.height >= self.era.first + ERA_LENGTH * 30 // 100:
            return "candidates_frozen"
        if person.jailed_era is not None:
            return "jailed"
        if person.bond < MINIMUM:
            return "bond_below_minimum"
        if operation.era in person.named:
            return "ready_already"
        if operation.consensus_key in self.used_keys or operation.consensus_key in self.people:
            return "consensus_key_used"
        self.used_keys.add(operation.consensus_key)
        person.named[operation.era] = operation.consensus_key
        return "ok"

    def _reveal(self, sender: bytes, operation: Reveal) -> str:
        era = self.era
        if sender not in [key for key, _, _ in era.seats]:
            return "not_a_member"
        if not era.first + ERA_LENGTH * 40 // 100 <= self.height < era.first + ERA_LENGTH * 70 // 100:
            return "outside_beacon_window"
        person = self.people.get(sender)
        if person is None:
            return "not_a_candidate"
        now = person.onion_in(era.number)
        if now is None:
            return "no_onion"
        if era.number in person.revealed:
            return "revealed_already"
        number = era.number - now[0] + 1
        if number > ONION_LAYERS:
            return "onion_too_deep"
        if operation.value != onion(*now[1]).reveal(number):
            return "wrong_reveal"
        person.revealed[era.number] = operation.value
        era.reveals.append(operation.value)
        return "ok"

    def _unjail(self, sender: bytes, operation: Unjail) -> str:
        person = self.people.get(sender)
        if person is None:
            return "not_a_candidate"
        if person.jailed_era is None:
            return "not_jailed"
        if person.jailed_era == self.era.number:
            return "jailed_in_this_era"
        person.jailed_era = None
        return "ok"

    def _stakeresources(self, sender: bytes, operation: StakeResources) -> str:
        return self.rounds.stake(sender, operation) if sender in self.people else "not_a_candidate"

    def _reportchallenges(self, sender: bytes, operation: ReportChallenges) -> str:
        return self.rounds.report(sender, operation, self.height)

    def _reportequivocation(self, sender: bytes, operation: ReportEquivocation) -> str:
        header = header_of(operation.first)
        if header.era > self.era.number or self.is_over(header.era):
            return "evidence_outdated"
        seats = self.eras[header.era].seats
        if header.author >= len(seats) or seats[header.author][1] != operation.first.signer:
            return "not_of_the_accused"
        return self._punish(sender, seats[header.author][0], ("level", header.era, header.level))

    def _reportconflict(self, sender: bytes, operation: ReportConflict) -> str:
        said = operation.first.statement
        if said.era > self.era.number or self.is_over(said.era):
            return "evidence_outdated"
        for key, consensus_key, _ in self.eras[said.era].seats:
            if consensus_key == operation.first.signer:
                return self._punish(
                    sender, key, (said.kind, said.era, said.height if said.kind == CHECKPOINT else None)
                )
        return "not_of_the_accused"

    def _punish(self, reporter: bytes, accused: bytes, offence: tuple[object, ...]) -> str:
        if (accused, offence) in self.offences:
            return "offence_known"
        person = self.people.get(accused)
        if person is None or person.stake == 0:
            return "nothing_to_slash"
        self.offences.add((accused, offence))
        slashed = person.lose(person.stake if person.offences else max(1, person.stake // 20))
        person.offences += 1
        person.jailed_era = self.era.number
        self.balances[reporter] += slashed // 20
        self.burned += slashed - slashed // 20
        return "ok"
