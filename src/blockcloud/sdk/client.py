"""The asynchronous client of the ledger: reads with proofs (`reading.py`), builds, signs and submits transactions."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final

from blockcloud.primitives import codec
from blockcloud.primitives.errors import TimedOut
from blockcloud.primitives.keys import SigningKey
from blockcloud.primitives.limits import STATE_VALUE_BYTES
from blockcloud.primitives.names import parse_name
from blockcloud.routing.service_file import parse_service_file, service_file_hash
from blockcloud.sdk.errors import BadAnswer, rejection
from blockcloud.sdk.keepers import Keepers
from blockcloud.sdk.light_client import LightClient
from blockcloud.sdk.reading import POLL_SECONDS, TIMEOUT_SECONDS, AsyncReader, unix_ms
from blockcloud.sdk.submission import Outcome, Submission, Wait, validator_order
from blockcloud.sdk.transport import ATTEMPT_SECONDS
from blockcloud.sdk.trust_store import TrustStore
from blockcloud.service_chain.genesis import Genesis
from blockcloud.service_chain.operations import (
    AddInstance,
    Operation,
    Preorder,
    Register,
    RemoveInstance,
    RenewName,
    RevokeName,
    Transfer,
    TransferName,
    UpdateName,
    name_commitment,
)
from blockcloud.service_chain.receipts import Receipt
from blockcloud.service_chain.records import Lane, PreorderRecord, decode_record
from blockcloud.service_chain.rejections import OK, PreorderExists, PreorderTooYoung, StaleSequence
from blockcloud.service_chain.state_keys import lane_key, preorder_key
from blockcloud.service_chain.transaction import TransactionBody, parse_transaction, sign_transaction

# A signed transaction that was not committed is void so many commits after it was made.
VALID_COMMITS: Final = 2_000
# Drawn on top, so that the same payment made twice is two transactions, also where a node that is behind names a
# sequence that is used up: else the second would pass for a copy of the first, with its receipt.
VALID_SPREAD: Final = 4_096
FEE_LIMIT_MICRO_BLOC: Final = 1_000_000
STATUS_SECONDS: Final = 5.0
RESIGN_ATTEMPTS: Final = 3
LANES_KEPT: Final = 4_096
SALT_BYTES: Final = 32


class _LaneState:
    """Where a lane of this client stands; `next` is None until a node has been asked."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.next: int | None = None
        self.used = 0  # sequences below this have receipts, whatever a node that is behind says


class AsyncClient(AsyncReader):
    """A client of the chain of `genesis`: a reader that signs. See `AsyncReader` for what both take.

    Transactions are of `account` (its first public key) where that is not the account of the key that signs, because
    its keys were changed or `lane` has a key of its own; `cosigners` sign all of them too.
    """

    def __init__(
        self,
        genesis: Genesis,
        endpoints: Sequence[str] | None = None,
        *,
        light_client: LightClient | None = None,
        trust_store: TrustStore | None = None,
        account: bytes | None = None,
        cosigners: Sequence[SigningKey] = (),
        lane: int = 0,
        attempt_s: float = ATTEMPT_SECONDS,
        now_ms: Callable[[], int] = unix_ms,
    ) -> None:
        super().__init__(
            genesis,
            endpoints,
            light_client=light_client,
            trust_store=trust_store,
            attempt_s=attempt_s,
            now_ms=now_ms,
        )
        known = {item.api_url.rstrip("/"): item.key for item in genesis.validators}
        self._validators = [(known.get(url, url.encode()), url) for url in self.transport.urls]
        self._account, self._cosigners, self._own_lane = account, tuple(cosigners), lane
        self._lanes: OrderedDict[tuple[bytes, int], _LaneState] = OrderedDict()
        self._height = 0
        self._height_at = float("-inf")

    async def submit(
        self, transactions: Sequence[bytes], *, wait: Wait = "committed", timeout_s: float = TIMEOUT_SECONDS
    ) -> list[Outcome]:
        """Send signed transactions, at most 1,000, to the validator of the first one's lane; to the next if it fails.

        Raises Busy, TimedOut or Unreachable if some have no outcome in time; the same bytes may be submitted again.
        """
        body = parse_transaction(transactions[0]).body if transactions else None
        sender, lane = (body.sender, body.lane) if body is not None else (b"", 0)
        order = validator_order(0, sender, lane, self._validators)
        return await Submission(self.transport, transactions, order).run(wait, timeout_s)

    def acts_for(self, key: SigningKey, sender: bytes | None = None) -> bytes:
        """The account that transactions signed by `key` are of: `sender`, else this client's, else the key's own."""
        return sender or self._account or key.public

    async def transact(self, key: SigningKey, *operations: Operation, **how: Any) -> Receipt:
        """Sign one transaction with `operations`, send it, wait until it is committed. Keywords as `submit_all`."""
        (receipt,) = await self.submit_all(key, [operations], **how)
        return receipt

    async def submit_all(
        self,
        key: SigningKey,
        transactions: Sequence[Sequence[Operation]],
        *,
        sender: bytes | None = None,
        cosigners: Sequence[SigningKey] | None = None,
        lane: int | None = None,
        fee_limit: int = FEE_LIMIT_MICRO_BLOC,
        timeout_s: float = TIMEOUT_SECONDS,
    ) -> list[Receipt]:
        """Sign a transaction for each item of operations, send them together, wait until all are committed.

        One call at a time for each `lane` (default: the client's). `sender` is another account than that of `key`,
        where the lane has a key of its own or the account's keys were changed; `cosigners` (default: the client's) sign
        as well. Raises the ledger's first rejection (`service_chain.rejections`), Busy, TimedOut or Unreachable; then
        some of them may be committed all the same.
        """
        account, lane = self.acts_for(key, sender), self._own_lane if lane is None else lane
        keys = self._signers(key, cosigners)
        state = self._lane(account, lane)
        deadline = asyncio.get_running_loop().time() + timeout_s
        async with state.lock:
            for attempt in range(RESIGN_ATTEMPTS):
                first = state.next
                if first is None:
                    first = max(await self._next_sequence(account, lane), state.used)
                # If anything goes wrong from here on, a node must be asked where the lane stands.
                state.next = None
                signed = await self._sign(keys, transactions, account, lane, first, fee_limit)
                remaining = max(0.001, deadline - asyncio.get_running_loop().time())
                outcomes = await self.submit(signed, timeout_s=remaining)
                receipts = [outcome.receipt for outcome in outcomes if outcome.receipt is not None]
                if len(receipts) == len(outcomes):
                    state.next = state.used = first + len(outcomes)
                    return self._all_ok(receipts)
                # Only sequences that are used up make it safe to sign the same again: the first can never execute.
                stale = all(outcome.code == StaleSequence.code for outcome in outcomes)
                if not stale or attempt == RESIGN_ATTEMPTS - 1:
                    raise rejection(next(item.code for item in outcomes if item.receipt is None))
        raise AssertionError("the loop returns or raises")

    async def signed(
        self,
        key: SigningKey,
        *operations: Operation,
        sender: bytes | None = None,
        cosigners: Sequence[SigningKey] | None = None,
        lane: int | None = None,
        fee_limit: int = FEE_LIMIT_MICRO_BLOC,
    ) -> bytes:
        """One signed transaction for `submit`, with the sequence at which a node says that the lane stands."""
        account, lane = self.acts_for(key, sender), self._own_lane if lane is None else lane
        first = await self._next_sequence(account, lane)
        (raw,) = await self._sign(self._signers(key, cosigners), [operations], account, lane, first, fee_limit)
        return raw

    async def unsigned(
        self, account: bytes, *operations: Operation, valid_commits: int, fee_limit: int = FEE_LIMIT_MICRO_BLOC
    ) -> TransactionBody:
        """A transaction of `account` on lane 0 for others to sign (`sdk.drafts`), void after so many commits."""
        valid_until = await self._current_height() + valid_commits
        sequence = await self._next_sequence(account, 0)
        return TransactionBody(self.chain_id, account, 0, sequence, valid_until, fee_limit, operations)

    def _signers(self, key: SigningKey, cosigners: Sequence[SigningKey] | None) -> list[SigningKey]:
        """`key` and those that sign with it, each once."""
        others = self._cosigners if cosigners is None else cosigners
        return list({each.public: each for each in (key, *others)}.values())

    async def _sign(
        self,
        keys: Sequence[SigningKey],
        transactions: Sequence[Sequence[Operation]],
        account: bytes,
        lane: int,
        first: int,
        fee_limit: int,
    ) -> list[bytes]:
        """Transactions with consecutive sequences from `first`."""
        valid_until = await self._current_height() + VALID_COMMITS + secrets.randbelow(VALID_SPREAD)
        return [
            sign_transaction(
                TransactionBody(self.chain_id, account, lane, first + index, valid_until, fee_limit, tuple(operations)),
                *keys,
            )
            for index, operations in enumerate(transactions)
        ]

    def _all_ok(self, receipts: list[Receipt]) -> list[Receipt]:
        """`receipts`, if all of them say ok; else raises the rejection of the first that does not."""
        self._saw_height(max(receipt.height for receipt in receipts))
        for receipt in receipts:
            if receipt.code != OK:
                more = {"reason": receipt.output.decode("ascii", "backslashreplace")} if receipt.output else {}
                identifier = receipt.transaction_id.hex()[:16]
                raise rejection(receipt.code, **more, height=receipt.height, transaction=identifier)
        return receipts

    async def transfer(self, key: SigningKey, to: bytes, micro_bloc: int, **how: Any) -> Receipt:
        """Move `micro_bloc` to the account of the public key `to`. Keywords as `submit_all`."""
        return await self.transact(key, Transfer(to, micro_bloc), **how)

    async def preorder_and_register(
        self,
        key: SigningKey,
        name: str,
        *,
        service_file_hash: bytes = b"",
        instance_keys: Sequence[bytes] = (),
        salt: bytes | None = None,
        price_limit: int = 0,
        timeout_s: float = TIMEOUT_SECONDS,
    ) -> Receipt:
        """Register `name` for the account of `key`: preorder with a salted hash, wait for the window, register.

        Give the `salt` (32 bytes, secret until the end) to be able to go on after a crash. In a namespace the name
        costs what `namespaces.terms` says; more than `price_limit` micro-BLOC is not paid. Raises as `submit_all`.
        """
        parse_name(name)
        salt = os.urandom(SALT_BYTES) if salt is None else salt
        register = Register(name, salt, service_file_hash, tuple(instance_keys), price_limit)
        return await self.preordered(
            key, name_commitment(name, salt, self.acts_for(key)), register, timeout_s=timeout_s
        )

    async def preordered(
        self, key: SigningKey, commitment: bytes, operation: Operation, *, timeout_s: float = TIMEOUT_SECONDS
    ) -> Receipt:
        """Preorder with `commitment`, wait for its window, then send the operation that it opens to."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        opens = await self._preorder(key, commitment, timeout_s)
        while True:
            # The commit that executes it comes after the one that a node has just executed.
            if await self._current_height(fresh=True) + 1 >= opens:
                with suppress(PreorderTooYoung):
                    return await self.transact(key, operation, timeout_s=max(0.001, deadline - loop.time()))
            if loop.time() >= deadline:
                raise TimedOut("the window of the preorder did not open in time", seconds=timeout_s)
            await asyncio.sleep(POLL_SECONDS)

    async def _preorder(self, key: SigningKey, commitment: bytes, timeout_s: float) -> int:
        """Preorder, or take up a preorder of before; the height from which on the name can be registered."""
        try:
            height = (await self.transact(key, Preorder(commitment), timeout_s=timeout_s)).height
        except PreorderExists:
            made = (await self.proven(preorder_key(commitment, self.acts_for(key)))).value
            height = codec.decode(made, PreorderRecord, limit=STATE_VALUE_BYTES).height if made is not None else 0
        return height + self.genesis.naming.preorder_min

    async def update_name(self, key: SigningKey, name: str, file_hash: bytes, **how: Any) -> Receipt:
        """Bind another service file's hash to a name."""
        return await self.transact(key, UpdateName(parse_name(name), file_hash), **how)

    async def add_instance(self, key: SigningKey, name: str, instance_key: bytes, **how: Any) -> Receipt:
        """Let the holder of `instance_key` serve under a name."""
        return await self.transact(key, AddInstance(parse_name(name), instance_key), **how)

    async def remove_instance(self, key: SigningKey, name: str, instance_key: bytes, **how: Any) -> Receipt:
        """Take that right away."""
        return await self.transact(key, RemoveInstance(parse_name(name), instance_key), **how)

    async def transfer_name(self, key: SigningKey, name: str, to: bytes, **how: Any) -> Receipt:
        """Give a name to another owner."""
        return await self.transact(key, TransferName(parse_name(name), to), **how)

    async def renew_name(self, key: SigningKey, name: str, *, price_limit: int = 0, **how: Any) -> Receipt:
        """Start a name's lifetime anew, for at most `price_limit` micro-BLOC."""
        return await self.transact(key, RenewName(parse_name(name), price_limit), **how)

    async def revoke_name(self, key: SigningKey, name: str, **how: Any) -> Receipt:
        """Give a name up."""
        return await self.transact(key, RevokeName(parse_name(name)), **how)

    async def put_service_file(self, data: bytes) -> bytes:
        """Store a service file, whose hash the ledger announces, at the routing nodes that should hold it, at all if
        they are few; its hash.

        One is enough, they replicate. Raises the first refusal if none took it.
        """
        parse_service_file(data)
        file_hash = service_file_hash(data)
        takers = Keepers(self.light_client).takers(self.transport.urls, file_hash)
        await self.transport.everywhere("PUT", f"/v1/service-files/{file_hash.hex()}", data, first=takers)
        return file_hash

    # Bookkeeping

    def _lane(self, account: bytes, lane: int) -> _LaneState:
        state = self._lanes.setdefault((account, lane), _LaneState())
        self._lanes.move_to_end((account, lane))
        if len(self._lanes) > LANES_KEPT:
            oldest = next((place for place, item in self._lanes.items() if not item.lock.locked()), None)
            if oldest is not None and oldest != (account, lane):
                del self._lanes[oldest]
        return state

    async def _next_sequence(self, account: bytes, lane: int) -> int:
        """Where a lane stands. A node that lies about it only makes the ledger reject the transaction."""
        if lane:
            record = decode_record((await self.proven(lane_key(account, lane))).value, Lane)
            return record.sequence if record is not None else 0
        sequence = (await self.account_view(account)).get("sequence")
        if not isinstance(sequence, int) or sequence < 0:
            raise BadAnswer("an account without a sequence")
        return sequence

    async def _current_height(self, *, fresh: bool = False) -> int:
        """A recent height of the ledger, for what needs no proof."""
        loop = asyncio.get_running_loop()
        if fresh or loop.time() - self._height_at > STATUS_SECONDS:
            height = (await self.status()).get("height")
            if not isinstance(height, int) or height < 0:
                raise BadAnswer("a status without a height")
            self._saw_height(height)
        return self._height

    def _saw_height(self, height: int) -> None:
        self._height = max(self._height, height)
        self._height_at = asyncio.get_running_loop().time()
