"""Random histories of several short eras against the slow model: who sits, who has what, and no micro-BLOC is lost."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from msgspec.structs import replace

from blockcloud.primitives import codec
from blockcloud.primitives.certificates import CHECKPOINT, HANDOVER
from blockcloud.service_chain.eras import next_beacon
from blockcloud.service_chain.operations import (
    Bond,
    Operation,
    Ready,
    ReportChallenges,
    Reveal,
    StakeResources,
    Unbond,
    Unjail,
    Withdraw,
)
from blockcloud.service_chain.records import SilentChallengers
from blockcloud.service_chain.resources import open_round, reported
from blockcloud.service_chain.state_keys import SILENT_CHALLENGERS_KEY
from blockcloud.service_chain.transaction import parse_transaction
from blockcloud.transaction_chain.cloudpos.stake import RESOURCE_LIMIT
from blockcloud.transaction_chain.cloudpos.verdicts import Report, Verdicts
from tests.service_chain.era_model import Model
from tests.service_chain.era_world import (
    API,
    BOND,
    BY_NODE_KEY,
    LINK,
    MINIMUM,
    NODES,
    ONION_LAYERS,
    STAKING,
    EraLedger,
    conflict,
    equivocation,
    era_genesis,
    era_key_of,
    onion,
)
from tests.service_chain.resource_rounds import CHALLENGES, LATE, PASSED, PLACE, Amounts, claim

nodes = st.integers(0, len(NODES) - 1)
amounts = st.sampled_from([1, MINIMUM - 1, MINIMUM, MINIMUM + 1, BOND, BOND + MINIMUM, 10 * BOND])
# Milliseconds between commits: what they issue is nothing, much less than a bond, or much more.
pauses = st.sampled_from([0, 0, 0, 1, 1, 3_600_000])
# Places in an era before which something changes: start, freeze, both ends of the beacon window (the second also the
# start of the tests), settlement, the last commit.
places = st.sampled_from([0, 5, 6, 8, 13, 14, 17, 19])
amounts_staked = st.tuples(*[st.sampled_from([0, 0, 1, 7, 1_000, RESOURCE_LIMIT])] * 3)
verdicts = st.tuples(*[st.sampled_from([PASSED, PASSED, PASSED, LATE])] * 3)


class Eras(RuleBasedStateMachine):
    """Transactions wait until `commit` executes them."""

    @initialize(
        onions=st.booleans(),
        unbonding_ms=st.sampled_from([1, 1, 3_600_000, 10_000_000]),
        report_ms=st.sampled_from([0, 0, 1, 3_600_000]),
    )
    def begin(self, onions: bool, unbonding_ms: int, report_ms: int) -> None:
        genesis = era_genesis(replace(STAKING, unbonding_ms=unbonding_ms), onions=onions)
        self.ledger = EraLedger(replace(genesis, challenges=replace(CHALLENGES, report_ms=report_ms)))
        self.model = Model(self.ledger.genesis.time_ms, unbonding_ms, report_ms)
        for person in self.model.people.values():
            person.onions = person.onions if onions else []
        for node in NODES:
            self.model.balances[node.public] = self._balance(node.public)
        self.waiting: list[tuple[int, Operation]] = []
        self.now_ms = self.ledger.record.time_ms
        self.generations: dict[int, int] = {}

    @rule(
        some=st.sets(nodes, min_size=2), amount=st.sampled_from([MINIMUM, MINIMUM + 1, BOND, BOND]), add=st.booleans()
    )
    def a_good_start(self, some: set[int], amount: int, add: bool) -> None:
        """Many are ready from the first commit of an era on, newcomers among them."""
        self._to(0)
        self.waiting += [(node, Unjail()) for node in range(len(NODES)) if self._is_jailed(node)]
        self.waiting += [
            (node, Bond(amount, LINK, API, onion(node, self.generations.get(node, 0)).tip))
            for node in sorted(some)
            if add or NODES[node].public not in self.model.people
        ]
        era = self.model.era.number + 1
        self.waiting += [(node, Ready(era, era_key_of(node, era).public)) for node in sorted(some)]
        self._commit(set(), [0])

    @rule(node=nodes, amount=amounts, new_onion=st.booleans())
    def bond(self, node: int, amount: int, new_onion: bool) -> None:
        if new_onion:
            self.generations[node] = min(39, self.generations.get(node, 0) + 1)
        generation = self.generations.get(node, 0)
        tip = onion(node, generation).tip if new_onion else b""
        self.waiting.append((node, Bond(amount, LINK, API, tip)))

    @rule(node=nodes, amount=amounts, everything=st.booleans())
    def unbond(self, node: int, amount: int, everything: bool) -> None:
        person = self.model.people.get(NODES[node].public)
        if everything and person is not None and person.bond:
            amount = person.bond
        self.waiting.append((node, Unbond(amount)))

    @rule(node=nodes, eras=st.integers(0, 4), pause=pauses)
    def withdraw(self, node: int, eras: int, pause: int) -> None:
        """Some eras later, and some time."""
        for _ in range(eras):
            self.now_ms += pause
            self._to(19)
            self._to(0)
        self.waiting.append((node, Withdraw()))

    @rule(node=nodes)
    def unjail(self, node: int) -> None:
        self.waiting.append((node, Unjail()))

    @rule(some=st.sets(nodes, min_size=1))
    def ready(self, some: set[int]) -> None:
        era = self.model.era.number + 1
        self.waiting += [(node, Ready(era, era_key_of(node, era).public)) for node in sorted(some)]

    @rule(node=nodes, other=nodes, ahead=st.integers(0, 2), number=st.integers(0, 1))
    def ready_with_another_key(self, node: int, other: int, ahead: int, number: int) -> None:
        era = self.model.era.number
        self.waiting.append((node, Ready(era + ahead, era_key_of(other, era + number).public)))

    @rule(some=st.sets(nodes, min_size=1), wrong=st.sampled_from([0, 0, 0, 1, -1]))
    def reveal(self, some: set[int], wrong: int) -> None:
        era = self.model.era.number
        if self._offset() < 8:
            self._to(8)
        for node in sorted(some):
            person = self.model.people.get(NODES[node].public)
            now = person.onion_in(era) if person else None
            first, which = now or (era, (node, 0))
            layer = min(max(era - first + 1 + wrong, 1), ONION_LAYERS)
            self.waiting.append((node, Reveal(onion(*which).reveal(layer))))

    @rule(
        reporter=nodes,
        back=st.sampled_from([0, 0, 1, 2, 3, 4]),
        author=st.sampled_from([0, 0, 1, 1, 2, 3, 4]),
        place=st.integers(1, 2),
        kind=st.integers(0, 3),
    )
    def evidence(self, reporter: int, back: int, author: int, place: int, kind: int) -> None:
        era = max(0, self.model.era.number - back)
        seats = self.model.eras[era].seats
        key = NODES[6] if author >= len(seats) else self._consensus_key(seats[author][1])
        chain_id = self.ledger.chain.chain_id
        operation: Operation
        if kind < 2:
            operation = equivocation(chain_id, era, author, place, key, variant=kind)
        else:
            operation = conflict(chain_id, era, place, key, CHECKPOINT if kind == 2 else HANDOVER)
        self.waiting.append((reporter, operation))

    @rule(node=nodes, amounts=amounts_staked, plot=st.integers(1, 2), address=st.sampled_from([PLACE, ""]))
    def stake(self, node: int, amounts: Amounts, plot: int, address: str) -> None:
        self.waiting.append((node, StakeResources(claim(amounts, plot), address)))

    @rule(
        some=st.sets(nodes, min_size=2),
        amounts=amounts_staked,
        row=verdicts,
        meddlers=st.sets(st.integers(0, 3)),
        other=amounts_staked,
        plot=st.integers(1, 2),
        reports=st.sampled_from([(13,), (13,), (12,), (12, 13), (13, 15)]),
    )
    def a_good_round(
        self,
        some: set[int],
        amounts: Amounts,
        row: Verdicts,
        meddlers: set[int],
        other: Amounts,
        plot: int,
        reports: tuple[int, ...],
    ) -> None:
        """Some put up resources, a few of the first nodes change their claims after the draw, and all who are drawn
        say the same, perhaps too early or twice. Who withdraws, bonds or restarts in between comes by itself."""
        self._to(8)
        self.waiting += [(node, StakeResources(claim(amounts), PLACE)) for node in sorted(some)]
        self._to(10)
        self.waiting += [(node, StakeResources(claim(other, plot), PLACE)) for node in sorted(meddlers)]
        for number, place in enumerate(reports):
            self._to(place)
            said = row if number == 0 else (LATE, LATE, LATE)
            self._report([node for node, key in enumerate(NODES) if self._is_drawn(key.public)], said, 0, 0)
            self._commit(set(), [0])

    @rule(
        some=st.sets(nodes, min_size=1),
        row=verdicts,
        ahead=st.sampled_from([0, 0, 0, 0, 1, -1]),
        more=st.just(0) | st.integers(-1, 1),
    )
    def report(self, some: set[int], row: Verdicts, ahead: int, more: int) -> None:
        self._report(sorted(some), row, ahead, more)

    def _report(self, some: list[int], row: Verdicts, ahead: int, more: int) -> None:
        opened = self.model.rounds.open
        rows = max(0, (len(opened.claims) if opened else 0) + more)
        era = max(0, self.model.era.number + ahead)
        self.waiting += [(node, ReportChallenges(Report(era, 0, (row,) * rows))) for node in some]

    @rule()
    def restart(self) -> None:
        self.ledger.restart()

    @rule(
        count=st.integers(1, 8),
        pause=pauses,
        silent=st.sets(st.integers(0, 3), max_size=2),
        leaders=st.lists(st.integers(0, 3), min_size=1, max_size=3, unique=True),
    )
    def commit(self, count: int, pause: int, silent: set[int], leaders: list[int]) -> None:
        for _ in range(count):
            self.now_ms += pause
            self._commit(silent, leaders)

    @rule(place=places)
    def go_to(self, place: int) -> None:
        self._to(place)

    def _offset(self) -> int:
        """The place in the era of the commit that comes next."""
        return self.model.height + 1 - self.model.era.first

    def _to(self, place: int) -> None:
        """Commits until the next one has this place in its era; what waits goes into the first of them."""
        while self._offset() != place:
            self._commit(set(), [0])

    def _is_jailed(self, node: int) -> bool:
        person = self.model.people.get(NODES[node].public)
        return person is not None and person.jailed_era is not None

    def _is_drawn(self, key: bytes) -> bool:
        opened = self.model.rounds.open
        return opened is not None and key in opened.challengers

    def _commit(self, silent: set[int], leaders: list[int]) -> None:
        ledger, model = self.ledger, self.model
        members = len(model.era.seats)
        authors = [author for author in range(members) if author not in silent] or [0]
        leaders = list(dict.fromkeys(leader % members for leader in leaders))
        sequences: dict[int, int] = {}
        payloads = []
        for node, operation in self.waiting:
            sequences[node] = sequences.get(node, ledger.sequence(NODES[node]) - 1) + 1
            payload = ledger.sign(NODES[node], operation, sequence=sequences[node], fee_limit=2**60)
            ledger.chain.check(payload)
            payloads.append(payload)
        base_fee, level = ledger.chain.base_fee, ledger.height + 2 - model.era.first
        model.beacon = ledger.plan.beacon
        model.begin_commit(self.now_ms)
        expected = [
            model.apply(NODES[node].public, operation, base_fee * parse_transaction(payload).weight)
            for (node, operation), payload in zip(self.waiting, payloads, strict=True)
        ]
        ended = model.end_commit(leaders, [(author, level) for author in authors], self.now_ms)
        result = ledger.execute(tuple(payloads), authors=authors, leaders=leaders, time_ms=self.now_ms)
        assert [code for _, code in result.outcomes] == expected
        assert (result.next_era is not None) == ended
        self.waiting = []
        self._compare(ended)

    def _compare(self, ended: bool) -> None:
        ledger, model = self.ledger, self.model
        self._compare_stakes()
        for node in NODES:
            candidate, person = ledger.chain.candidate(node.public), model.people.get(node.public)
            assert (candidate is None) == (person is None)
            if candidate is not None and person is not None:
                jailed = None if candidate.jailed_era < 0 else candidate.jailed_era
                have = (candidate.bond, list(candidate.unbonding), jailed, candidate.offences)
                assert have == (person.bond, person.unbonding, person.jailed_era, person.offences)
            assert self._balance(node.public) == model.balances[node.public]
        bonded = sorted(key for key, person in model.people.items() if person.bond)
        assert list(ledger.candidate_keys()) == bonded
        fees = ledger.chain.fees
        assert (fees.burned, fees.era_pot) == (model.burned, model.pot)
        assert ledger.money() == fees.supply
        if ended:
            before, plan = ledger.plans[-2], ledger.chain.plan
            seats = [(seat.node_key, seat.consensus_key, seat.bond) for seat in plan.seats]
            assert (plan.era, plan.first_height, seats) == (model.era.number, model.era.first, model.era.seats)
            assert plan.beacon == next_beacon(before.beacon, before.era, model.eras[-2].reveals)
            assert len(plan.committee()) == len(seats)
            assert [seat.resource_weight for seat in plan.seats] == model.era.weights
            assert ledger.results[-1].state_root == ledger.chain.root_at(ledger.height)

    def _compare_stakes(self) -> None:
        ledger, rounds = self.ledger, self.model.rounds
        for node in NODES:
            record, stake = ledger.chain.stake(node.public), rounds.stakes.get(node.public)
            assert (record is None) == (stake is None)
            if record is not None and stake is not None:
                have = (record.claim, record.address, list(record.confirmed.dimensions()))
                assert have == (stake.claim, stake.address, stake.found)
            assert reported(ledger.chain.get, node.public) == (
                rounds.open is not None and node.public in rounds.open.reports
            )
        opened = open_round(ledger.chain.get)
        assert (opened is None) == (rounds.open is None)
        if opened is not None and rounds.open is not None:
            assert (opened.era, opened.challengers) == (rounds.open.era, rounds.open.challengers)
            stakes = zip(opened.candidates, [claimed for claimed, _ in opened.stakes], strict=True)
            assert list(stakes) == list(rounds.open.claims.items())
        silent = ledger.chain.get(SILENT_CHALLENGERS_KEY)
        have_silent = codec.decode(silent, SilentChallengers, limit=2**16).node_keys if silent else ()
        assert set(have_silent) == rounds.silent

    def _balance(self, key: bytes) -> int:
        account = self.ledger.chain.account(key)
        return account.balance if account else 0

    def _consensus_key(self, public: bytes) -> Any:
        if public in BY_NODE_KEY:
            return BY_NODE_KEY[public]
        keys = [era_key_of(node, era) for node in range(len(NODES)) for era in range(1, len(self.model.eras) + 2)]
        return next(key for key in keys if key.public == public)


TestEras = pytest.mark.timeout(300)(Eras.TestCase)
TestEras.settings = settings(
    max_examples=25, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
