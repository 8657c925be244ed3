"""What a round comes to: trades, and orders that have left. The ledger carries it out; nothing else changes hands."""

from __future__ import annotations

from enum import IntEnum

from blockcloud.primitives.codec import Struct
from blockcloud.service_chain.market.orders import OrderId


class Why(IntEnum):
    """Why an order left."""

    FILLED = 0
    PRICED_OUT = 1
    EXPIRED = 2


class Trade(Struct, frozen=True):
    """So many units change hands; what the buyer pays and the seller receives for each, in micro-BLOC, may differ."""

    bid: OrderId
    ask: OrderId
    quantity: int
    paid: int
    received: int


class Departure(Struct, frozen=True):
    """An order has left the market, with so much of it unfilled."""

    id: OrderId
    why: Why
    left: int


class Outcome(Struct, frozen=True):
    """One round. `price` is the one that held in it; 0: the mechanism had none."""

    round: int
    price: int
    trades: tuple[Trade, ...]
    departures: tuple[Departure, ...]
    forfeited: tuple[bytes, ...] = ()  # identities that committed and did not reveal

    @property
    def surplus(self) -> int:
        """What buyers pay more than sellers receive, in micro-BLOC; never negative. It is burned."""
        return sum(trade.quantity * (trade.paid - trade.received) for trade in self.trades)
