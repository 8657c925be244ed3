"""The service machine: executes commits of layer 1 against the state, and answers what is in it.

Layer 1 calls `check` on every payload item before it enters a block, in several threads at once, and `execute` on every
commit, in order, in one thread. All writes of a commit go into the caller's batch; the caller writes it before the next
`execute`, and stops the process if that fails, because the memory is ahead of the store by then. Queries read the store
only, so they may come from any thread and show nothing that could still be lost; `prove` reads the tree in memory and
must not run beside `execute`.

Tables: the state's (`state`), `receipts` (by transaction id), `parties` (agreements by account), and in `meta` the last
executed height (`height`) and the last checkpoint (`checkpoint`). DESIGN sections 1 (rule 2) and 4.
"""

from __future__ import annotations

from typing import Final

from blockcloud.primitives import codec
from blockcloud.primitives.codec import Struct
from blockcloud.primitives.errors import LocalFault, WrongChain
from blockcloud.primitives.limits import STATE_VALUE_BYTES, TRANSACTION_OPERATIONS
from blockcloud.primitives.storage import Batch, Store
from blockcloud.service_chain import parties, receipts
from blockcloud.service_chain.accounts import Context, Event
from blockcloud.service_chain.contracts.limits import FUEL_PER_SLOT
from blockcloud.service_chain.contracts.runtime import ContractRuntime
from blockcloud.service_chain.eras import begin_next_era, current_plan, freeze_candidates, last_height
from blockcloud.service_chain.execution import Effect, execute_transaction
from blockcloud.service_chain.fees import after_commit, delegations_of, fuel_of
from blockcloud.service_chain.genesis import Genesis
from blockcloud.service_chain.market.rounds import turn_markets
from blockcloud.service_chain.parsed import ParsedTransactions
from blockcloud.service_chain.proof_of_service.settlement import turn_verification
from blockcloud.service_chain.receipts import Receipt, decode_receipt
from blockcloud.service_chain.records import (
    Account,
    AccountKeys,
    Candidate,
    ContractRecord,
    CurrentEra,
    EraEnd,
    Fees,
    NameRecord,
    NamespaceRecord,
    StakeRecord,
    decode_record,
)
from blockcloud.service_chain.rejections import DUPLICATE, StaleSequence, Unpaid
from blockcloud.service_chain.resources import stake_record, turn_round
from blockcloud.service_chain.rewards import note_commit, settle_era
from blockcloud.service_chain.state import VersionedState
from blockcloud.service_chain.state_keys import (
    CURRENT_ERA_KEY,
    FEES_KEY,
    account_key,
    account_keys_key,
    candidate_key,
    contract_key,
    era_end_key,
    era_key,
    file_key,
    name_key,
    namespace_key,
)
from blockcloud.service_chain.transaction import Transaction, parse_transaction, verify_signatures
from blockcloud.service_chain.working_state import WorkingState
from blockcloud.transaction_chain.commit import Commit, genesis_record
from blockcloud.transaction_chain.era import EraPlan
from blockcloud.transaction_chain.machine import Result

META: Final = "meta"
HEIGHT_KEY: Final = b"height"
CHECKPOINT_KEY: Final = b"checkpoint"
CHAIN_KEY: Final = b"chain"
CHECKPOINT_BYTES: Final = 256
HISTORY_ENTRIES: Final = 1_000
# Delegated names beyond the first few that count as one more operation, so that a block of batches stays bounded.
DELEGATIONS_PER_SLOT: Final = 4


class OutOfOrder(LocalFault):
    """A commit must be one above the last that was executed."""

    code = "out_of_order"


class WrongGenesis(LocalFault):
    """The store belongs to a chain with another genesis."""

    code = "wrong_genesis"
    hint = "Use the data folder of this chain, or start with an empty one."


class _Checkpoint(Struct, frozen=True):
    """The last checkpoint as it is stored."""

    height: int
    commit_digest: bytes
    root: bytes


def encode_checkpoint(height: int, commit_digest: bytes, root: bytes) -> bytes:
    """The last checkpoint as it is stored."""
    return codec.encode(_Checkpoint(height, commit_digest, root))


def _receipt(transaction_id: bytes, height: int, index: int, effect: Effect) -> Receipt:
    spent = effect.spent
    if spent is None:
        return Receipt(transaction_id, height, index, effect.code, effect.fee)
    events = tuple((item.contract, item.topic, item.data) for item in spent.events)
    return Receipt(transaction_id, height, index, effect.code, effect.fee, spent.fuel, spent.output, events)


def _slots(transaction: Transaction) -> int:
    """For how many operations a transaction counts in a block, its fuel and the names that it delegates included."""
    operations = transaction.body.operations
    delegated = delegations_of(operations) // DELEGATIONS_PER_SLOT
    return min(TRANSACTION_OPERATIONS, len(operations) + fuel_of(operations) // FUEL_PER_SLOT + delegated)


class ServiceChain:
    """The state machine of `genesis` over `store`: recovered if the store has a height, else begun from the genesis.

    Raises WrongGenesis, StateCorrupt or BadConfiguration.
    """

    def __init__(self, genesis: Genesis, store: Store) -> None:
        self.genesis = genesis
        self.chain_id = genesis.chain_id()
        self._store = store
        self._parsed = ParsedTransactions()
        self._contracts = ContractRuntime(genesis.contracts)
        self._load()

    def reload(self) -> None:
        """Begin anew with what the store holds now, after its state was replaced by a snapshot. Raises StateCorrupt."""
        self._load()

    def _load(self) -> None:
        self._state = VersionedState(self._store)
        self._working = WorkingState(self._state.get)
        self.height = 0
        self.checkpoint: tuple[int, bytes, bytes] | None = None
        stored_height = self._store.get(META, HEIGHT_KEY)
        if stored_height is None:
            self._begin()
        else:
            self._recover(int.from_bytes(stored_height))
        if self._store.get(META, parties.COMPLETE_KEY) is None:
            parties.make(self._store, META)

    def check(self, payload: bytes) -> int:
        """The number of operations in `payload`, fuel counted in. Raises a PeerFault unless it is a transaction of this
        chain that is valid in itself. Costs one Ed25519 verification a signature, once for the same bytes."""
        known = self._parsed.get(payload)
        if known is None:
            known = self._parse(payload)
            verify_signatures(known)
            self._parsed.add(known)
        return _slots(known)

    def check_vouched(self, payload: bytes) -> int:
        """As `check`, for a payload in a block that a quorum has committed: its signatures are not verified again.

        It is remembered like one that was verified here, because it was verified, by that quorum: whether signatures
        are good depends on the bytes alone. So a copy of the same bytes that comes some other way may count too.
        """
        known = self._parsed.get(payload)
        if known is None:
            known = self._parse(payload)
            self._parsed.add(known)
        return _slots(known)

    def _parse(self, payload: bytes) -> Transaction:
        transaction = parse_transaction(payload)
        if transaction.body.chain_id != self.chain_id:
            raise WrongChain("transaction of another chain", chain=transaction.body.chain_id.hex()[:16])
        return transaction

    def execute(self, commit: Commit, batch: Batch) -> Result:
        """Execute `commit`, whose payloads have passed `check` (blocks with others are invalid), into `batch`.

        `outcomes` has (transaction id, code) for each payload item in order: "ok" or the code of a `Failed` where there
        is a receipt, "duplicate" where there was one before, else the code of an `Unpaid`. Raises OutOfOrder.
        """
        height = commit.height
        if height != self.height + 1:
            raise OutOfOrder(height=height, last=self.height)
        context = self._context(commit)
        freeze_candidates(self._working, context)
        turn_round(self._working, context)
        matched = turn_markets(self._working, context, commit.digest)
        outcomes, events = self._run(commit, batch, context)
        next_era = self._end(commit, context)
        changes = self._working.take_changes()
        digest = self._state.apply(height, changes, batch)
        parties.note(changes, batch)
        root = None
        if height % self.genesis.parameters.checkpoint_period == 0 or next_era is not None:
            root = self._state.checkpoint(height, batch)
            self._note_checkpoint(_Checkpoint(height, commit.digest, root), batch)
        batch.put(META, HEIGHT_KEY, height.to_bytes(8))
        self.height = height
        return Result(height, digest, root, tuple(outcomes), (*matched, *events), next_era)

    def _context(self, commit: Commit) -> Context:
        genesis = self.genesis
        return Context(
            height=commit.height,
            time_ms=commit.record.time_ms,
            naming=genesis.naming,
            fees=genesis.fees,
            staking=genesis.staking,
            chain_id=self.chain_id,
            plan=current_plan(self._working),
            era_length=genesis.parameters.era_length,
            challenges=genesis.challenges,
            contracts=self._contracts,
            agreements=genesis.agreements,
            market=genesis.market,
            proof_of_service=genesis.proof_of_service,
        )

    def _end(self, commit: Commit, context: Context) -> EraPlan | None:
        """What comes after the transactions: rewards, and at an era's last commit the plan of the next."""
        note_commit(self._working, commit.record, self.genesis.time_ms, context)
        if commit.height != last_height(context.plan, context.era_length):
            return None
        settle_era(self._working, commit.record.level, context)
        following = begin_next_era(self._working, context)
        turn_verification(self._working, context, following)
        return following

    def _run(self, commit: Commit, batch: Batch, context: Context) -> tuple[list[tuple[bytes, str]], list[Event]]:
        """Execute the payloads of `commit` and settle the fees; receipts go into `batch`."""
        state, height, encode, parsed = self._working, commit.height, codec.encode, self._parsed.get
        base_fee = self._fees().base_fee
        outcomes: list[tuple[bytes, str]] = []
        events: list[Event] = []
        written: dict[bytes, bytes] = {}
        paid = pot = load = 0
        for index, payload in enumerate([item for block in commit.blocks for item in block.payload]):
            transaction = parsed(payload) or parse_transaction(payload)
            try:
                effect = execute_transaction(state, transaction, base_fee, context)
            except Unpaid as rejection:
                outcomes.append((transaction.id, self._void_code(transaction, rejection, written)))
                continue
            written[transaction.id] = encode(_receipt(transaction.id, height, index, effect))
            outcomes.append((transaction.id, effect.code))
            paid += effect.fee
            pot += effect.fee >> 1
            load += effect.weight
            if effect.events:
                events += effect.events
        batch.writes += [(receipts.TABLE, transaction_id, receipt) for transaction_id, receipt in written.items()]
        # Read again: evidence burns.
        state.put(FEES_KEY, after_commit(self._fees(), paid, pot, load, self.genesis.fees))
        return outcomes, events

    def _void_code(self, transaction: Transaction, rejection: Unpaid, written: dict[bytes, bytes]) -> str:
        """Why a void transaction is void: a stale one may be a copy of one that has its receipt."""
        if isinstance(rejection, StaleSequence) and (
            transaction.id in written or self._store.get(receipts.TABLE, transaction.id) is not None
        ):
            return DUPLICATE
        return rejection.code

    # What is in the state. From here on nothing changes anything.

    def get(self, key: bytes, height: int | None = None) -> bytes | None:
        """The value of a state key, now or after the commit at `height`."""
        # Not `self._state.get`: that fills a cache which belongs to the thread that executes.
        return self._state.get_at(key, self.height if height is None else height)

    def prove(self, key: bytes, height: int) -> bytes:
        """The proof of the value, or of its absence, that `key` has at the checkpoint `height`. In the thread that
        executes, or while nothing is executed.

        Raises NotACheckpoint or Pruned.
        """
        return self._state.prove(key, height)

    def proof_heights(self) -> tuple[int, ...]:
        """The checkpoints at which proofs can be made, ascending. In the thread that executes."""
        return self._state.checkpoints

    @property
    def oldest_height(self) -> int:
        """The height from which on values are known: 0, or that of the snapshot that this state began with."""
        return self._state.oldest

    def changes_at(self, height: int) -> list[bytes]:
        """The keys that the commit at `height` changed, ascending. Raises Pruned."""
        return self._state.changes_at(height)

    def root_at(self, height: int) -> bytes:
        """The state root of the checkpoint at `height`. Raises NotACheckpoint."""
        return self._state.root_at(height)

    def account(self, public_key: bytes, height: int | None = None) -> Account | None:
        """The account of a public key."""
        return decode_record(self.get(account_key(public_key), height), Account)

    def account_keys(self, public_key: bytes, height: int | None = None) -> AccountKeys | None:
        """Who signs for an account; None: its own key, as ever."""
        return decode_record(self.get(account_keys_key(public_key), height), AccountKeys)

    def sequence_in_memory(self, public_key: bytes) -> int | None:
        """The sequence that an account's owner lane has reached, if the account is in memory; costs one lookup."""
        account = self._working.peek(account_key(public_key))
        return account.sequence if isinstance(account, Account) else None

    def name(self, name: str, height: int | None = None) -> NameRecord | None:
        """The record of a name, whether or not it is still active (`NameRecord.is_active`)."""
        return decode_record(self.get(name_key(name), height), NameRecord)

    def namespace(self, label: str, height: int | None = None) -> NamespaceRecord | None:
        """The record of a namespace, whether or not it has lapsed."""
        return decode_record(self.get(namespace_key(label), height), NamespaceRecord)

    def instance_keys(self, name: str) -> tuple[bytes, ...]:
        """The keys that may serve under `name` now: none if it is not registered, expired or revoked."""
        record = self.name(name)
        return record.instance_keys if record is not None and record.is_active(self.height) else ()

    def is_announced(self, service_file_hash: bytes) -> bool:
        """Whether a name binds this service file. A name that expired does until somebody else registers it."""
        return self.get(file_key(service_file_hash)) is not None

    def history(
        self, name: str, limit: int = HISTORY_ENTRIES, before: int | None = None
    ) -> list[tuple[int, NameRecord]]:
        """The last `limit` changes of a name, below the height `before` if given, as (height, record from then on),
        oldest first; none from before the snapshot that this node began with.

        Each record names the height of the change before it, 0 at the first. Raises Pruned.
        """
        entries: list[tuple[int, NameRecord]] = []
        record = self.name(name, None if before is None else before - 1)
        while record is not None and len(entries) < min(limit, HISTORY_ENTRIES):
            entries.append((record.changed_height, record))
            previous = record.previous_height
            record = self.name(name, previous) if previous and previous >= self._state.oldest else None
        return entries[::-1]

    def contract(self, address: bytes, height: int | None = None) -> ContractRecord | None:
        """The contract at an address."""
        return decode_record(self.get(contract_key(address), height), ContractRecord)

    def agreements_of(self, party: bytes, limit: int, after: bytes = b"") -> list[bytes]:
        """The ids of at most `limit` agreements of an account, ascending, behind `after` if given."""
        return parties.agreements_of(self._store, party, limit, after)

    @property
    def plan(self) -> EraPlan:
        """The plan of the era that the next commit belongs to."""
        value = self.get(CURRENT_ERA_KEY)
        assert value is not None, "the genesis writes the era"
        plan = self.plan_of(codec.decode(value, CurrentEra, limit=STATE_VALUE_BYTES).era)
        assert plan is not None, "each era has its plan"
        return plan

    def plan_of(self, era: int) -> EraPlan | None:
        """The plan of an era, past or present."""
        return decode_record(self.get(era_key(era)), EraPlan)

    def withdrawable_ms(self, from_era: int) -> int | None:
        """The commit time from which what can be withdrawn in era `from_era` can be: None while that is open, because
        the era in which it was unbonded goes on."""
        staking = self.genesis.staking
        end = decode_record(self.get(era_end_key(from_era - staking.unbonding_eras)), EraEnd)
        return None if end is None else end.time_ms + staking.unbonding_ms

    def candidate(self, node_key: bytes, height: int | None = None) -> Candidate | None:
        """The candidate of a node key."""
        return decode_record(self.get(candidate_key(node_key), height), Candidate)

    def stake(self, node_key: bytes) -> StakeRecord | None:
        """What a candidate has put up, and what of it is confirmed."""
        return stake_record(self.get, node_key)

    def receipt(self, transaction_id: bytes) -> Receipt | None:
        """The receipt of a transaction that was executed and paid for."""
        data = self._store.get(receipts.TABLE, transaction_id)
        return None if data is None else decode_receipt(data)

    @property
    def base_fee(self) -> int:
        """Micro-BLOC for one unit of weight in the next commit."""
        return self.fees.base_fee

    @property
    def fees(self) -> Fees:
        """The fee record: base fee, era pot, burned, supply."""
        value = self.get(FEES_KEY)
        assert value is not None, "the genesis writes the fee record"
        return codec.decode(value, Fees, limit=STATE_VALUE_BYTES)

    def _fees(self) -> Fees:
        """The fee record as the working state has it."""
        fees = self._working.get(FEES_KEY, Fees)
        assert fees is not None, "the genesis writes the fee record"
        return fees

    # The start.

    def _begin(self) -> None:
        """Write the genesis: its state is the checkpoint of height 0."""
        self.genesis.check()
        batch = Batch()
        changes = {key: codec.encode(record) for key, record in self.genesis.state().items()}
        self._state.apply(0, changes, batch)
        root = self._state.checkpoint(0, batch)
        self._note_checkpoint(_Checkpoint(0, self._genesis_digest(), root), batch)
        batch.put(META, HEIGHT_KEY, bytes(8))
        batch.put(META, CHAIN_KEY, self.chain_id)
        self._store.write(batch, sync=True)

    def _recover(self, height: int) -> None:
        """Continue where the store stopped."""
        if self._store.get(META, CHAIN_KEY) != self.chain_id:
            raise WrongGenesis(chain=self.chain_id.hex()[:16])
        self.height = height
        stored = self._store.get(META, CHECKPOINT_KEY)
        if stored is not None:
            last = codec.decode(stored, _Checkpoint, limit=CHECKPOINT_BYTES)
            self.checkpoint = (last.height, last.commit_digest, last.root)

    def _note_checkpoint(self, checkpoint: _Checkpoint, batch: Batch) -> None:
        batch.put(META, CHECKPOINT_KEY, codec.encode(checkpoint))
        self.checkpoint = (checkpoint.height, checkpoint.commit_digest, checkpoint.root)

    def _genesis_digest(self) -> bytes:
        """The digest of the commit of height 0."""
        return genesis_record(0, self.chain_id, self.genesis.time_ms).digest()
