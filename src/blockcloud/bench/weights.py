"""`blockcloud bench weights`: what each operation costs a node, beside the weight that its sender pays for.

A chain with accounts, names, candidates and a round of tests is taken through two eras. Each operation stands alone in
a transaction; as many transactions as there are members make a commit, and that commit's processor time is measured:
parsing (with the signatures inside evidence, without the transaction's own), execution, the tree and the root, and the
write to RocksDB, minus what an empty commit takes. That is divided by the units that the fee counts: bytes, operation
and fuel, not the signature. The yardstick is a transfer: what costs more than twice as much a unit weighs too little.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final

from blockcloud.bench.contracts import SOURCE
from blockcloud.bench.machine import verify_seconds
from blockcloud.bench.payments import FEE_LIMIT, FOREVER, seeded_keys
from blockcloud.node.storage import RocksStore
from blockcloud.primitives import codec
from blockcloud.primitives.amounts import GENESIS_SUPPLY_MICRO_BLOC, MICRO_PER_BLOC
from blockcloud.primitives.certificates import CHECKPOINT, DOMAIN, SignedStatement, Statement
from blockcloud.primitives.hash_onion import HashOnion
from blockcloud.primitives.hashes import sha256
from blockcloud.primitives.keys import SigningKey
from blockcloud.primitives.storage import Batch
from blockcloud.service_chain.contracts.runtime import contract_address
from blockcloud.service_chain.contracts.wasm import from_text
from blockcloud.service_chain.fees import OPERATION_WEIGHTS, SIGNATURE_WEIGHT, fuel_of, fuel_weight
from blockcloud.service_chain.genesis import Genesis, GenesisValidator, NamingParameters, StakingParameters
from blockcloud.service_chain.machine import ServiceChain
from blockcloud.service_chain.operations import (
    DELEGABLE_TAGS,
    OPERATIONS,
    AddInstance,
    AnnounceEndpoint,
    Bond,
    CallContract,
    CloseLane,
    Deploy,
    GrantRole,
    OpenLane,
    Operation,
    Preorder,
    Ready,
    Register,
    RemoveInstance,
    RenewName,
    ReportChallenges,
    ReportConflict,
    ReportEquivocation,
    Reveal,
    RevokeGrant,
    RevokeName,
    RevokeRole,
    SetPolicy,
    SignedHeader,
    StakeResources,
    Transfer,
    TransferName,
    Unbond,
    Unjail,
    UpdateName,
    Withdraw,
    name_commitment,
)
from blockcloud.service_chain.transaction import TransactionBody, parse_transaction, sign_transaction
from blockcloud.transaction_chain.block import Block, Header, sign_block
from blockcloud.transaction_chain.cloudpos.parameters import ChallengeParameters
from blockcloud.transaction_chain.cloudpos.stake import Resources, StakeClaim
from blockcloud.transaction_chain.cloudpos.verdicts import Report, Verdict
from blockcloud.transaction_chain.commit import Commit, CommitRecord, genesis_record
from blockcloud.transaction_chain.machine import Result
from blockcloud.transaction_chain.parameters import Parameters

TOO_LIGHT: Final = 2.0  # times what a unit of a transfer costs
TOO_HEAVY: Final = 0.5
ERA_LENGTH: Final = 400
# Places in an era: when members reveal, and when challengers report.
REVEAL, REPORT = 45 * ERA_LENGTH // 100, 60 * ERA_LENGTH // 100
BOND_MICRO_BLOC: Final = 10 * MICRO_PER_BLOC
EMPTY_COMMITS: Final = 20
LAPS: Final = 5
SALT: Final = bytes(32)
LINK, API = "127.0.0.1:8701", "http://127.0.0.1:8700"
FUEL: Final = 5_000_000
POLICY: Final = """permit(principal in Role::"readers.{name}", action, resource)
when {{ context.time < 4102444800 }};
forbid(principal, action, resource) unless {{ principal in Role::"members.{name}" }};"""


def run(*, members: int = 64, accounts: int = 20_000, runs: int = 3) -> dict[str, Any]:
    """{"figures", "bars", "peer", "ratio"}: in `figures` a row for each operation, the costliest unit first; `ratio` is
    what a unit of that one costs over a unit of a transfer. `members`: transactions in a commit."""
    samples: dict[str, list[tuple[float, float]]] = {}
    for _ in range(runs):
        with tempfile.TemporaryDirectory(prefix="blockcloud-bench-") as folder:
            for kind, sample in _measured(Path(folder), members, accounts).items():
                samples.setdefault(kind, []).append(sample)
    costs = {kind: (median(us for us, _ in taken), taken[0][1]) for kind, taken in samples.items()}
    transfer_us, transfer_units = costs[Transfer.__name__]
    unit_us = transfer_us / transfer_units
    rows = [_row(kind, *cost, unit_us) for kind, cost in costs.items()]
    rows.sort(key=lambda row: -float(row["relative"]))
    return {
        "figures": {
            "operations": rows,
            "too_light": [row["operation"] for row in rows if row["relative"] > TOO_LIGHT],
            "not_measured": [kind.__name__ for kind in OPERATIONS if kind.__name__ not in costs],
        },
        "bars": {"relative": TOO_LIGHT},
        "peer": {"transfer_unit_us": round(unit_us, 2), "ed25519_unit_us": round(verify_seconds() * 1e6 / 5, 2)},
        "ratio": rows[0]["relative"],
    }


def _row(kind: str, us: float, units: float, unit_us: float) -> dict[str, Any]:
    """What stands in the report of one kind; `fitting` is the weight with which a unit costs what one of a transfer
    does, said where that is far from the weight that it has."""
    weight = next(weight for operation, weight in OPERATION_WEIGHTS.items() if operation.__name__ == kind)
    relative = us / units / unit_us
    fitting = max(1, round(us / unit_us - units + weight))
    return {
        "operation": kind,
        "us": round(us, 1),
        "units": round(units, 1),
        "relative": round(relative, 2),
        "weight": weight,
        "fitting": fitting if not TOO_HEAVY <= relative <= TOO_LIGHT else weight,
    }


def _measured(folder: Path, members: int, accounts: int) -> dict[str, tuple[float, float]]:
    """By operation: microseconds and units of one transaction with it."""
    store = RocksStore(folder)
    try:
        world = _World(store, members, accounts)
        for part in (_payments, _naming, _policies, _contracts, _staking, _lies, _next_era):
            part(world)
        return world.costs
    finally:
        store.close()


class _World:
    """A chain, its members (who are its users too), and what their operations cost so far."""

    def __init__(self, store: RocksStore, members: int, accounts: int) -> None:
        self.keys = seeded_keys(members, "bench-member")
        self.onions = [HashOnion(sha256(b"onion" + key.public), 16) for key in self.keys]
        self.strangers = [sha256(b"account" + number.to_bytes(8)) for number in range(accounts)]
        self.store, self.chain = store, ServiceChain(self._genesis(), store)
        self.numbers = range(members)
        self.costs: dict[str, tuple[float, float]] = {}
        self._sequences = dict.fromkeys(self.numbers, 0)
        self._record = genesis_record(0, self.chain.chain_id, 0)
        self._empty_us = 0.0
        self._empty_us = median(self._timed(()) for _ in range(EMPTY_COMMITS))

    def names(self) -> list[str]:
        """A name for each member."""
        return [f"sensor-{number}" for number in self.numbers]

    def measure(self, operation: Callable[[int], Operation], numbers: Iterable[int] | None = None) -> None:
        """One commit in which each member (or those with these numbers) does this."""
        payloads = [
            self._signed(number, operation(number)) for number in (self.numbers if numbers is None else numbers)
        ]
        spent_us = self._timed(payloads)
        transactions = [parse_transaction(payload) for payload in payloads]
        units = 0
        for transaction in transactions:
            receipt = self.chain.receipt(transaction.id)
            fuel = 0 if receipt is None else receipt.fuel
            unused = fuel_weight(fuel_of(transaction.body.operations)) - fuel_weight(fuel)
            units += transaction.weight - SIGNATURE_WEIGHT - unused
        kind = type(transactions[0].body.operations[0]).__name__
        self.costs[kind] = (max(0.0, spent_us) / len(payloads), units / len(payloads))

    def at(self, place: int) -> None:
        """Empty commits until the next one has this place in its era."""
        while (self._record.height + 1 - self.chain.plan.first_height) % ERA_LENGTH != place:
            self._execute(())

    def wait(self) -> None:
        """An empty commit."""
        self._execute(())

    def _signed(self, number: int, operation: Operation) -> bytes:
        key, sequence = self.keys[number], self._sequences[number]
        self._sequences[number] += 1
        body = TransactionBody(self.chain.chain_id, key.public, 0, sequence, FOREVER, FEE_LIMIT, (operation,))
        return sign_transaction(body, key)

    def _timed(self, payloads: Sequence[bytes]) -> float:
        """Microseconds of a commit, beyond those of an empty one. Raises RuntimeError if something is refused."""
        start = time.process_time()
        for payload in payloads:
            self.chain.check_vouched(payload)
        parsed = time.process_time() - start
        spent, result = self._execute(payloads)
        refused = [code for _, code in result.outcomes if code != "ok"]
        if refused:
            kind = type(parse_transaction(payloads[0]).body.operations[0]).__name__
            raise RuntimeError(f"{kind} was refused: {refused[0]}")
        return (parsed + spent) * 1e6 - self._empty_us

    def _execute(self, payloads: Sequence[bytes]) -> tuple[float, Result]:
        height, era = self._record.height + 1, self.chain.plan.era
        header = Header(self.chain.chain_id, era, 0, height, (), height * 100, bytes(32))
        block: Block = sign_block(header, tuple(payloads), self.keys[0])
        references = (block.reference,)
        digest = self._record.digest()
        self._record = CommitRecord(era, height, height, digest, references, references, height * 100)
        commit = Commit(self._record, self._record.digest(), (block,))
        start, batch = time.process_time(), Batch()
        result = self.chain.execute(commit, batch)
        self.store.write(batch, sync=False)
        return time.process_time() - start, result

    def _genesis(self) -> Genesis:
        members = [
            GenesisValidator(key.public, BOND_MICRO_BLOC, API, LINK, onion_tip=onion.tip)
            for key, onion in zip(self.keys, self.onions, strict=True)
        ]
        share = GENESIS_SUPPLY_MICRO_BLOC // 4 // len(members)
        spare = GENESIS_SUPPLY_MICRO_BLOC - (share + BOND_MICRO_BLOC) * len(members)
        each, rest = divmod(spare, len(self.strangers))
        balances = [(key.public, share) for key in self.keys]
        balances += [(key, each + (rest if number == 0 else 0)) for number, key in enumerate(self.strangers)]
        return Genesis(
            name="bench",
            time_ms=0,
            parameters=Parameters(checkpoint_period=1, era_length=ERA_LENGTH),
            naming=NamingParameters(),
            validators=tuple(members),
            accounts=tuple(balances),
            staking=StakingParameters(
                committee_size=len(members), minimum_bond=MICRO_PER_BLOC, unbonding_eras=1, active_percent=0,
                onion_length=16, unbonding_ms=1, forfeit_era_rewards=0,
            ),
            challenges=ChallengeParameters(challengers=len(members)),
        )  # fmt: skip


def _payments(world: _World) -> None:
    strangers = world.strangers
    # The last time counts: by then those who pay are in memory, and those who are paid are not.
    turns = iter(range(LAPS * len(world.keys)))
    for _ in range(LAPS):
        world.measure(lambda number: Transfer(strangers[next(turns) % len(strangers)], 10_000))
    world.measure(lambda number: OpenLane(1, world.keys[number].public, DELEGABLE_TAGS, MICRO_PER_BLOC, FOREVER))
    world.measure(lambda number: CloseLane(1))


def _naming(world: _World) -> None:
    names, keys, naming = world.names(), world.keys, world.chain.genesis.naming
    file_hash = sha256(b"file")
    world.measure(lambda number: Preorder(name_commitment(names[number], SALT, keys[number].public)))
    for _ in range(naming.preorder_min):
        world.wait()
    world.measure(lambda number: Register(names[number], SALT, sha256(names[number].encode()), (keys[0].public,)))
    world.measure(lambda number: UpdateName(names[number], file_hash))
    world.measure(lambda number: AddInstance(names[number], keys[1].public))
    world.measure(lambda number: RemoveInstance(names[number], keys[1].public))
    world.measure(lambda number: RenewName(names[number]))


def _policies(world: _World) -> None:
    names, strangers = world.names(), world.strangers
    world.measure(lambda number: SetPolicy(names[number], POLICY.format(name=names[number])))
    world.measure(lambda number: GrantRole(names[number], strangers[number]))
    world.measure(lambda number: RevokeRole(names[number], strangers[number]))
    world.measure(lambda number: RevokeGrant(names[number], sha256(names[number].encode()), 2**40))
    count = len(names)
    world.measure(lambda number: TransferName(names[number], world.keys[(number + 1) % count].public))
    world.measure(lambda number: RevokeName(names[(number - 1) % count]))


def _contracts(world: _World) -> None:
    code = from_text(SOURCE)
    # The same with another number in a note at its end: nobody has compiled it yet.
    codes = [code + b"\x00\x0a\x01n" + number.to_bytes(8) for number in world.numbers]
    world.measure(lambda number: Deploy(codes[number], b"", b"", 0, BOND_MICRO_BLOC * 100, FUEL))
    made = [contract_address(key.public, each, b"") for key, each in zip(world.keys, codes, strict=True)]
    world.measure(lambda number: CallContract(made[number], "counter", b"", 0, BOND_MICRO_BLOC, FUEL))


def _staking(world: _World) -> None:
    keys, onions = world.keys, world.onions
    claim = StakeClaim(Resources(1_000, 2**30, 1_000_000), 1, sha256(b"plot"))
    world.measure(lambda number: AnnounceEndpoint(API, LINK))
    world.measure(lambda number: Bond(BOND_MICRO_BLOC, "", "", b""))
    world.measure(lambda number: Unbond(BOND_MICRO_BLOC // 2))
    world.measure(lambda number: StakeResources(claim, LINK))
    world.measure(lambda number: Ready(1, _next_key(keys[number]).public))
    world.at(REVEAL)
    world.measure(lambda number: Reveal(onions[number].reveal(1)))
    world.at(REPORT)
    row = (Verdict.PASSED, Verdict.PASSED, Verdict.PASSED)
    world.measure(lambda number: ReportChallenges(Report(0, 0, (row,) * len(keys))))


def _lies(world: _World) -> None:
    """Half of the members have lied, twice, and the others say so."""
    keys, chain_id, half = world.keys, world.chain.chain_id, len(world.keys) // 2
    seats = [seat.consensus_key for seat in world.chain.plan.seats]

    def header(liar: int, variant: int) -> SignedHeader:
        block = sign_block(
            Header(chain_id, 0, seats.index(keys[liar].public), 1, (), variant, bytes(32)), (), keys[liar]
        )
        return SignedHeader(codec.encode(block.header), keys[liar].public, block.signature)

    def statement(liar: int, variant: int) -> SignedStatement:
        said = Statement(CHECKPOINT, chain_id, 0, 1, (bytes([variant]) * 32, bytes(32)))
        return SignedStatement(said, keys[liar].public, keys[liar].sign(DOMAIN, codec.encode(said)))

    others = range(half, 2 * half)
    world.measure(lambda number: ReportEquivocation(header(number - half, 1), header(number - half, 2)), others)
    world.measure(lambda number: ReportConflict(statement(number - half, 1), statement(number - half, 2)), others)


def _next_era(world: _World) -> None:
    half = len(world.keys) // 2
    world.at(1)
    world.measure(lambda number: Unjail(), range(half))
    world.measure(lambda number: Withdraw(), range(half, 2 * half))


def _next_key(key: SigningKey) -> SigningKey:
    return SigningKey(sha256(b"next" + key.public))
