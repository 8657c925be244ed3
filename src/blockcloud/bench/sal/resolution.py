"""Processor time of a resolution: from the cache, and verified by a new proof, without the network between.

The resolver and the light client are those of the SDK. What nodes answer is made here beforehand, byte for byte as
they would: the record of a name among many, its proof, a new checkpoint for every question with its commit record and
the signatures of a quorum, and the address record of an instance. Only the way over HTTP is left out.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping
from hashlib import sha256
from typing import Any, Final

import msgspec

from blockcloud.primitives import codec
from blockcloud.primitives.amounts import GENESIS_SUPPLY_MICRO_BLOC
from blockcloud.primitives.certificates import CHECKPOINT, DOMAIN, Certificate, Statement, quorum_weight
from blockcloud.primitives.keys import SigningKey
from blockcloud.primitives.storage import Batch, MemoryStore
from blockcloud.routing.address_record import AddressRecord, Endpoint, sign_record
from blockcloud.sdk.reading import AsyncReader
from blockcloud.sdk.resolver import ChainResolver
from blockcloud.sdk.transport import Transport
from blockcloud.service_chain.genesis import Genesis, GenesisValidator, NamingParameters
from blockcloud.service_chain.proven import ProvenValue
from blockcloud.service_chain.records import REGISTERED, NameRecord
from blockcloud.service_chain.state.versioned import VersionedState
from blockcloud.service_chain.state_keys import name_key
from blockcloud.transaction_chain.commit import CommitRecord
from blockcloud.transaction_chain.parameters import Parameters

NAME: Final = "thermo.kitchen.acme"
NAMES: Final = 20_000
BOND: Final = 1_000_000_000
START_MS: Final = 1_800_000_000_000
CACHED_A_ROUND: Final = 2_000
ROUNDS: Final = 7
_MICROSECONDS: Final = 1e6


class _Answers(Transport):
    """Nodes whose answers were made beforehand: a proof for every question, each by a newer checkpoint."""

    def __init__(self, urls: list[str], proofs: Iterator[bytes], records: bytes) -> None:
        super().__init__(urls)
        self._proofs = proofs
        self._records = records

    async def once(
        self,
        url: str,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        content: bytes | None = None,
        accept: str = "application/json",
        timeout_s: float | None = None,
    ) -> bytes:
        return next(self._proofs) if path == "/v1/proof" else self._records


class _Ledger:
    """A committee, and a state of many names of which one is asked for."""

    def __init__(self, members: int) -> None:
        self.keys = [SigningKey(sha256(bytes([number])).digest()) for number in range(members)]
        validators = tuple(GenesisValidator(key.public, BOND, "http://127.0.0.1:1", "127.0.0.1:1") for key in self.keys)
        owner = SigningKey(bytes(32)).public
        self.genesis = Genesis(
            "bench",
            START_MS,
            Parameters(checkpoint_period=1),
            NamingParameters(),
            validators,
            ((owner, GENESIS_SUPPLY_MICRO_BLOC - members * BOND),),
        )
        self.instance = SigningKey(bytes([1]) * 32)
        store = MemoryStore()
        state = VersionedState(store)
        names = {name: self._record(name) for name in (NAME, *(f"sensor-{number}.acme" for number in range(NAMES)))}
        rows = Batch()
        state.apply(1, {name_key(name): record for name, record in names.items()}, rows)
        state.checkpoint(1, rows)
        store.write(rows, sync=False)
        self._value = names[NAME]
        self._root, self._proof = state.root_at(1), state.prove(name_key(NAME), 1)

    def _record(self, name: str) -> bytes:
        keys = (self.instance.public,)
        return codec.encode(
            NameRecord(name, bytes(32), bytes(32), keys, 1, 9_000_000, 1, REGISTERED, 10_000, 1, 9_900_000)
        )

    def proofs(self, count: int) -> Iterator[bytes]:
        """Answers to `count` questions for the name, as of `count` checkpoints one after the other."""
        chain_id = self.genesis.chain_id()
        signers = self.keys[: quorum_weight(len(self.keys))]
        for height in range(1, count + 1):
            commit = CommitRecord(0, height, height, chain_id, (), (), START_MS + height)
            statement = Statement(CHECKPOINT, chain_id, 0, height, (commit.digest(), self._root))
            message = codec.encode(statement)
            signatures = tuple(sorted((key.public, key.sign(DOMAIN, message)) for key in signers))
            certificate = Certificate(statement, signatures)
            yield codec.encode(ProvenValue(name_key(NAME), self._value, self._proof, certificate, codec.encode(commit)))

    def address_records(self) -> bytes:
        """What a routing node holds for the name."""
        now_s = START_MS // 1_000
        place = Endpoint("tls", "127.0.0.1", 8702)
        record = AddressRecord(NAME, self.instance.public, 1, now_s, now_s + 3_600, bytes(32), (place,))
        return msgspec.msgpack.encode([sign_record(record, self.instance)])


async def measure_resolution(questions: int, members: int = 4) -> dict[str, Any]:
    """Microseconds, medians: a cached answer; one that is verified anew, by a checkpoint seen for the first time."""
    ledger = _Ledger(members)
    proofs = list(ledger.proofs(questions))
    now_ms = START_MS + len(proofs)
    async with AsyncReader(ledger.genesis, now_ms=lambda: now_ms) as reader:
        await reader.transport.close()
        reader.transport = _Answers(
            [item.api_url for item in ledger.genesis.validators], iter(proofs), ledger.address_records()
        )
        verified = []
        for _ in proofs:
            resolver = ChainResolver(reader, now_s=lambda: now_ms // 1_000)
            started = time.perf_counter()
            await resolver.resolve(NAME)
            verified.append(time.perf_counter() - started)
        cached = []
        for _ in range(ROUNDS):
            started = time.perf_counter()
            for _ in range(CACHED_A_ROUND):
                await resolver.resolve(NAME)
            cached.append((time.perf_counter() - started) / CACHED_A_ROUND)
    return {
        "figures": {
            "resolution_cached_us": round(_MICROSECONDS * statistics.median(cached), 2),
            "resolution_verified_us": round(_MICROSECONDS * statistics.median(verified), 1),
        },
        "peer": {},
        "ratio": {},
    }
