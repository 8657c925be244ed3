"""Validators in one event loop, on loopback with real TLS and RocksDB. Shared by the tests of node, API, CLI and SDK.

Each cluster has a loopback address of its own, so that no port is in use nor taken by an outgoing connection.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from blockcloud.node.config import NodeConfig
from blockcloud.node.storage import RocksStore
from blockcloud.node.validator import Validator, initialise_data
from blockcloud.primitives.amounts import GENESIS_SUPPLY_MICRO_BLOC
from blockcloud.primitives.keys import SigningKey
from blockcloud.service_chain.genesis import Genesis, GenesisValidator, NamingParameters
from blockcloud.service_chain.operations import Operation, Transfer
from blockcloud.service_chain.transaction import TransactionBody, sign_transaction
from blockcloud.transaction_chain.parameters import Parameters

BOND = 1_000_000_000
FOR_FEES = 10_000_000
GC_DEPTH = 16
LINK_PORT = 9_000
API_PORT = 9_100
KEYS = sorted((SigningKey(bytes([number + 1]) * 32) for number in range(5)), key=lambda key: key.public)
USERS = [SigningKey(bytes([100 + number]) * 32) for number in range(8)]


def make_genesis(count: int, era_length: int = 600) -> Genesis:
    host = "127." + ".".join(str(1 + byte % 254) for byte in os.urandom(3))
    left = GENESIS_SUPPLY_MICRO_BLOC - (BOND + FOR_FEES) * count
    share = left // len(USERS)
    return Genesis(
        name="test",
        time_ms=1_700_000_000_000,
        parameters=Parameters(
            leader_slots=min(2, count),
            pacing_busy_ms=10,
            pacing_idle_ms=50,
            leader_timeout_ms=150,
            gc_depth_levels=GC_DEPTH,
            era_length=era_length,
            leader_table_period=min(100, (era_length - 1) // 4),
        ),
        naming=NamingParameters(),
        validators=tuple(
            GenesisValidator(key.public, BOND, f"http://{host}:{API_PORT + index}", f"{host}:{LINK_PORT + index}")
            for index, key in enumerate(KEYS[:count])
        ),
        accounts=tuple(
            (user.public, share + (left - share * len(USERS) if number == 0 else 0))
            for number, user in enumerate(USERS)
        )
        + tuple((key.public, FOR_FEES) for key in KEYS[:count]),
    )


async def until(condition: Callable[[], object], timeout_s: float = 30) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.01)


class Newcomer(Validator):
    """A node that the genesis does not know."""

    @property
    def link_address(self) -> str:
        return f"{self.config.link_host}:{self.config.link_port}"


@dataclass
class Cluster:
    folder: Path
    genesis: Genesis
    running: dict[int, Validator] = field(default_factory=dict)
    sequences: dict[int, int] = field(default_factory=dict)
    newcomers: list[Newcomer] = field(default_factory=list)

    def config(self, index: int) -> NodeConfig:
        host, _, port = self.genesis.validators[index].link_address.rpartition(":")
        return NodeConfig(
            home=self.folder / f"node{index}",
            api_host=host,
            api_port=API_PORT + index,
            link_host=host,
            link_port=int(port),
        )

    def initialise(self, index: int) -> None:
        store = RocksStore(self.config(index).data_path)
        initialise_data(store, self.genesis)
        store.close()

    async def start(self, index: int, key: SigningKey | None = None) -> Validator:
        validator = Validator(self.config(index), self.genesis, key or KEYS[index])
        self.running[index] = validator
        await validator.start()
        return validator

    async def start_newcomer(self, key: SigningKey) -> Newcomer:
        """A node that has nothing but the genesis. It is none of `running`; `close` stops it."""
        host, _, _ = self.genesis.validators[0].link_address.rpartition(":")
        number = len(self.newcomers)
        config = NodeConfig(
            home=self.folder / f"newcomer{number}",
            api_host=host,
            api_port=API_PORT + 50 + number,
            link_host=host,
            link_port=LINK_PORT + 50 + number,
        )
        newcomer = Newcomer(config, self.genesis, key)
        self.newcomers.append(newcomer)
        await newcomer.start()
        return newcomer

    async def stop(self, index: int) -> None:
        await self.running.pop(index).stop()

    def transfers(self, user: int, count: int, amount: int = 1) -> list[bytes]:
        first = self.sequences.get(user, 0)
        self.sequences[user] = first + count
        target = USERS[(user + 1) % len(USERS)].public
        return [self.transfer(user, sequence, target, amount) for sequence in range(first, first + count)]

    def next_sequence(self, user: int) -> int:
        """Take one sequence of a user's account."""
        self.sequences[user] = self.sequences.get(user, 0) + 1
        return self.sequences[user] - 1

    def signed(self, key: SigningKey, sequence: int, *operations: Operation) -> bytes:
        body = TransactionBody(self.genesis.chain_id(), key.public, 0, sequence, 1_000_000, 1_000_000, operations)
        return sign_transaction(body, key)

    def transfer(self, user: int, sequence: int, target: bytes, amount: int, *, valid_until: int = 1_000_000) -> bytes:
        body = TransactionBody(
            chain_id=self.genesis.chain_id(),
            sender=USERS[user].public,
            lane=0,
            sequence=sequence,
            valid_until=valid_until,
            fee_limit=1_000_000,
            operations=(Transfer(target, amount),),
        )
        return sign_transaction(body, USERS[user])

    async def same_certified_roots(self, at_least: int) -> None:
        """Every running validator holds a certificate of the same height at or above `at_least`, with one root."""

        def agree() -> bool:
            certificates = [validator.certificate for validator in self.running.values()]
            statements = {one.statement.digest() for one in certificates if one and one.statement.height >= at_least}
            return len(statements) == 1 and all(certificates)

        await until(agree)


@asynccontextmanager
async def cluster(folder: Path, count: int = 4, era_length: int = 600, *, spare: int = 0) -> AsyncIterator[Cluster]:
    """`count` validators that run, in a genesis that names `spare` more."""
    made = Cluster(folder, make_genesis(count + spare, era_length))
    try:
        for index in range(count):
            made.initialise(index)
            await made.start(index)
        await until(lambda: all(one.chain.applied_height > 0 for one in made.running.values()))
        yield made
    finally:
        for newcomer in made.newcomers:
            await newcomer.stop()
        for index in list(made.running):
            await made.stop(index)
