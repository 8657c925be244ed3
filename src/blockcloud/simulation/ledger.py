"""The ledger of a simulated world: its genesis, the production service machine, and clients that pay each other.

Each client has one transaction under way and hands it in again, at whatever node, until it is told an outcome. So a
sequence number is never lost, and what a client was told can be held against every node at the end.
"""

from __future__ import annotations

from functools import lru_cache

from blockcloud.node.applying import SharedChain
from blockcloud.primitives.amounts import GENESIS_SUPPLY_MICRO_BLOC, MICRO_PER_BLOC
from blockcloud.primitives.hash_onion import HashOnion
from blockcloud.primitives.hashes import tagged_hash
from blockcloud.primitives.keys import SigningKey
from blockcloud.service_chain.genesis import Genesis, GenesisValidator, NamingParameters, StakingParameters
from blockcloud.service_chain.operations import Operation, Transfer
from blockcloud.service_chain.transaction import TransactionBody, parse_transaction, sign_transaction
from blockcloud.simulation.clock import EPOCH_MS
from blockcloud.simulation.dag_builder import simulated_key
from blockcloud.simulation.hash_machine import REFUSED_PAYLOAD
from blockcloud.transaction_chain.cloudpos.parameters import ChallengeParameters
from blockcloud.transaction_chain.parameters import Parameters

# What one unit of a member's drawn weight is in money: the least bond.
BOND_UNIT = 1_000 * MICRO_PER_BLOC
RESOURCE_UNIT = 100_000
ONION_LAYERS = 64
CLIENTS = 8
MONEY = 10_000 * MICRO_PER_BLOC
FEE_LIMIT = MICRO_PER_BLOC
# Every so many-th payment is more than anybody has: it fails, and costs its fee.
FAILS_EVERY = 7
VALID_COMMITS = 10**6
API_URL, LINK_ADDRESS = "http://127.0.0.1:1", "127.0.0.1:1"
CHECKED_PAYLOADS = 8_192


@lru_cache(maxsize=CLIENTS + 1)
def client_key(number: int) -> SigningKey:
    """The key of a client; number `CLIENTS` holds the rest of the supply."""
    return SigningKey(tagged_hash("simulation/v1", b"client" + number.to_bytes(2, "big")))


@lru_cache(maxsize=128)
def onion_of(member: int) -> HashOnion:
    """The hash onion of a node."""
    return HashOnion(tagged_hash("simulation/v1", b"onion" + member.to_bytes(2, "big")), ONION_LAYERS)


@lru_cache(maxsize=16)
def make_genesis(
    weights: tuple[int, ...],
    resource_weights: tuple[int, ...],
    nodes: int,
    parameters: Parameters,
    staking: StakingParameters,
) -> Genesis:
    """A chain whose first committee has these weights; `nodes` counts it and the candidates that may come."""
    validators = tuple(
        GenesisValidator(
            simulated_key(member).public,
            bond * BOND_UNIT,
            API_URL,
            LINK_ADDRESS,
            resource_weight=resource * RESOURCE_UNIT,
            onion_tip=onion_of(member).tip,
        )
        for member, (bond, resource) in enumerate(zip(weights, resource_weights, strict=True))
    )
    keys = [simulated_key(member).public for member in range(nodes)]
    accounts = [(key, MONEY) for key in [*keys, *(client_key(number).public for number in range(CLIENTS))]]
    rest = GENESIS_SUPPLY_MICRO_BLOC - sum(one.bond for one in validators) - sum(money for _, money in accounts)
    accounts.append((client_key(CLIENTS).public, rest))
    return Genesis(
        name="simulation",
        time_ms=EPOCH_MS,
        parameters=parameters,
        naming=NamingParameters(),
        validators=validators,
        accounts=tuple(accounts),
        staking=staking,
        # Nobody stakes resources here; the order within an era must hold all the same.
        challenges=ChallengeParameters(draw_percent=staking.freeze_percent, lead_commits=1),
    )


class Ledger(SharedChain):
    """The production service machine; what one node has checked needs no second look by another."""

    def check(self, payload: bytes) -> int:
        return _checked(payload, self)

    def __hash__(self) -> int:
        return hash(self.chain_id)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ledger) and other.chain_id == self.chain_id


@lru_cache(maxsize=CHECKED_PAYLOADS)
def _checked(payload: bytes, ledger: Ledger) -> int:
    return SharedChain.check(ledger, payload)


class Clients:
    """People with accounts who pay each other through whatever node they find."""

    def __init__(self, chain_id: bytes) -> None:
        self._chain_id = chain_id
        self._sequences = [0] * CLIENTS
        self._under_way: dict[int, tuple[bytes, bytes]] = {}  # client -> (transaction id, payload)
        self._of: dict[bytes, int] = {}  # transaction id -> client
        self._turn = 0
        self._made = 0

    def next_payload(self) -> bytes:
        """What the next client in turn hands in: what it has under way, or something new."""
        client = self._turn = (self._turn + 1) % CLIENTS
        if client not in self._under_way:
            self._made += 1
            amount = 2**60 if self._made % FAILS_EVERY == 0 else self._made
            operation = Transfer(client_key((client + self._made) % CLIENTS).public, amount)
            payload = signed(self._chain_id, client_key(client), self._sequences[client], operation)
            identifier = parse_transaction(payload).id
            self._under_way[client] = identifier, payload
            self._of[identifier] = client
        return self._under_way[client][1]

    def told(self, identifier: bytes) -> None:
        """A node says that a transaction has its receipt."""
        client = self._of.pop(identifier, None)
        if client is not None:
            del self._under_way[client]
            self._sequences[client] += 1


def signed(chain_id: bytes, key: SigningKey, sequence: int, operation: Operation) -> bytes:
    """A transaction of the account of `key`."""
    body = TransactionBody(
        chain_id=chain_id,
        sender=key.public,
        lane=0,
        sequence=sequence,
        valid_until=VALID_COMMITS,
        fee_limit=FEE_LIMIT,
        operations=(operation,),
    )
    return sign_transaction(body, key)


@lru_cache(maxsize=16)
def refused_payloads(chain_id: bytes) -> tuple[bytes, ...]:
    """What the ledger refuses: no transaction, one with another's signature, one of another chain."""
    pay = Transfer(client_key(0).public, 1)
    genuine = signed(chain_id, client_key(1), 0, pay)
    forged = genuine[:-1] + bytes([genuine[-1] ^ 1])
    return REFUSED_PAYLOAD, forged, signed(tagged_hash("simulation/v1", b"other"), client_key(1), 0, pay)
