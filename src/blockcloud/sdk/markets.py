"""Markets for programs: find and open one, order and cancel, commit and reveal.

Each function takes a client (`AsyncClient`). What is read here is what a node says; the agreement that a match opened
can be proven (`service_chain.agreements.keys`), and an order never pays more than its limit, whatever a node says.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import AsyncIterator
from typing import Any, Final

import msgspec

from blockcloud.primitives import codec
from blockcloud.primitives.codec import Struct
from blockcloud.primitives.errors import BadConfiguration, Malformed
from blockcloud.primitives.keys import SigningKey
from blockcloud.primitives.limits import STATE_VALUE_BYTES
from blockcloud.primitives.names import parse_name
from blockcloud.sdk.client import SALT_BYTES, AsyncClient
from blockcloud.sdk.reading import AsyncReader
from blockcloud.service_chain.market.keys import market_id
from blockcloud.service_chain.market.operations import (
    Ask,
    Bid,
    CancelOrder,
    CloseMarket,
    CommitOrder,
    MarketKey,
    MarketMechanism,
    OpenMarket,
    RevealOrder,
)
from blockcloud.service_chain.market.orders import Side
from blockcloud.service_chain.market.sealed import SealedOrder, order_commitment
from blockcloud.service_chain.operations import Operation, check_operation
from blockcloud.service_chain.receipts import Receipt

_HEXADECIMAL: Final = re.compile(r"[0-9a-f]{4,64}")


class NoSuchMarket(BadConfiguration):
    """No open market has this id, this beginning of an id, or this service class."""

    code = "no_such_market"
    hint = "`blockcloud market list` shows those that are open; `blockcloud market open` opens one."


class SeveralMarkets(BadConfiguration):
    """Several open markets fit."""

    code = "several_markets"
    hint = "Give more digits of the id; `blockcloud market list` shows them."


class Secret(Struct, frozen=True):
    """What is needed to reveal a sealed order. Keep it: who does not reveal loses the forfeit."""

    market: bytes
    account: bytes
    order: SealedOrder
    salt: bytes

    @property
    def commitment(self) -> bytes:
        """What the ledger is told at first."""
        return order_commitment(self.account, self.order, self.salt)


async def open_market(
    client: AsyncClient,
    key: SigningKey,
    service_class: str,
    opening_price: int,
    *,
    unit: str = "request",
    region: str = "any",
    latency_ms: int = 0,
    quality_ppm: int = 990_000,
    duration_ms: int = 3_600_000,
    starts_ms: int = 0,
    mechanism: str = MarketMechanism.RATCHET.value,
    delivery_bond: int | None = None,
    **how: Any,
) -> tuple[bytes, Receipt]:
    """Open a market; its id, and the receipt. Prices and `delivery_bond` (default: the least that the chain allows) in
    micro-BLOC a unit. It costs a deposit that comes back. Keywords as `submit_all`. Raises Malformed, or as that."""
    least = client.genesis.market.delivery_bond_min
    fields = (
        service_class,
        unit,
        region,
        latency_ms,
        quality_ppm,
        starts_ms,
        duration_ms,
        mechanism,
        least if delivery_bond is None else delivery_bond,
    )
    try:
        traded = msgspec.convert(fields, MarketKey)
    except msgspec.ValidationError as error:
        raise Malformed(f"no such market can be: {error}") from None
    receipt = await client.transact(key, _checked(OpenMarket(traded, opening_price)), **how)
    return market_id(traded), receipt


async def close_market(client: AsyncClient, key: SigningKey, market: bytes, **how: Any) -> Receipt:
    """Close a market without orders; its deposit goes to who opened it. Keywords as `submit_all`."""
    return await client.transact(key, CloseMarket(market), **how)


async def bid(
    client: AsyncClient,
    key: SigningKey,
    market: bytes,
    limit: int,
    quantity: int = 1,
    *,
    patience: int | None = None,
    voucher_key: bytes | None = None,
    **how: Any,
) -> Receipt:
    """Order `quantity` units for at most `limit` micro-BLOC each, for `patience` rounds more than one (default: as many
    as the chain allows). Vouchers of `voucher_key` (default: of `key`) will pay. Keywords as `submit_all`."""
    rounds = client.genesis.market.patience_max if patience is None else patience
    order = Bid(market, limit, quantity, rounds, voucher_key or key.public)
    return await client.transact(key, _checked(order), **how)


async def ask(
    client: AsyncClient,
    key: SigningKey,
    market: bytes,
    name: str,
    limit: int,
    quantity: int = 1,
    *,
    patience: int | None = None,
    sleep_ms: int = 0,
    **how: Any,
) -> Receipt:
    """Offer `quantity` units of what `name` delivers for at least `limit` micro-BLOC each. Keywords as `bid`."""
    rounds = client.genesis.market.patience_max if patience is None else patience
    order = Ask(market, limit, quantity, rounds, parse_name(name), sleep_ms)
    return await client.transact(key, _checked(order), **how)


async def cancel(client: AsyncClient, key: SigningKey, market: bytes, **how: Any) -> Receipt:
    """Take one's order out of a market; its money comes back when it would have expired. Keywords as `submit_all`."""
    return await client.transact(key, CancelOrder(market), **how)


def seal(market: bytes, account: bytes, side: Side, limit: int, quantity: int = 1) -> Secret:
    """An order of `account` that is hidden until it is revealed."""
    return Secret(market, account, SealedOrder(side, limit, quantity), secrets.token_bytes(SALT_BYTES))


async def commit(client: AsyncClient, key: SigningKey, secret: Secret, **how: Any) -> Receipt:
    """Commit to an order in a sealed round. It locks what the order may owe, which tells the most that it may be for.
    Keywords as `submit_all`."""
    order = secret.order
    each = order.limit if order.side is Side.BID else (await client.market(secret.market))["delivery_bond_micro_bloc"]
    return await client.transact(
        key, _checked(CommitOrder(secret.market, secret.commitment, order.quantity * each)), **how
    )


async def reveal(
    client: AsyncClient, key: SigningKey, secret: Secret, *, name: str = "", sleep_ms: int = 0, **how: Any
) -> Receipt:
    """Reveal what one committed to; a seller says which `name` delivers. Keywords as `submit_all`."""
    operation = RevealOrder(secret.market, secret.order, secret.salt, key.public, name, sleep_ms)
    return await client.transact(key, _checked(operation), **how)


async def all_markets(reader: AsyncReader) -> AsyncIterator[dict[str, Any]]:
    """All open markets, as a node has them, page after page."""
    after: str | None = None
    while True:
        page = await reader.markets(after=after)
        for market in page["markets"]:
            yield market
        after = page["next"]
        if after is None:
            return


async def find(reader: AsyncReader, text: str) -> dict[str, Any]:
    """The open market that `text` names: its id, at least four first digits of it, or its service class, if that is
    the only one. Raises NoSuchMarket or SeveralMarkets."""
    found = []
    prefix = text.lower() if _HEXADECIMAL.fullmatch(text.lower()) else None
    async for market in all_markets(reader):
        if market["service_class"] == text or (prefix is not None and market["market"].startswith(prefix)):
            found.append(market)
    if not found:
        raise NoSuchMarket(f"no open market is named by {text[:80]!r}")
    if len(found) > 1:
        shown = ", ".join(market["market"][:12] for market in found[:5])
        raise SeveralMarkets(f"{len(found)} open markets are named by {text[:80]!r}: {shown}")
    return found[0]


def _checked(operation: Operation) -> Operation:
    """`operation`, with all bounds that the codec keeps. Raises Malformed."""
    try:
        check_operation(codec.decode(codec.encode(operation), type(operation), limit=STATE_VALUE_BYTES))
    except OverflowError:
        raise Malformed("a number is beyond all bounds") from None
    return operation
