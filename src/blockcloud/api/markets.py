"""`/v1/markets`: what is traded, the book of a market, its last clearing."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

from fastapi import APIRouter, Request, Response

from blockcloud.api.answers import answer, hex_bytes
from blockcloud.api.description import ERRORS, described, query
from blockcloud.api.pages import AFTER, LIMIT, page_of
from blockcloud.api.problems import NotFound
from blockcloud.node.validator import Validator
from blockcloud.primitives.addresses import format_address, parse_address
from blockcloud.primitives.amounts import format_amount
from blockcloud.service_chain.machine import ServiceChain
from blockcloud.service_chain.market.keys import order_key
from blockcloud.service_chain.market.orders import Side
from blockcloud.service_chain.market.reading import BOOK_ORDERS, MARKETS_PAGE, Market, find_market, markets, orders_of
from blockcloud.service_chain.market.records import Clearing, OrderRecord, OrderStatus
from blockcloud.service_chain.market.rules import end_ms
from blockcloud.service_chain.records import decode_record

# Of each side of a book that is shown, the best first.
LEVELS: Final = 100

_ACCOUNT: Final = query("account", "Show the order of this account too.", kind="string")


def market_routes(validator: Validator) -> APIRouter:
    """The routes over `validator`."""
    router = APIRouter(prefix="/v1", tags=["ledger"], responses=ERRORS)
    chain = validator.chain

    @router.get("/markets", summary="Markets, in the order of their opening", openapi_extra=described(LIMIT, AFTER))
    async def listed(request: Request) -> Response:
        """`next` is the market behind which the next page begins; null at the end."""
        limit, after = page_of(request, MARKETS_PAGE)
        height = chain.applied_height
        read = partial(chain.get, height=height)
        found = await asyncio.to_thread(markets, read, limit, after)
        following = found[-1].id.hex() if len(found) == limit else None
        views = [market_view(each) for each in found]
        return answer(request, {"height": height, "markets": views, "next": following})

    @router.get("/markets/{market}", summary="A market and its book", openapi_extra=described(_ACCOUNT))
    async def one(request: Request, market: str) -> Response:
        """Orders of one limit are put together; `complete` says whether all orders were counted."""
        identity, account = hex_bytes(market, 32), request.query_params.get("account")
        party = None if account is None else parse_address(account)
        return answer(request, await asyncio.to_thread(book_view, chain, identity, party))

    return router


def market_view(market: Market) -> dict[str, Any]:
    """A market without its orders. Amounts are for a unit, in BLOC; `ends_ms` is null where each match has a window of
    its own."""
    key, book = market.record.key, market.book
    return {
        "market": market.id.hex(),
        "service_class": key.service_class,
        "unit": key.unit,
        "region": key.region,
        "latency_ms": key.latency_ms,
        "quality_ppm": key.quality_ppm,
        "starts_ms": key.starts_ms or None,
        "ends_ms": end_ms(key),
        "duration_ms": key.duration_ms,
        "mechanism": key.mechanism.value,
        "delivery_bond": format_amount(key.delivery_bond),
        "delivery_bond_micro_bloc": key.delivery_bond,
        "opener": format_address(market.record.opener),
        "opened_height": market.record.opened_height,
        "price": format_amount(book.price),
        "price_micro_bloc": book.price,
        "round": book.coming_round,
        "phase": book.phase.name.lower(),
        "live_orders": book.live,
        "last_clearing": _clearing_view(book.clearing),
    }


def book_view(chain: ServiceChain, market: bytes, account: bytes | None) -> dict[str, Any]:
    """A market, its book, and the order of `account` if given. Raises NotFound."""
    read = chain.get
    found = find_market(read, market)
    if found is None:
        raise NotFound("no such market is open", market=market.hex())
    orders = orders_of(read, found)
    live = [order for order in orders if order.status is OrderStatus.LIVE]
    view = {
        **market_view(found),
        "bids": _levels([order for order in live if order.order.side is Side.BID], best=-1),
        "asks": _levels([order for order in live if order.order.side is Side.ASK], best=1),
        "sealed_orders": sum(order.status is OrderStatus.COMMITTED for order in orders),
        "resting": sum(order.status in (OrderStatus.RESTING, OrderStatus.CANCELLED) for order in orders),
        "complete": found.book.orders.entries <= BOOK_ORDERS,
    }
    if account is not None:
        mine = decode_record(read(order_key(market, account)), OrderRecord)
        view["order"] = None if mine is None else order_view(mine)
    return view


def order_view(record: OrderRecord) -> dict[str, Any]:
    """An order of one account. What it holds is locked for it, and comes back when it leaves, or goes into a match."""
    order = record.order
    hidden = record.status is OrderStatus.COMMITTED
    return {
        "id": f"{order.id.height}.{order.id.place}",
        "account": format_address(order.identity),
        "status": record.status.name.lower(),
        "side": None if hidden else order.side.name.lower(),
        "limit": None if hidden else format_amount(order.limit),
        "limit_micro_bloc": None if hidden else order.limit,
        "quantity": None if hidden else order.quantity,
        "left": None if hidden else record.left,
        "arrival_round": order.arrival,
        "expiry_round": order.expiry,
        "rests_until_round": record.until,
        "name": record.name or None,
        "commitment": record.commitment.hex() or None,
        "held": format_amount(record.at_stake),
        "held_micro_bloc": record.at_stake,
    }


def _levels(orders: Sequence[OrderRecord], best: int) -> list[dict[str, Any]]:
    """Orders of one limit together; `best` is 1 if the lowest limit is the best, else -1."""
    units: dict[int, int] = {}
    counts: dict[int, int] = {}
    for record in orders:
        limit = record.order.limit
        units[limit] = units.get(limit, 0) + record.left
        counts[limit] = counts.get(limit, 0) + 1
    return [
        {"limit": format_amount(limit), "limit_micro_bloc": limit, "units": units[limit], "orders": counts[limit]}
        for limit in sorted(units, key=lambda each: best * each)[:LEVELS]
    ]


def _clearing_view(clearing: Clearing | None) -> dict[str, Any] | None:
    if clearing is None:
        return None
    return {
        "height": clearing.height,
        "time_ms": clearing.time_ms,
        "round": clearing.round,
        "price": format_amount(clearing.price),
        "price_micro_bloc": clearing.price,
        "trades": clearing.trades,
        "units": clearing.units,
        "paid": format_amount(clearing.paid),
        "burned": format_amount(clearing.surplus),
    }
