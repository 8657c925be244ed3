"""Reading the ledger: `proven` and what rests on it is checked by the light client and holds whatever node answers.

Methods that end in `_view` return what one node says, which is a little newer and nobody has checked.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from blockcloud.primitives.addresses import format_address
from blockcloud.primitives.errors import BadConfiguration, PeerFault, TimedOut
from blockcloud.primitives.limits import RESOLUTION_AGE_SECONDS
from blockcloud.primitives.names import parse_name
from blockcloud.sdk import past
from blockcloud.sdk.errors import NotFound, Refused, TrustExpired, UnknownEra
from blockcloud.sdk.light_client import LightClient, Proven
from blockcloud.sdk.submission import find_receipt
from blockcloud.sdk.transport import ATTEMPT_SECONDS, MSGPACK, Transport
from blockcloud.sdk.trust_store import TrustStore
from blockcloud.service_chain.genesis import Genesis
from blockcloud.service_chain.receipts import Receipt
from blockcloud.service_chain.records import Account, AccountKeys, NameRecord, decode_record
from blockcloud.service_chain.state import NotACheckpoint
from blockcloud.service_chain.state_keys import account_key, account_keys_key, name_key
from blockcloud.transaction_chain.era import EraPlan

TIMEOUT_SECONDS: Final = 30.0
POLL_SECONDS: Final = 0.05
# Eras that one read follows; a client that is further behind gets there in several.
HANDOVERS_PER_CALL: Final = 1_024

T = TypeVar("T")


def unix_ms() -> int:
    """The wall clock."""
    return time.time_ns() // 1_000_000


class AsyncReader:
    """Reads the chain of `genesis` through the validators at `endpoints` (URLs; default: those of the genesis).

    Use as an async context manager, or call `close`. `now_ms` is the clock that the age of proofs is measured by. What
    the light client trusts is kept in `trust_store`, if given, and a reader that has one there goes on from it.
    """

    def __init__(
        self,
        genesis: Genesis,
        endpoints: Sequence[str] | None = None,
        *,
        light_client: LightClient | None = None,
        trust_store: TrustStore | None = None,
        attempt_s: float = ATTEMPT_SECONDS,
        now_ms: Callable[[], int] = unix_ms,
    ) -> None:
        self.genesis = genesis
        self.chain_id = genesis.chain_id()
        self._trust_store = trust_store
        self.light_client = light_client or LightClient(genesis)
        if light_client is None:
            self._take_up_trust()
        urls = [item.api_url for item in genesis.validators] if endpoints is None else endpoints
        self.transport = Transport(urls, attempt_s=attempt_s)
        self.now_ms = now_ms
        self.past_plans: dict[int, EraPlan] = {}  # proven ones of eras that the light client has forgotten (`sdk.past`)

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
        return decode_record((await self.proven(account_key(public_key), **how)).value, Account)

    async def account_keys(self, public_key: bytes, **how: Any) -> tuple[int, tuple[bytes, ...]]:
        """(threshold, keys) that sign for an account on lane 0, proven. Keywords as `proven`."""
        record = decode_record((await self.proven(account_keys_key(public_key), **how)).value, AccountKeys)
        return (1, (public_key,)) if record is None else (record.threshold, record.keys)

    async def name(self, name: str, **how: Any) -> NameRecord | None:
        """The proven record of a name, active or not; None if it is not registered. Keywords as `proven`."""
        return decode_record((await self.proven(name_key(parse_name(name)), **how)).value, NameRecord)

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

    async def markets(self, *, after: str | None = None, limit: int | None = None) -> dict[str, Any]:
        """`markets`: those that are open, as a node has them, a page behind the market `after`; `next` is the one to go
        on behind, null at the end. `sdk.markets` has what else there is to do with them."""
        return await self.transport.json("/v1/markets", _given(after=after, limit=limit))

    async def market(self, market: bytes, account: bytes | None = None) -> dict[str, Any]:
        """A market with its book, and the `order` of `account` if given, as a node has them. Raises NotFound."""
        address = None if account is None else format_address(account)
        return await self.transport.json(f"/v1/markets/{market.hex()}", _given(account=address))

    async def agreements(self, party: bytes, *, after: str | None = None, limit: int | None = None) -> dict[str, Any]:
        """`agreements` of an account as client or provider, as a node has them, a page behind the id `after`; `next` is
        the id to go on behind, null at the end."""
        parameters = _given(party=format_address(party), after=after, limit=limit)
        return await self.transport.json("/v1/agreements", parameters)

    async def receipt(self, transaction_id: bytes) -> Receipt | None:
        """The receipt of a committed transaction."""
        return await find_receipt(self.transport, transaction_id)


def _given(**parameters: str | int | None) -> dict[str, str]:
    """The query of those parameters that are given."""
    return {name: str(value) for name, value in parameters.items() if value is not None}
