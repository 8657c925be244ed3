"""A ledger with traders, names of those who sell, and markets; and what tests of markets do on it."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from blockcloud.primitives.keys import SigningKey
from blockcloud.service_chain.agreements.keys import agreement_key
from blockcloud.service_chain.agreements.records import Agreement
from blockcloud.service_chain.market.keys import CALENDAR_KEY, book_key, market_id, order_key
from blockcloud.service_chain.market.operations import (
    Ask,
    Bid,
    CommitOrder,
    MarketKey,
    MarketMechanism,
    OpenMarket,
    RevealOrder,
)
from blockcloud.service_chain.market.orders import Side
from blockcloud.service_chain.market.parameters import MarketParameters
from blockcloud.service_chain.market.records import BookRecord, Calendar, OrderRecord
from blockcloud.service_chain.market.sealed import SealedOrder, order_commitment
from blockcloud.service_chain.records import decode_record
from tests.service_chain.ledger_in_memory import MARKETS, NAMING, SALT, USERS, Ledger, small_genesis

SELLERS = {USERS[1]: "thermo", USERS[2]: "kitchen", USERS[3]: "lab"}
BUYERS = (USERS[4], USERS[5], USERS[6])
STRANGER, VOUCHER_KEY = USERS[7], USERS[0]
PRICE = 1_000
DELIVERY_BOND = 50
WINDOW_MS = 3_000


class MarketWorld:
    """Commits are 100 ms apart, rounds 200 ms. `market` is a ratchet at PRICE."""

    def __init__(self, limits: MarketParameters = MARKETS) -> None:
        genesis = replace(small_genesis(replace(NAMING, lifetime=10_000)), market=limits)
        self.ledger = Ledger(genesis)
        for seller, name in SELLERS.items():
            assert self.ledger.register(seller, name) == "ok"
        self.market = self.open()

    def open(self, opening_price: int = PRICE, opener: SigningKey = STRANGER, **changes: Any) -> bytes:
        """The id of a new market."""
        key = market(**changes)
        assert self.ledger.run(opener, OpenMarket(key, opening_price)) == "ok"
        return market_id(key)

    def bid(self, limit: int, quantity: int = 1, patience: int = 0, **changes: Any) -> Bid:
        return Bid(changes.get("market", self.market), limit, quantity, patience, VOUCHER_KEY.public)

    def ask(self, seller: SigningKey, limit: int, quantity: int = 1, patience: int = 0, **changes: Any) -> Ask:
        name = changes.get("name", SELLERS.get(seller, "thermo"))
        return Ask(changes.get("market", self.market), limit, quantity, patience, name, changes.get("sleep_ms", 0))

    def next_round(self) -> None:
        """Commits up to the one that holds the next round."""
        while self.ledger.height * 100 // 200 == (self.ledger.height + 1) * 100 // 200:
            self.ledger.commit()
        self.ledger.commit()

    def book(self, market: bytes | None = None) -> BookRecord:
        found = decode_record(self.ledger.chain.get(book_key(market or self.market)), BookRecord)
        assert found is not None
        return found

    def order(self, user: SigningKey, market: bytes | None = None) -> OrderRecord | None:
        return decode_record(self.ledger.chain.get(order_key(market or self.market, user.public)), OrderRecord)

    def calendar(self) -> Calendar:
        found = decode_record(self.ledger.chain.get(CALENDAR_KEY), Calendar)
        assert found is not None
        return found

    def balance(self, user: SigningKey) -> int:
        account = self.ledger.chain.account(user.public)
        return account.balance if account is not None else 0

    def agreements(self) -> list[Agreement]:
        """All that there are, in the order in which they came about."""
        found: dict[bytes, Agreement] = {}
        for result in self.ledger.results:
            for kind, data in result.events:
                if kind == "agreement":
                    record = decode_record(self.ledger.chain.get(agreement_key(data)), Agreement)
                    assert record is not None
                    found[data] = record
        return list(found.values())


def market(**changes: Any) -> MarketKey:
    fields: dict[str, Any] = {
        "service_class": "thermometer",
        "unit": "request",
        "region": "u0",
        "latency_ms": 50,
        "quality_ppm": 990_000,
        "starts_ms": 0,
        "duration_ms": WINDOW_MS,
        "mechanism": MarketMechanism.RATCHET,
        "delivery_bond": DELIVERY_BOND,
    }
    return MarketKey(**{**fields, **changes})


def sealed(market: bytes, user: SigningKey, side: Side, limit: int, quantity: int = 1) -> CommitOrder:
    """A commitment that locks what the order may owe."""
    locked = quantity * (limit if side is Side.BID else DELIVERY_BOND)
    return CommitOrder(market, order_commitment(user.public, SealedOrder(side, limit, quantity), SALT), locked)


def reveal(market: bytes, user: SigningKey, side: Side, limit: int, quantity: int = 1, **changes: Any) -> RevealOrder:
    name = SELLERS.get(user, "") if side is Side.ASK else ""
    order = SealedOrder(side, limit, quantity)
    fields = {"salt": SALT, "voucher_key": VOUCHER_KEY.public, "name": name, "sleep_ms": 0, **changes}
    return RevealOrder(market, order, **fields)
