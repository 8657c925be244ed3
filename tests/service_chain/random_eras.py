"""Random histories with everything in them: those of `random_history`, in a chain whose eras end every twenty commits.

Candidates bond, get ready, reveal, stake resources, report each other and lie; members are silent, time stands still or
runs. What is drawn looks at the state, so that much of it is allowed; some of it is drawn blindly and is not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from random import Random
from types import MappingProxyType
from typing import Final

from msgspec.structs import replace

from blockcloud.primitives.certificates import CHECKPOINT, HANDOVER
from blockcloud.primitives.hash_onion import HashOnion
from blockcloud.primitives.hashes import tagged_hash
from blockcloud.primitives.keys import SigningKey
from blockcloud.primitives.storage import Batch, Store
from blockcloud.service_chain.genesis import Genesis
from blockcloud.service_chain.operations import (
    AnnounceEndpoint,
    Bond,
    Operation,
    Ready,
    ReportChallenges,
    Reveal,
    StakeResources,
    Transfer,
    Unbond,
    Unjail,
    Withdraw,
)
from blockcloud.service_chain.resources import open_round
from blockcloud.service_chain.staking import reveal_number
from blockcloud.transaction_chain.cloudpos.stake import RESOURCE_LIMIT
from blockcloud.transaction_chain.cloudpos.verdicts import Report
from blockcloud.transaction_chain.commit import Commit
from blockcloud.transaction_chain.machine import Result
from tests.service_chain.era_world import (
    API,
    BOND,
    LINK,
    MINIMUM,
    NODES,
    ONION_LAYERS,
    STAKING,
    EraLedger,
    conflict,
    equivocation,
    era_genesis,
    onion,
)
from tests.service_chain.ledger_in_memory import AGREEMENTS, NAMING, PROOF_OF_SERVICE, RICH, USERS
from tests.service_chain.random_history import BY_KEY, LABEL, NAMES, PEOPLE, RandomHistory
from tests.service_chain.resource_rounds import CHALLENGES, LATE, PASSED, PLACE, SILENT, claim

# Places in an era (of twenty commits) at which something can be done: get ready, reveal, report.
READY, REVEAL, REPORT = range(6), range(8, 14), range(13, 17)
TRANSACTIONS_MAX: Final = 64  # of one commit
CONTRACTS: Final = 3  # that are called again and again: of the oldest, and of the newest
POOR: Final = RICH // 10
# Names live for some eras, so that services are verified.
LONGER_LIVES: Final = replace(NAMING, lifetime=90)
STAKED: Final = [0, 0, 1, 7, 1_000, RESOURCE_LIMIT]
BONDS: Final = [1, MINIMUM - 1, MINIMUM, MINIMUM + 1, BOND, BOND + MINIMUM]


def history_genesis() -> Genesis:
    """Members with onions, tests of resources, unbonding that takes an hour, and agreements that take a second."""
    eras = era_genesis(replace(STAKING, unbonding_ms=3_600_000), onions=True)
    return replace(
        eras, naming=LONGER_LIVES, challenges=CHALLENGES, agreements=AGREEMENTS, proof_of_service=PROOF_OF_SERVICE
    )


class HistoryLedger(EraLedger):
    """Says of each commit what became of it, and keeps nothing of it."""

    def __init__(
        self, store: Store | None = None, applied: Callable[[Commit, Result, Batch], None] | None = None
    ) -> None:
        super().__init__(history_genesis(), store)
        self._applied = applied

    def _apply(self, commit: Commit) -> Result:
        batch = Batch()
        result = self.chain.execute(commit, batch)
        self.store.write(batch, sync=False)
        if self._applied is not None:
            self._applied(commit, result, batch)
        return result


class EraHistory(RandomHistory):
    """As RandomHistory, with eras, in larger commits, and more often well-made."""

    people = (*PEOPLE, *NODES)
    keys: Mapping[bytes, SigningKey] = MappingProxyType({**BY_KEY, **{node.public: node for node in NODES}})
    labels = tuple(f"{LABEL}{number}" for number in range(40))
    care = 8

    def __init__(self, ledger: HistoryLedger, source: Random) -> None:
        super().__init__(ledger, source)
        self._eras = ledger
        self._consensus = {node.public: node for node in NODES}  # by public key; in era 0 those are the node keys
        self._onions: dict[bytes, HashOnion] = {}  # by each of their layers
        for number in range(len(NODES)):
            self._remember(onion(number))
        self._now_ms = ledger.record.time_ms

    def step(self) -> None:
        """Execute one commit; a rich user helps out those who ran dry."""
        choose, ledger = self.source.choice, self._eras
        self.under_way.clear()
        payloads = [self.transaction() for _ in range(self.source.randrange(TRANSACTIONS_MAX))]
        payloads += self._alms()
        self.sent = (self.sent + payloads)[-TRANSACTIONS_MAX:]
        made = [one for one in dict.fromkeys(self.contracts) if ledger.chain.contract(one) is not None]
        self.contracts = made[:CONTRACTS] + made[CONTRACTS:][-CONTRACTS:]
        members = range(len(ledger.plan.seats))
        self._now_ms += choose([0, 1, 100, 100, 100, 60_000, 600_000])
        ledger.execute(
            tuple(payloads),
            authors=[member for member in members if self.source.random() < 0.9],
            leaders=sorted(self.source.sample(members, choose([1, 1, 2]) if len(members) > 1 else 1)),
            time_ms=self._now_ms,
        )

    def operation(self, sender: bytes) -> Operation:
        """One of the ledger's, or one of those that make eras."""
        kind = self.source.random()
        if kind < 0.3:
            return self._of_eras(sender)
        if kind < 0.52:
            return self.of_contracts(sender) if kind < 0.36 else self.verification.operation(sender)
        return super().operation(sender)

    def name_for(self, sender: bytes) -> str:
        """Often one of the sender's own."""
        height = self.ledger.height
        records = [record for name in NAMES if (record := self.ledger.chain.name(name)) is not None]
        own = [record.name for record in records if record.owner == sender and record.is_active(height)]
        return self.source.choice(own if own and self.source.random() < 0.5 else NAMES)

    def _alms(self) -> list[bytes]:
        accounts = [(user.public, self.ledger.chain.account(user.public)) for user in self.people]
        poor = [key for key, account in accounts if account is None or account.balance < POOR]
        if not poor or self.source.random() < 0.5:
            return []
        return [self.ledger.sign(USERS[0], *(Transfer(key, 2 * RICH) for key in poor))]

    # What makes eras

    def _of_eras(self, sender: bytes) -> Operation:
        choose, plan = self.source.choice, self._eras.plan
        place = self.ledger.height + 1 - plan.first_height
        kinds: list[Callable[[bytes], Operation]] = [
            self._bond,
            self._unbond,
            self._stake,
            self._ready,
            self._reveal,
            self._report,
            self._evidence,
            lambda _: Withdraw(),
            lambda _: Unjail(),
            lambda _: AnnounceEndpoint(choose([API, "http://127.0.0.1:9"]), choose(["", LINK])),
        ]
        timely = [(READY, self._ready), (REVEAL, self._reveal), (REPORT, self._report)]
        kinds += [kind for places, kind in timely for _ in range(20) if place in places]
        return choose(kinds)(sender)

    def _bond(self, sender: bytes) -> Operation:
        made = HashOnion(self.source.randbytes(32), ONION_LAYERS)
        self._remember(made)
        link, api = self.source.choice([(LINK, API), (LINK, API), ("", "")])
        return Bond(self.source.choice(BONDS), link, api, self.source.choice([b"", made.tip]))

    def _unbond(self, sender: bytes) -> Operation:
        candidate = self.ledger.chain.candidate(sender)
        bond = candidate.bond if candidate is not None else 0
        return Unbond(self.source.choice([*BONDS, max(1, bond), max(1, bond - MINIMUM)]))

    def _ready(self, sender: bytes) -> Operation:
        choose = self.source.choice
        era = self._eras.plan.era + choose([1] * 15 + [0, 2])
        whose = choose([sender] * 15 + [user.public for user in self.people[-2:]])
        key = SigningKey(tagged_hash("test-consensus-key", whose + era.to_bytes(8)))
        self._consensus[key.public] = key
        return Ready(era, key.public, choose([1, 1, 1, 2]))

    def _reveal(self, sender: bytes) -> Operation:
        candidate, era = self.ledger.chain.candidate(sender), self._eras.plan.era
        number = reveal_number(candidate, era) if candidate is not None else 0
        if candidate is None or not 0 < number <= ONION_LAYERS or self.source.random() < 0.05:
            return Reveal(self.source.randbytes(32))
        newer = candidate.next_onion and era >= candidate.next_onion_start
        return Reveal(self._onions[candidate.next_onion if newer else candidate.onion].reveal(number))

    def _stake(self, sender: bytes) -> Operation:
        compute, storage, rate = (self.source.choice(STAKED) for _ in range(3))
        return StakeResources(
            claim((compute, storage, rate), self.source.choice([1, 2])), self.source.choice([PLACE, ""])
        )

    def _report(self, sender: bytes) -> Operation:
        opened, choose = open_round(self.ledger.chain.get), self.source.choice
        rows = max(0, (len(opened.candidates) if opened else 1) + choose([0] * 15 + [1, -1]))
        row = (choose([PASSED, PASSED, LATE]), choose([PASSED, PASSED, LATE]), choose([PASSED, PASSED, SILENT]))
        return ReportChallenges(Report(self._eras.plan.era + choose([0] * 15 + [1]), 0, (row,) * rows))

    def _evidence(self, sender: bytes) -> Operation:
        """A lie of a member of one of the last eras, or of nobody; mostly a small one, told before."""
        choose, chain_id = self.source.choice, self.ledger.chain.chain_id
        plan = choose(self._eras.plans[-5:])
        author = self.source.randrange(len(plan.seats) + 1)
        seated = author < len(plan.seats)
        key = self._consensus[plan.seats[author].consensus_key] if seated else NODES[-1]
        place = choose([1, 2])
        if choose([True, False]):
            return equivocation(chain_id, plan.era, author, place, key)
        return conflict(chain_id, plan.era, place, key, choose([CHECKPOINT, HANDOVER]))

    def _remember(self, made: HashOnion) -> None:
        layers = (made.tip, *(made.reveal(number) for number in range(1, ONION_LAYERS + 1)))
        self._onions.update(dict.fromkeys(layers, made))


class Coverage:
    """How often each kind of operation was executed and how often it was refused, and how many operations there were.

    A refusal counts for a kind if the operation stood alone: of several it could have been any.
    """

    def __init__(self) -> None:
        self.executed: Counter[type] = Counter()
        self.refused: Counter[type] = Counter()
        self.codes: Counter[str] = Counter()
        self.operations = 0

    def add(self, operations: Sequence[Operation], code: str, *, paid: bool) -> None:
        """A transaction that ended with `code`; `paid`: it was entitled to act."""
        self.operations += len(operations)
        self.codes[code] += 1
        if code == "ok":
            self.executed.update(map(type, operations))
        elif paid and len(operations) == 1:
            self.refused.update(map(type, operations))
