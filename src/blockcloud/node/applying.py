"""Executing commits in one thread of their own, in order, each with its record in one atomic write.

The thread keeps execution (pure Python, up to tens of milliseconds for a large commit) from holding up the event loop.
Results go back to the loop. When a write fails, the memory of the service machine is ahead of the store and the node
must stop: the failure goes to the loop and the thread ends.

The service machine belongs to this thread. `SharedChain` is what other threads may ask meanwhile: it answers from the
store as of the last applied commit, never from the machine's caches, and makes proofs only while the tree stands still.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Final

from blockcloud.node.ledger_tables import LedgerTables
from blockcloud.node.storage import RECEIPTS
from blockcloud.primitives import codec
from blockcloud.primitives.errors import Busy
from blockcloud.primitives.limits import STATE_VALUE_BYTES
from blockcloud.primitives.storage import Batch, Store
from blockcloud.service_chain.genesis import Genesis
from blockcloud.service_chain.machine import ServiceChain
from blockcloud.service_chain.records import Fees
from blockcloud.service_chain.state import FutureHeight
from blockcloud.service_chain.state_keys import FEES_KEY, file_key
from blockcloud.transaction_chain.commit import Commit
from blockcloud.transaction_chain.machine import Result

JOIN_SECONDS: Final = 30
REPLACING_MS: Final = 2_000  # when to ask again
INLINE_PAYLOADS: Final = 16  # about 0.5 ms


class SharedChain(ServiceChain):
    """The service machine of a running node. Queries may come from any thread; `execute` from one.

    `applied_height` is the last commit whose effects are in the store, which is what queries see by default.
    """

    def __init__(self, genesis: Genesis, store: Store) -> None:
        super().__init__(genesis, store)
        self.applied_height = self.height
        self.tree_lock = threading.Lock()
        self.replacing = False  # a snapshot takes the place of the state: there is nothing to ask

    def reload(self) -> None:
        """Go on from the store, whose state was replaced. Takes seconds for a million keys. Raises StateCorrupt."""
        with self.tree_lock:
            super().reload()
            self.applied_height = self.height

    def get(self, key: bytes, height: int | None = None) -> bytes | None:
        """The value of a state key after the commit at `height`, or after the last applied one."""
        if self.replacing:
            raise Busy("the state is being replaced by a newer one", retry_after_ms=REPLACING_MS)
        return super().get(key, self.applied_height if height is None else height)

    def prove(self, key: bytes, height: int) -> bytes:
        """As `ServiceChain.prove`; waits while a checkpoint changes the tree."""
        if self.replacing:
            raise Busy("the state is being replaced by a newer one", retry_after_ms=REPLACING_MS)
        with self.tree_lock:
            return super().prove(key, height)

    def proof_heights(self) -> tuple[int, ...]:
        """As `ServiceChain.proof_heights`; waits while a checkpoint changes the tree."""
        if self.replacing:
            raise Busy("the state is being replaced by a newer one", retry_after_ms=REPLACING_MS)
        with self.tree_lock:
            return super().proof_heights()

    def changes_at(self, height: int) -> list[bytes]:
        """As `ServiceChain.changes_at`. Raises FutureHeight above the last applied commit."""
        if self.replacing:
            raise Busy("the state is being replaced by a newer one", retry_after_ms=REPLACING_MS)
        self.require_reached(height)
        return super().changes_at(height)

    def require_reached(self, height: int) -> None:
        """Raise FutureHeight unless the commit at `height` is applied."""
        if height > self.applied_height:
            raise FutureHeight(height=height, reached=self.applied_height)

    def is_announced(self, service_file_hash: bytes) -> bool:
        """Whether a name binds this service file."""
        return self.get(file_key(service_file_hash)) is not None

    @property
    def fees(self) -> Fees:
        """The fee record: base fee, era pot, burned, supply."""
        value = self.get(FEES_KEY)
        assert value is not None, "the genesis writes the fee record"
        return codec.decode(value, Fees, limit=STATE_VALUE_BYTES)


@dataclass(frozen=True, slots=True)
class Applied:
    """A commit whose effects are stored. `receipts`: transaction id -> encoded receipt."""

    commit: Commit
    result: Result
    receipts: dict[bytes, bytes]


class Applier:
    """The apply thread. `deliver(applied)` and `failed(error)` are called in the loop that made it.

    `backlog` counts the commits that were given and not yet delivered; the owner keeps it below a limit.
    """

    def __init__(
        self,
        chain: SharedChain,
        tables: LedgerTables,
        store: Store,
        *,
        deliver: Callable[[list[Applied]], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        self._chain, self._tables, self._store = chain, tables, store
        self._deliver, self._failed = deliver, failed
        self._loop = asyncio.get_running_loop()
        self._waiting: SimpleQueue[Commit | None] = SimpleQueue()
        self._done: deque[Applied] = deque()
        self._closing = False
        self.backlog = 0
        self._since_root = 0  # payloads that the next checkpoint has to take into the tree
        self._thread = threading.Thread(target=self._run, name="apply", daemon=True)
        self._thread.start()

    def put(self, commit: Commit) -> None:
        """Queue the next commit. While little is to be done up to the next root, a commit is applied at once if the
        thread rests: waking it would cost more."""
        self._since_root += sum(len(block.payload) for block in commit.blocks)
        small = self._since_root <= INLINE_PAYLOADS
        if commit.height % self._chain.genesis.parameters.checkpoint_period == 0:
            self._since_root = 0
        if self.backlog == 0 and small:
            self._deliver([self._apply(commit)])
            return
        self.backlog += 1
        self._waiting.put(commit)

    def close(self) -> None:
        """End after the commit that runs; what waits is decided again after the next start."""
        self._closing = True
        self._waiting.put(None)
        self._thread.join(JOIN_SECONDS)

    def _run(self) -> None:
        try:
            while (commit := self._waiting.get()) is not None and not self._closing:
                self._done.append(self._apply(commit))
                self._wake(self._hand_over)
        except BaseException as error:
            self._wake(self._failed, error)
            if not isinstance(error, Exception):
                raise

    def _apply(self, commit: Commit) -> Applied:
        chain, batch = self._chain, Batch()
        makes_root = commit.height % chain.genesis.parameters.checkpoint_period == 0
        with chain.tree_lock if makes_root else contextlib.nullcontext():
            result = chain.execute(commit, batch)
            self._tables.put_commit(commit.record, batch)
            self._store.write(batch, sync=False)
            chain.applied_height = commit.height
        receipts = {key: value for table, key, value in batch.writes if table == RECEIPTS and value is not None}
        return Applied(commit, result, receipts)

    def _wake(self, callback: Callable[..., None], *arguments: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
            self._loop.call_soon_threadsafe(callback, *arguments)

    def _hand_over(self) -> None:
        applied: list[Applied] = []
        while self._done:
            applied.append(self._done.popleft())
        self.backlog -= len(applied)
        if applied:
            self._deliver(applied)
