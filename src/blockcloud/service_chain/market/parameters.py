"""What all nodes must agree on about markets: a group of the genesis."""

from __future__ import annotations

from typing import Final

from blockcloud.primitives.amounts import GENESIS_SUPPLY_MICRO_BLOC, MICRO_PER_BLOC
from blockcloud.primitives.codec import Struct
from blockcloud.primitives.errors import BadConfiguration
from blockcloud.service_chain.market.orders import LIVE_ORDERS

# A book of more rounds than this would not fit a state value.
PATIENCE_MAX: Final = 1_024
ROUND_MS_MAX: Final = 3_600_000
SEALED_ROUNDS_MAX: Final = 86_400


class MarketParameters(Struct, frozen=True):
    """Amounts in micro-BLOC, times in ms of commit time.

    A round is `round_ms` long, an order stays for at most `patience_max` further ones. It burns `listing_fee` and locks
    `identity_bond` beside what it promises. A sealed round takes commitments for `commit_rounds` and reveals for
    `reveal_rounds`; who commits and does not reveal loses `forfeit`. Whoever opens a market lays down `market_deposit`.
    There are at most `markets` of them, `orders_per_market` in each and `orders` in all; a commit works off rounds of
    at most `orders_per_commit` of them, and of the market with which it comes to that.
    """

    round_ms: int = 1_000
    patience_max: int = 32
    listing_fee: int = 1_000
    identity_bond: int = MICRO_PER_BLOC
    delivery_bond_min: int = 1_000
    market_deposit: int = 10 * MICRO_PER_BLOC
    commit_rounds: int = 10
    reveal_rounds: int = 10
    forfeit: int = MICRO_PER_BLOC // 10
    markets: int = 4_096
    orders_per_market: int = 10_000
    orders: int = LIVE_ORDERS
    orders_per_commit: int = 10_000

    def check(self) -> None:
        """Raise BadConfiguration unless the values fit together."""
        amounts = (self.listing_fee, self.identity_bond, self.delivery_bond_min, self.market_deposit, self.forfeit)
        if not 1 <= self.round_ms <= ROUND_MS_MAX or not 0 <= self.patience_max <= PATIENCE_MAX:
            raise BadConfiguration("market parameters: a round takes time, patience is not endless")
        if not all(1 <= rounds <= SEALED_ROUNDS_MAX for rounds in (self.commit_rounds, self.reveal_rounds)):
            raise BadConfiguration("market parameters: a sealed round takes a round for each of its phases, or more")
        if not all(0 <= amount <= GENESIS_SUPPLY_MICRO_BLOC for amount in amounts):
            raise BadConfiguration("market parameters: an amount is not negative, and not more than there is")
        if self.markets < 1 or not 1 <= self.orders_per_market <= self.orders <= LIVE_ORDERS:
            raise BadConfiguration(f"market parameters: a market has 1 to {LIVE_ORDERS} orders, all have no more")
        if self.orders_per_commit < 1:
            raise BadConfiguration("market parameters: a commit works off at least an order")
