"""What the ledger of a simulated run must keep to, beside what the judge asks of any machine.

- *supply*: at each checkpoint, balances, stakes, earnings of the era, the pot of fees and what was burned add up to
  what was issued;
- *acknowledged*: a receipt that any client was told is at every honest node at the end, the same;
- *beacon*: it changes with each era, is drawn from the reveals of the era before, and goes on without those who keep
  theirs back;
- *forfeit*: who owed a reveal and gave none loses what the rules say, and no honest node is ever punished for a lie.

Who holds money is known from outside: the accounts and candidates of the genesis, and who comes to it in a run.
"""

from __future__ import annotations

from typing import TypeVar

from blockcloud.primitives import codec
from blockcloud.primitives.hashes import tagged_hash
from blockcloud.primitives.limits import STATE_VALUE_BYTES
from blockcloud.service_chain.machine import ServiceChain
from blockcloud.service_chain.records import Candidate, EraTally, Reveals
from blockcloud.service_chain.staking import reveal_number, with_onion_of
from blockcloud.service_chain.state_keys import REVEALS_KEY, TALLY_KEY
from blockcloud.simulation.dag_builder import simulated_key
from blockcloud.simulation.faults import Lie
from blockcloud.simulation.judge import SafetyBroken
from blockcloud.simulation.ledger import CLIENTS, Clients, Ledger, client_key
from blockcloud.simulation.options import Options
from blockcloud.transaction_chain.commit import Commit
from blockcloud.transaction_chain.era import EraPlan
from blockcloud.transaction_chain.machine import Result

R = TypeVar("R")


class Audit:
    """Raises SafetyBroken at once. Looks at each height when the first honest node has executed it: the judge sees to
    it that all others have the same."""

    def __init__(self, options: Options, clients: Clients) -> None:
        self._options, self._clients = options, clients
        self._nodes = [simulated_key(node).public for node in range(options.nodes)]
        self._people = [*self._nodes, *(client_key(number).public for number in range(CLIENTS + 1))]
        self._height = 0
        # Transaction id -> (height, code) of its receipt.
        self.acknowledged: dict[bytes, tuple[int, str]] = {}
        self.reveals = 0
        self.forfeits = 0

    def committed(self, chain: Ledger, commit: Commit, result: Result) -> None:
        """An honest node has executed a commit, and stored what came of it."""
        if commit.height <= self._height:
            return
        self._height = commit.height
        for identifier, _ in result.outcomes:
            receipt = chain.receipt(identifier)
            if receipt is not None and receipt.height == commit.height:
                self.acknowledged[identifier] = (receipt.height, receipt.code)
                self._clients.told(identifier)
        if result.state_root is not None:
            self._check_supply(chain)
        if result.next_era is not None:
            self._check_era_end(chain, result.next_era)

    def at_the_end(self, member: int, chain: Ledger) -> None:
        """Every receipt that anybody was told is here too."""
        for identifier, (height, code) in self.acknowledged.items():
            receipt = chain.receipt(identifier)
            if height <= chain.height and (receipt is None or (receipt.height, receipt.code) != (height, code)):
                raise SafetyBroken("an acknowledged transaction is lost", member=member, height=height, code=code)

    def _check_supply(self, chain: Ledger) -> None:
        fees, total = chain.fees, 0
        for key in self._people:
            account = chain.account(key)
            total += account.balance if account is not None else 0
        for key in self._nodes:
            candidate = chain.candidate(key)
            total += candidate.at_stake if candidate is not None else 0
        total += sum(_read(chain, TALLY_KEY, EraTally).earned) + fees.era_pot + fees.burned
        if total != fees.supply:
            raise SafetyBroken("money came or went", height=chain.height, supply=fees.supply, found=total)

    def _check_era_end(self, chain: Ledger, following: EraPlan) -> None:
        plan = chain.plan_of(following.era - 1)
        assert plan is not None, "plans are never removed"
        before = chain.height - 1
        values = _read(chain, REVEALS_KEY, Reveals, before).values
        drawn = tagged_hash("beacon-next/v1", codec.encode((plan.beacon, plan.era, sorted(values))))
        if following.beacon != drawn or following.beacon == plan.beacon:
            raise SafetyBroken("a beacon is not drawn from the reveals", era=following.era)
        earned = _read(chain, TALLY_KEY, EraTally, before).earned
        gave = 0
        for seat, reward in zip(plan.seats, earned, strict=True):
            member = self._nodes.index(seat.node_key)
            was, now = (chain.candidate(seat.node_key, height) for height in (before, chain.height))
            assert was is not None, "who has a seat has a bond"
            assert now is not None, "nobody withdraws here"
            gave += self._check_member(member, plan.era, reward, was, now)
        if gave != len(values):
            raise SafetyBroken("a reveal counts that no member gave", era=plan.era, reveals=len(values), members=gave)
        for member in self._options.honest:
            candidate = chain.candidate(self._nodes[member])
            if candidate is not None and candidate.offences:
                raise SafetyBroken("an honest node was punished for a lie", member=member, era=plan.era)
        self.reveals += gave

    def _check_member(self, member: int, era: int, reward: int, was: Candidate, now: Candidate) -> bool:
        """Whether a member has revealed; if it owed it and did not, it has lost at least twice what it had earned
        before the era's last commit, or all."""
        owed = reveal_number(was, era)
        revealed = owed > 0 and with_onion_of(was, era).onion_reveals == owed
        keeps_back = Lie.ONION in self._options.liars.get(member, frozenset())
        if revealed and keeps_back:
            raise SafetyBroken("who keeps its onion back has revealed", member=member, era=era)
        if owed and not revealed:
            due = min(was.at_stake, reward * self._options.staking.forfeit_era_rewards)
            if now.at_stake > was.at_stake - due:
                raise SafetyBroken("a reveal is owed and nothing is forfeit", member=member, era=era, due=due)
            self.forfeits += due > 0
        return revealed


def _read(chain: ServiceChain, key: bytes, shape: type[R], height: int | None = None) -> R:
    value = chain.get(key, height)
    assert value is not None, "the genesis writes it"
    return codec.decode(value, shape, limit=STATE_VALUE_BYTES)
