"""Random steps in markets, for the histories that fuzz the whole ledger."""

from __future__ import annotations

import random
from collections.abc import Sequence

from blockcloud.primitives.keys import SigningKey
from blockcloud.service_chain.market.keys import market_id, order_key
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
from blockcloud.service_chain.market.reading import find_market
from blockcloud.service_chain.market.records import OrderRecord, OrderStatus, Phase
from blockcloud.service_chain.market.sealed import SealedOrder, order_commitment
from blockcloud.service_chain.operations import Operation
from blockcloud.service_chain.records import decode_record
from tests.service_chain.ledger_in_memory import RICH, SALT, Ledger

BOND = 50
KEYS = tuple(
    MarketKey("thermometer", "request", "u0", 50, 990_000, starts, duration, mechanism, bond)
    for starts, duration, mechanism, bond in (
        (0, 400, MarketMechanism.RATCHET, BOND),
        (0, 400, MarketMechanism.RATCHET, BOND),
        (0, 900, MarketMechanism.RATCHET, BOND),
        (2_000, 4_000, MarketMechanism.RATCHET, BOND),
        (0, 400, MarketMechanism.MCAFEE, BOND),
        (0, 400, MarketMechanism.M1, BOND),
        (0, 400, MarketMechanism.M1, 1),
        (1, 1, MarketMechanism.RATCHET, BOND),
    )
)


class RandomMarkets:
    """Draws operations; knows nothing but the ledger."""

    def __init__(
        self, ledger: Ledger, source: random.Random, people: Sequence[SigningKey], names: Sequence[str]
    ) -> None:
        self.ledger, self.source, self.people, self.names = ledger, source, people, names

    def operation(self, sender: bytes) -> Operation:
        """Mostly what may well be allowed now, sometimes anything."""
        choose, key = self.source.choice, self.source.choice(KEYS)
        market, sealed = market_id(key), self._sealed(sender)
        likely = self._likely(sender, sealed)
        if likely and self.source.random() < 0.6:
            return choose(likely)
        draws: list[Operation] = [
            *[self._order(market, sender)] * 4,
            self._commitment(market, sender, sealed),
            self._reveal(market, sender, sealed),
            CancelOrder(market),
            CloseMarket(market),
            OpenMarket(key, choose([100, 1_000])),
        ]
        return choose(draws)

    def _likely(self, sender: bytes, sealed: SealedOrder) -> list[Operation]:
        """What the sender may do in the markets as they are."""
        found: list[Operation] = []
        for key in KEYS:
            market = market_id(key)
            seen = find_market(self.ledger.chain.get, market)
            if seen is None:
                found.append(OpenMarket(key, 1_000))
                continue
            mine = decode_record(self.ledger.chain.get(order_key(market, sender)), OrderRecord)
            if seen.book.phase is Phase.REVEALS and mine is not None and mine.status is OrderStatus.COMMITTED:
                return [self._reveal(market, sender, sealed)]
            if seen.book.phase is Phase.ORDERS and mine is None:
                found.append(self._order(market, sender))
            elif mine is not None and mine.status is OrderStatus.LIVE:
                found += [CancelOrder(market)] * 3
            elif mine is None:
                found.append(self._commitment(market, sender, sealed))
            if seen.record.opener == sender and not seen.book.orders.entries:
                found.append(CloseMarket(market))
        return found

    def _owned(self, sender: bytes) -> str | None:
        """A name that the sender may sell under."""
        for name in self.names:
            record = self.ledger.chain.name(name)
            if record is not None and record.is_active(self.ledger.height) and record.owner == sender:
                return name
        return None

    def _order(self, market: bytes, sender: bytes) -> Bid | Ask:
        choose, name = self.source.choice, self._owned(sender)
        quantity, patience = choose([1, 2, 3, 3, 2**32 - 1]), choose([0, 3, 4, 4, 4, 5])
        if name is None or choose([True, False, False]):
            limit = choose([90, 1_000, 1_500, 1_500, 5_000, 5_000, RICH, 2**40])
            return Bid(market, limit, quantity, patience, choose(self.people).public)
        return Ask(market, choose([1, 1, 90, 500, 1_100]), quantity, patience, name, choose([0, 200]))

    def _sealed(self, sender: bytes) -> SealedOrder:
        """The same in commitment and reveal as long as nobody registers or loses a name."""
        side = Side.BID if self._owned(sender) is None else Side.ASK
        return SealedOrder(side, 200 + sender[1] * 100, 1 + sender[1] % 3)

    def _commitment(self, market: bytes, sender: bytes, sealed: SealedOrder) -> CommitOrder:
        locked = sealed.quantity * (sealed.limit if sealed.side is Side.BID else BOND)
        return CommitOrder(market, order_commitment(sender, sealed, SALT), self.source.choice([*[locked] * 5, 1, RICH]))

    def _reveal(self, market: bytes, sender: bytes, sealed: SealedOrder) -> RevealOrder:
        name = self._owned(sender) or ""
        salt = self.source.choice([SALT, SALT, SALT, bytes(32)])
        return RevealOrder(market, sealed, salt, sender, name if sealed.side is Side.ASK else "", 0)
