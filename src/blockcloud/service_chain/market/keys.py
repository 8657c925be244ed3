"""Where the records of markets stand in the state map, and what names a market."""

from __future__ import annotations

from typing import Final

from blockcloud.primitives import codec
from blockcloud.primitives.hashes import tagged_hash
from blockcloud.service_chain.market.operations import MarketKey

CALENDAR_KEY: Final = b"L"
# What the keys of a list's pages begin with: of all markets, and (`orders_listing`) of a market's orders.
LISTED: Final = b"Ll"


def market_id(key: MarketKey) -> bytes:
    """The id of a market."""
    return tagged_hash("market/v1", codec.encode(key))


def market_key(market: bytes) -> bytes:
    """The MarketRecord of an id."""
    return b"M" + market


def book_key(market: bytes) -> bytes:
    """The BookRecord of a market."""
    return b"B" + market


def order_key(market: bytes, account: bytes) -> bytes:
    """The OrderRecord of an account in a market."""
    return b"O" + market + account


def orders_listing(market: bytes) -> bytes:
    """What the keys of the pages begin with that list a market's orders."""
    return b"Lb" + market


def page_key(listing: bytes, number: int) -> bytes:
    """A Page of a list."""
    return listing + number.to_bytes(8)


def turn_key(number: int) -> bytes:
    """The MarketTurn of this number."""
    return b"Lt" + number.to_bytes(8)


def match_name(market: bytes, height: int, index: int) -> bytes:
    """What names a match: 32 bytes. A market has at most one round in a commit."""
    return tagged_hash("market-match/v1", codec.encode((market, height, index)))
