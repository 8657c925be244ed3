"""The asynchronous client of the ledger: reads with proofs, builds, signs and submits transactions.

`account`, `name` and `proven` are checked by the light client and hold whatever node answers; methods that end in
`_view` return what one node says, which is a little newer and nobody has checked.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from blockcloud.primitives import codec
from blockcloud.primitives.addresses import format_address
from blockcloud.primitives.errors import BadConfiguration, PeerFault, TimedOut
from blockcloud.primitives.keys import SigningKey
from blockcloud.primitives.limits import RESOLUTION_AGE_SECONDS, STATE_VALUE_BYTES
from blockcloud.primitives.names import parse_name
from blockcloud.routing.service_file import parse_service_file, service_file_hash
from blockcloud.sdk import past
from blockcloud.sdk.errors import BadAnswer, NotFound, Refused, TrustExpired, UnknownEra, rejection
from blockcloud.sdk.light_client import LightClient, Proven
from blockcloud.sdk.submission import Outcome, Submission, Wait, find_receipt, validator_order
from blockcloud.sdk.transport import ATTEMPT_SECONDS, MSGPACK, Transport
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
from blockcloud.service_chain.records import Account, AccountKeys, Lane, NameRecord, PreorderRecord
from blockcloud.service_chain.rejections import OK, PreorderExists, PreorderTooYoung, StaleSequence
from blockcloud.service_chain.state import NotACheckpoint
from blockcloud.service_chain.state_keys import account_key, account_keys_key, lane_key, name_key, preorder_key
from blockcloud.service_chain.transaction import TransactionBody, parse_transaction, sign_transaction
from blockcloud.transaction_chain.era import EraPlan

TIMEOUT_SECONDS: Final = 30.0
# A signed transaction that was not committed is void so many commits after it was made.
VALID_COMMITS: Final = 2_000
# Drawn on top, so that the same payment made twice is two transactions, also where a node that is behind names a
# sequence that is used up: else the second would pass for a copy of the first, with its receipt.
VALID_SPREAD: Final = 4_096
FEE_LIMIT_MICRO_BLOC: Final = 1_000_000
STATUS_SECONDS: Final = 5.0
POLL_SECONDS: Final = 0.05
RESIGN_ATTEMPTS: Final = 3
LANES_KEPT: Final = 4_096
SALT_BYTES: Final = 32
# Eras that one read follows; a client that is further behind gets there in several.
HANDOVERS_PER_CALL: Final = 1_024

T = TypeVar("T")


class _LaneState:
    """Where a lane of this client stands; `next` is None until a node has been asked."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.next: int | None = None
        self.used = 0  # sequences below this have receipts, whatever a node that is behind says


class AsyncClient:
    """A client of the chain of `genesis` through the validators at `endpoints` (URLs; default: those of the genesis).

    Use as an async context manager, or call `close`. `now_ms` is the clock that the age of proofs is measured by. What
    the light client trusts is kept in `trust_store`, if given, and a client that has one there goes on from it.
    Transactions are of `account` (its first public key) where that is not the account of the key that signs, because
    its keys were changed; `cosigners` sign all of them too.
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
        attempt_s: float = ATTEMPT_SECONDS,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self.genesis = genesis
        self.chain_id = genesis.chain_id()
        self._trust_store = trust_store
        self.light_client = light_client or LightClient(genesis)
        if light_client is None:
            self._take_up_trust()
        known = {item.api_url.rstrip("/"): item.key for item in genesis.validators}
        self.transport = Transport(list(known) if endpoints is None else endpoints, attempt_s=attempt_s)
        self._validators = [(known.get(url, url.encode()), url) for url in self.transport.urls]
        self.now_ms = now_ms
        self._account, self._cosigners = account, tuple(cosigners)
        self.past_plans: dict[int, EraPlan] = {}  # proven ones of eras that the light client has forgotten (`sdk.past`)
        self._lanes: OrderedDict[tuple[bytes, int], _LaneState] = OrderedDict()
        self._height = 0
        self._height_at = float("-inf")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections, and keep what is trusted."""
        await self.transport.close()
        self._keep_trust(closing=True)

    # Reading, with proofs

    async def proven(
        self,
        key: bytes,
        *,
        max_age_s: int = RESOLUTION_AGE_SECONDS,
        at_least_height: int = 0,
        height: int | None = None,
        timeout_s: float = TIMEOUT_SECONDS,
    ) -> Proven:
        """The proven value of a state key at a checkpoint no older than `max_age_s`, as high as `at_least_height`.

        Or that of the past checkpoint `height`, which is not fresh: then raises Refused (`not_a_checkpoint` with the
        nearest ones, `pruned`, `future_height`), or as `LightClient.accept_past`.

        Asks one node after another until one proves it; fetches the hand-overs of eras that the light client does not
        know. Raises TrustExpired, TimedOut if no checkpoint gets that high in time, else why the last answers were
        refused.
        """
        if height is not None:
            return await past.proven_past(self, key, "height", height, timeout_s)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s

        async def attempt(url: str) -> Proven:
            data = await self.transport.once(url, "GET", "/v1/proof", params={"key": key.hex()}, accept=MSGPACK)
            return await self.with_eras(
                lambda: self.light_client.accept(data, key, self.now_ms(), max_age_s), url, deadline
            )

        while True:
            try:
                proven = await self.transport.first(attempt, timeout_s=max(0.001, deadline - loop.time()))
            except Refused as error:
                # A ledger that has just begun has no certificate yet.
                if error.code != NotACheckpoint.code or loop.time() >= deadline:
                    raise
            else:
                if proven.height >= at_least_height:
                    return proven
                if loop.time() >= deadline:
                    raise TimedOut("no checkpoint is that high yet", height=proven.height, asked=at_least_height)
            await asyncio.sleep(POLL_SECONDS)

    async def with_eras(self, verify: Callable[[], T], url: str, deadline: float) -> T:
        """What `verify` gives, after the hand-overs are followed that it lacks (UnknownEra), at most 1,024 of them.

        The node at `url`, whose answer is verified, is asked for them first. `deadline` is a time of the event loop.
        """
        try:
            try:
                return verify()
            except UnknownEra as lacking:
                await self._follow(lacking, url, deadline)
                return verify()
            except TrustExpired:
                # A fresh certificate may have been given to this home since this program began.
                if not self._take_up_trust():
                    raise
                return verify()
        finally:
            self._keep_trust()  # also when two histories were seen

    async def _follow(self, lacking: UnknownEra, url: str, deadline: float) -> None:
        """Fetch and follow hand-overs one after another. Raises `lacking` if no node has one, or time is up."""
        light, loop = self.light_client, asyncio.get_running_loop()
        order = [url, *(other for other in self.transport.urls if other != url)]
        last = min(lacking.era, light.era + HANDOVERS_PER_CALL)

        async def attempt(node: str) -> None:
            data = await self.transport.once(node, "GET", f"/v1/handovers/{light.era + 1}", accept=MSGPACK)
            light.follow(data, self.now_ms())

        while light.era < last:
            if loop.time() >= deadline:
                raise lacking
            try:
                await self.transport.first(attempt, order=order, timeout_s=deadline - loop.time())
            except NotFound:
                raise lacking from None

    def _take_up_trust(self) -> bool:
        """Go on from what the file holds, if that is newer. Raises BadConfiguration."""
        store = self._trust_store
        stored = store.load() if store is not None else None
        if store is None or stored is None:
            return False
        known = self.light_client.state()
        if known is not None and stored.time_ms <= known.time_ms:
            return False
        try:
            self.light_client.trust(stored)
        except PeerFault as error:
            raise BadConfiguration(
                f"the trust file does not hold together ({error}); begin again from the genesis with "
                "`blockcloud trust reset`",
                path=str(store.path),
            ) from None
        return True

    def _keep_trust(self, *, closing: bool = False) -> None:
        """Write what the light client trusts to its file, if that has changed by enough."""
        state = self.light_client.state()
        if self._trust_store is not None and state is not None:
            self._trust_store.keep(state, at_once=closing)

    async def account(self, public_key: bytes, **how: Any) -> Account | None:
        """The proven account of a public key; None if it has none. Keywords as `proven`."""
        return _record((await self.proven(account_key(public_key), **how)).value, Account)

    async def account_keys(self, public_key: bytes, **how: Any) -> tuple[int, tuple[bytes, ...]]:
        """(threshold, keys) that sign for an account on lane 0, proven. Keywords as `proven`."""
        record = _record((await self.proven(account_keys_key(public_key), **how)).value, AccountKeys)
        return (1, (public_key,)) if record is None else (record.threshold, record.keys)

    async def name(self, name: str, **how: Any) -> NameRecord | None:
        """The proven record of a name, active or not; None if it is not registered. Keywords as `proven`."""
        return _record((await self.proven(name_key(parse_name(name)), **how)).value, NameRecord)

    async def name_at(self, name: str, height: int, *, timeout_s: float = TIMEOUT_SECONDS) -> past.NameAt:
        """A name after the commit at any height, and whether that is proven. See `sdk.past`."""
        return await past.name_at(self, name, height, timeout_s=timeout_s)

    # Reading what one node says

    async def status(self) -> dict[str, Any]:
        """A node's status."""
        return await self.transport.json("/v1/status")

    async def checkpoint(self) -> dict[str, Any]:
        """The newest certified checkpoint that a node knows."""
        return await self.transport.json("/v1/checkpoint")

    async def account_view(self, public_key: bytes) -> dict[str, Any]:
        """An account as a node's newest state has it."""
        return await self.transport.json(f"/v1/accounts/{format_address(public_key)}")

    async def name_view(self, name: str, height: int | None = None) -> dict[str, Any]:
        """A name as a node's newest state has it, or had it at `height`. Raises NotFound."""
        params = None if height is None else {"height": str(height)}
        return await self.transport.json(f"/v1/names/{parse_name(name)}", params)

    async def name_history(
        self,
        name: str,
        *,
        before: int | None = None,
        limit: int | None = None,
        prove: bool = False,
        timeout_s: float = TIMEOUT_SECONDS,
    ) -> dict[str, Any]:
        """`history`: every state that a name had, oldest first, as a node has it, the newest 1,000 or `limit` of them;
        `before` of one page asks for the one below, and null says that this was the first operation.

        With `prove` each entry has the height that proves it, or null (`sdk.past`). Raises NotFound or BadAnswer.
        """
        page = await past.history_page(self, name, before, limit)
        return await past.prove_history(self, name, page, timeout_s=timeout_s) if prove else page

    async def value_view(self, key: bytes, height: int | None = None) -> tuple[bytes | None, int]:
        """(value, height) of any state key as a node has it, now or at `height`."""
        return await past.value_view(self, key, height)

    async def changes(self, height: int, *, after: bytes | None = None, limit: int | None = None) -> dict[str, Any]:
        """`changes`: what the commit at `height` changed, as a node has it, a page behind the key `after`; `next` is
        the key to go on behind, null at the end."""
        return await past.changes_page(self, height, after, limit)

    def all_changes(self, height: int) -> AsyncIterator[dict[str, Any]]:
        """Everything that the commit at `height` changed, page after page."""
        return past.all_changes(self, height)

    async def receipt(self, transaction_id: bytes) -> Receipt | None:
        """The receipt of a committed transaction."""
        return await find_receipt(self.transport, transaction_id)

    # Writing

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
        lane: int = 0,
        fee_limit: int = FEE_LIMIT_MICRO_BLOC,
        timeout_s: float = TIMEOUT_SECONDS,
    ) -> list[Receipt]:
        """Sign a transaction for each item of operations, send them together, wait until all are committed.

        One call at a time for each lane. `sender` is another account than that of `key`, where the lane has a key of
        its own or the account's keys were changed; `cosigners` (default: the client's) sign as well. Raises the
        ledger's first rejection (`service_chain.rejections`), Busy, TimedOut or Unreachable; then some of them may be
        committed all the same.
        """
        account = self.acts_for(key, sender)
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
        lane: int = 0,
        fee_limit: int = FEE_LIMIT_MICRO_BLOC,
    ) -> bytes:
        """One signed transaction for `submit`, with the sequence at which a node says that the lane stands."""
        account = self.acts_for(key, sender)
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
        """Store a service file, whose hash the ledger announces, at all routing nodes; its hash.

        One is enough, they replicate. Raises the first refusal if none took it.
        """
        parse_service_file(data)
        file_hash = service_file_hash(data)
        await self.transport.everywhere("PUT", f"/v1/service-files/{file_hash.hex()}", data)
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
            record = _record((await self.proven(lane_key(account, lane))).value, Lane)
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


def _record(value: bytes | None, shape: type[T]) -> T | None:
    return None if value is None else codec.decode(value, shape, limit=STATE_VALUE_BYTES)
