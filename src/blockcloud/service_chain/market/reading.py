"""What is in the markets, for whoever shows them: the same records, read and never written.

A book may have thousands of orders and a chain thousands of markets, so each answer has its bound.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from blockcloud.service_chain.market.keys import (
    CALENDAR_KEY,
    LISTED,
    book_key,
    market_key,
    order_key,
    orders_listing,
    page_key,
)
from blockcloud.service_chain.market.records import BookRecord, Calendar, MarketRecord, OrderRecord, Page, Pages
from blockcloud.service_chain.records import decode_record

BOOK_ORDERS: Final = 1_000
MARKETS_PAGE: Final = 200

Read = Callable[[bytes], bytes | None]


class Market(NamedTuple):
    """A market and its book, without the orders."""

    id: bytes
    record: MarketRecord
    book: BookRecord


def find_market(read: Read, market: bytes) -> Market | None:
    """A market by its id."""
    record, book = (
        decode_record(read(market_key(market)), MarketRecord),
        decode_record(read(book_key(market)), BookRecord),
    )
    return None if record is None or book is None else Market(market, record, book)


def markets(read: Read, limit: int, after: bytes | None = None) -> list[Market]:
    """At most `limit` markets in the order in which they were opened, behind the market `after` if given; none if that
    is not there any more."""
    calendar = decode_record(read(CALENDAR_KEY), Calendar)
    if calendar is None:
        return []
    listed = calendar.listed
    if after is not None:
        last = decode_record(read(market_key(after)), MarketRecord)
        if last is None:
            return []
        listed = Pages(last.page, listed.end, listed.entries)
    found: list[Market] = []
    behind = after is None
    for identity in _members(read, LISTED, listed):
        market = find_market(read, identity) if behind else None
        behind = behind or identity == after
        if market is not None:
            found.append(market)
        if len(found) == limit:
            break
    return found


def orders_of(read: Read, market: Market, limit: int = BOOK_ORDERS) -> list[OrderRecord]:
    """At most `limit` orders of a market, in the order in which they came."""
    found: list[OrderRecord] = []
    for account in _members(read, orders_listing(market.id), market.book.orders):
        order = decode_record(read(order_key(market.id, account)), OrderRecord)
        if order is not None:
            found.append(order)
        if len(found) == limit:
            break
    return found


def _members(read: Read, listing: bytes, pages: Pages) -> Iterator[bytes]:
    for number in range(pages.first, pages.end):
        page = decode_record(read(page_key(listing, number)), Page)
        if page is not None:
            yield from page.members
