"""A whole ledger in memory for tests: users with money, signed transactions, commits made by hand."""

from __future__ import annotations

from typing import Any

from blockcloud.primitives import codec
from blockcloud.primitives.amounts import GENESIS_SUPPLY_MICRO_BLOC
from blockcloud.primitives.keys import SigningKey
from blockcloud.primitives.storage import Batch, MemoryStore, Store
from blockcloud.service_chain.agreements.parameters import AgreementParameters
from blockcloud.service_chain.agreements.records import Agreement, PotRecord, ProviderRecord
from blockcloud.service_chain.genesis import FeeParameters, Genesis, GenesisValidator, NamingParameters
from blockcloud.service_chain.machine import ServiceChain
from blockcloud.service_chain.market.parameters import MarketParameters
from blockcloud.service_chain.market.records import MarketRecord, OrderRecord
from blockcloud.service_chain.operations import Operation, Preorder, Register, name_commitment
from blockcloud.service_chain.proof_of_service.parameters import ProofOfServiceParameters
from blockcloud.service_chain.proof_of_service.records import CaseRecord, VerifierRecord
from blockcloud.service_chain.records import (
    Account,
    Candidate,
    ContractRecord,
    EraTally,
    Fees,
    Lane,
    NameRecord,
    NamespaceRecord,
)
from blockcloud.service_chain.state import VersionedState
from blockcloud.service_chain.transaction import TransactionBody, sign_transaction
from blockcloud.transaction_chain.block import Block, Header, sign_block
from blockcloud.transaction_chain.commit import Commit, CommitRecord, genesis_record
from blockcloud.transaction_chain.machine import Result
from blockcloud.transaction_chain.parameters import Parameters

BOND = 1_000_000_000
RICH = 1_000_000_000
FOREVER = 2**40
SALT = bytes(range(32))
USERS = [SigningKey(bytes([1, number]) + bytes(30)) for number in range(8)]
VALIDATORS = [SigningKey(bytes([2, number]) + bytes(30)) for number in range(2)]
# Short lives, so that tests see expiry.
NAMING = NamingParameters(preorder_min=2, preorder_max=6, lifetime=20, grace=5, namespace_price=1_000)
SHAPES: dict[bytes, type[Any]] = {
    b"a": Account,
    b"f": Fees,
    b"l": Lane,
    b"n": NameRecord,
    b"N": NamespaceRecord,
    b"v": Candidate,
    b"T": EraTally,
    b"x": ContractRecord,
    b"A": Agreement,
    b"P": ProviderRecord,
    b"Q": PotRecord,
    b"M": MarketRecord,
    b"O": OrderRecord,
    b"Y": VerifierRecord,
    b"J": CaseRecord,
}
# Of commits that are 100 ms apart.
AGREEMENTS = AgreementParameters(finality_ms=300, bond_min=1_000, bond_hold_ms=1_000)
# A round every other commit, and few orders, so that tests see the limits.
MARKETS = MarketParameters(
    round_ms=200,
    patience_max=4,
    identity_bond=10_000,
    delivery_bond_min=10,
    market_deposit=20_000,
    commit_rounds=2,
    reveal_rounds=2,
    forfeit=500,
    markets=5,
    orders_per_market=12,
    orders=14,
    orders_per_commit=20,
)

# Small amounts, short memories.
PROOF_OF_SERVICE = ProofOfServiceParameters(
    bond_min=10_000,
    onion_length=40,
    verifiers=20,
    services=3,
    pot_min=1_000,
    appeal_bond=5_000,
    quarantine_eras=2,
    ban_convictions=2,
    claim_eras=2,
    hold_eras=1,
)


def small_genesis(naming: NamingParameters = NAMING, fees: FeeParameters | None = None) -> Genesis:
    """Two validators; every user has RICH, the first one the rest of the supply."""
    users = [(key.public, RICH) for key in [*USERS, *VALIDATORS]]
    first = GENESIS_SUPPLY_MICRO_BLOC - BOND * len(VALIDATORS) - RICH * (len(users) - 1)
    users[0] = (USERS[0].public, first)
    return Genesis(
        name="test",
        time_ms=1_000,
        parameters=Parameters(checkpoint_period=4),
        naming=naming,
        validators=tuple(
            GenesisValidator(key.public, BOND, f"http://127.0.0.1:{8700 + number}", f"127.0.0.1:{8701 + number}")
            for number, key in enumerate(VALIDATORS)
        ),
        accounts=tuple(users),
        fees=fees or FeeParameters(),
        agreements=AGREEMENTS,
        market=MARKETS,
        proof_of_service=PROOF_OF_SERVICE,
    )


class Ledger:
    """A ServiceChain that is fed commits."""

    def __init__(self, genesis: Genesis | None = None, store: Store | None = None) -> None:
        self.genesis = genesis or small_genesis()
        self.store = store or MemoryStore()
        self.chain = ServiceChain(self.genesis, self.store)
        self.record = genesis_record(0, self.chain.chain_id, self.genesis.time_ms)
        self.results: list[Result] = []

    @property
    def height(self) -> int:
        return self.chain.height

    def restart(self) -> None:
        """A new process over the same store."""
        self.chain = ServiceChain(self.genesis, self.store)

    def sequence(self, user: SigningKey) -> int:
        account = self.chain.account(user.public)
        return account.sequence if account else 0

    def sign(self, user: SigningKey, *operations: Operation, **changes: Any) -> bytes:
        """A transaction of `user` with the next sequence of lane 0. `signers`: the keys that sign, if not the user."""
        signers = changes.pop("signers", (user,))
        fields: dict[str, Any] = {
            "chain_id": self.chain.chain_id,
            "sender": user.public,
            "lane": 0,
            "sequence": self.sequence(user) if "sequence" not in changes else 0,
            "valid_until": FOREVER,
            "fee_limit": RICH,
            "operations": operations,
        }
        return sign_transaction(TransactionBody(**{**fields, **changes}), *signers)

    def commit(self, *payloads: bytes, blocks: int = 1) -> list[str]:
        """Execute the next commit with these payloads, spread over `blocks`; the codes of the outcomes."""
        return [code for _, code in self.execute(payloads, blocks).outcomes]

    def execute(self, payloads: tuple[bytes, ...] = (), blocks: int = 1) -> Result:
        height = self.record.height + 1
        share = -(-len(payloads) // blocks)
        parts = [payloads[index * share : (index + 1) * share] for index in range(blocks)]
        made = tuple(self._block(height, author, part) for author, part in enumerate(parts))
        references = tuple(block.reference for block in made)
        self.record = CommitRecord(0, height, height, self.record.digest(), references[:1], references, height * 100)
        return self._apply(Commit(self.record, self.record.digest(), made))

    def run(self, user: SigningKey, *operations: Operation, **changes: Any) -> str:
        """One transaction in a commit of its own; its code."""
        return self.commit(self.sign(user, *operations, **changes))[0]

    def advance(self, commits: int) -> None:
        """So many empty commits."""
        for _ in range(commits):
            self.commit()

    def register(self, user: SigningKey, name: str, file_hash: bytes = b"", keys: tuple[bytes, ...] = ()) -> str:
        """Preorder, wait, register; the code of the last."""
        assert self.run(user, Preorder(name_commitment(name, SALT, user.public))) == "ok"
        self.advance(self.genesis.naming.preorder_min - 1)
        return self.run(user, Register(name, SALT, file_hash, keys))

    def state(self) -> dict[bytes, bytes]:
        """Every key that ever changed and has a value now."""
        state = VersionedState(self.store)
        keys = dict.fromkeys(key for height in range(self.height + 1) for key in state.changes_at(height))
        return {key: value for key in keys if (value := state.get(key)) is not None}

    def money(self) -> int:
        """All there is in micro-BLOC, equal to the supply: balances, deposits, stakes, earnings of this era, pots and
        channels, and what was burned."""
        total = 0
        for key, value in self.state().items():
            shape = SHAPES.get(key[:1])
            record: Any = codec.decode(value, shape, limit=2**16) if shape else None
            for field in ("balance", "deposit", "at_stake", "era_pot", "burned"):
                total += getattr(record, field, 0)
            total += sum(getattr(record, "earned", ()))
        return total

    def _apply(self, commit: Commit) -> Result:
        batch = Batch()
        result = self.chain.execute(commit, batch)
        self.store.write(batch, sync=True)
        self.results.append(result)
        return result

    def _block(self, height: int, author: int, payload: tuple[bytes, ...]) -> Block:
        header = Header(self.chain.chain_id, 0, author, height, (), height * 100, bytes(32))
        return sign_block(header, payload, VALIDATORS[author])
