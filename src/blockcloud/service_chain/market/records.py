"""What the state holds about markets: amounts in micro-BLOC, times in ms of commit time."""

from __future__ import annotations

from enum import IntEnum

from blockcloud.primitives.codec import Struct
from blockcloud.service_chain.market.operations import MarketKey
from blockcloud.service_chain.market.orders import Order, OrderId
from blockcloud.service_chain.market.price import Left


class Phase(IntEnum):
    """What a market waits for: one with a ratchet for orders, always."""

    ORDERS = 0
    COMMITMENTS = 1
    REVEALS = 2


class OrderStatus(IntEnum):
    """Where an order is."""

    LIVE = 0
    COMMITTED = 1  # sealed, and not revealed
    CANCELLED = 2  # its money is still locked
    RESTING = 3  # over; its identity may not order again before the window is over


class Pages(Struct, frozen=True):
    """A list that is kept in pages, which are numbered from `first` to before `end`. The first and the last have
    entries; between them a page that is empty is not there."""

    first: int = 0
    end: int = 0
    entries: int = 0


class Page(Struct, frozen=True):
    """A piece of a list: keys of accounts, or ids of markets."""

    members: tuple[bytes, ...]


class MarketRecord(Struct, frozen=True):
    """A market: what never changes about it. `page`: where it is listed."""

    key: MarketKey
    opener: bytes
    deposit: int
    opened_height: int
    page: int


class Clearing(Struct, frozen=True):
    """What a round came to. `price` is the one that held in it, 0 if there was none; `surplus` was burned."""

    height: int
    time_ms: int
    round: int
    price: int
    trades: int
    units: int
    paid: int
    surplus: int


class BookRecord(Struct, frozen=True):
    """What changes about a market with each round. `orders` lists the accounts with an order, whether it is live or
    its identity rests. `phase_ends` is the round of the chain at which a sealed round goes on."""

    coming_round: int
    prices: tuple[int, ...]
    remembered: tuple[Left, ...] = ()
    last_id: OrderId = OrderId(0, 0)
    orders: Pages = Pages()
    live: int = 0
    phase: Phase = Phase.ORDERS
    phase_ends: int = 0
    clearing: Clearing | None = None  # the last in which somebody traded

    @property
    def price(self) -> int:
        """The price of the coming round; of a sealed market the last that there was."""
        return self.prices[-1]


class OrderRecord(Struct, frozen=True):
    """The one order that an account has in a market. `locked` is for what it promises, `bond` the identity's; `left` of
    it is not yet filled. Its identity is its owner until the round `until` is over. `page`: where it is listed."""

    order: Order
    status: OrderStatus
    left: int
    locked: int
    bond: int
    until: int
    page: int
    voucher_key: bytes = b""  # of a buyer
    name: str = ""  # that a seller serves
    sleep_ms: int = 0
    commitment: bytes = b""  # of a sealed order

    @property
    def at_stake(self) -> int:
        """All that the order holds."""
        return self.locked + self.bond


class MarketTurn(Struct, frozen=True):
    """A place in the queue of markets that wait for their round."""

    market: bytes


class Calendar(Struct, frozen=True):
    """The rounds of all markets. Those with orders wait in a queue, numbered from `head` to before `tail`; those before
    `until` are due since the round `round` of the chain."""

    round: int = 0
    head: int = 0
    until: int = 0
    tail: int = 0
    orders: int = 0
    listed: Pages = Pages()
