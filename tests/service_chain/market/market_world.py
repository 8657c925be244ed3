"""What the market tests share: rules, backed orders, and identities by number."""

from __future__ import annotations

from blockcloud.primitives.amounts import MAXIMUM_MICRO_BLOC
from blockcloud.service_chain.market.orders import Backing, MarketRules, Order, OrderId, Side
from blockcloud.service_chain.market.ratchet import Ratchet, first_record

PATIENCE = 4
RULES = MarketRules(patience_max=PATIENCE)
BACKED = Backing(MAXIMUM_MICRO_BLOC, MAXIMUM_MICRO_BLOC)
SEED = bytes(32)


def new_market(price: int = 1_000) -> Ratchet:
    return Ratchet(RULES, first_record(RULES, price))


def identity(number: int) -> bytes:
    return number.to_bytes(32)


def bid(number: int, limit: int, *, rounds: int = 0, quantity: int = 1, arrival: int = 1, of: int = -1) -> Order:
    """An order by an identity of the same number, unless `of` names another."""
    who = identity(number if of < 0 else of)
    return Order(OrderId(arrival, number), who, Side.BID, limit, quantity, arrival, arrival + rounds)


def ask(number: int, limit: int, *, rounds: int = 0, quantity: int = 1, arrival: int = 1, of: int = -1) -> Order:
    who = identity(number if of < 0 else of)
    return Order(OrderId(arrival, number), who, Side.ASK, limit, quantity, arrival, arrival + rounds)
