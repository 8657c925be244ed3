"""Sealed rounds: everybody commits, then everybody reveals, then the round is cleared by `mcafee` or `m1`.

In these mechanisms whoever knows others' orders could gain by it. So an order is first a hash, bound to its author by
his identity and hidden by a salt; only when no more hashes are taken is it revealed. Who commits locks the most that
he may owe, and forfeits the fixed fee of the round if he does not reveal, whatever he had ordered: an amount that
followed the order would tell it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from typing import Final

from blockcloud.primitives import codec
from blockcloud.primitives.codec import Struct
from blockcloud.primitives.hashes import tagged_hash
from blockcloud.service_chain.market.m1 import clear_m1
from blockcloud.service_chain.market.mcafee import clear_mcafee
from blockcloud.service_chain.market.orders import LIVE_ORDERS, Backing, MarketRules, Order, OrderId, Side, check_order
from blockcloud.service_chain.market.outcome import Outcome
from blockcloud.service_chain.market.refusals import (
    CommittedAlready,
    IdentityNotBonded,
    NothingCommitted,
    OrderNumberUsed,
    OrderRevealedAlready,
    OutsideCommitPhase,
    OutsideRevealPhase,
    TooManyOrders,
    WrongOrderRevealed,
)

COMMITMENT: Final = "market/order/1"


class Mechanism(Enum):
    """How a sealed round is cleared."""

    MCAFEE = "mcafee"
    M1 = "m1"


CLEARING: Final[dict[Mechanism, Callable[[int, Sequence[Order]], Outcome]]] = {
    Mechanism.MCAFEE: clear_mcafee,
    Mechanism.M1: clear_m1,
}


class Phase(Enum):
    """What a sealed round waits for."""

    COMMIT = "commit"
    REVEAL = "reveal"
    OVER = "over"


class SealedOrder(Struct, frozen=True):
    """What is hidden in a commitment. The limit is in micro-BLOC a unit."""

    side: Side
    limit: int
    quantity: int


def order_commitment(identity: bytes, order: SealedOrder, salt: bytes) -> bytes:
    """The hash that binds an identity to an order and does not tell it. A salt has at least 16 random bytes."""
    return tagged_hash(COMMITMENT, codec.encode((identity, order, salt)))


class SealedRound:
    """One round with sealed orders. Each call raises a refusal and changes nothing, or does what it says."""

    def __init__(self, rules: MarketRules, mechanism: Mechanism, round_number: int) -> None:
        self.rules, self.mechanism, self.round = rules, mechanism, round_number
        self.phase = Phase.COMMIT
        self._commitments: dict[bytes, tuple[OrderId, bytes, Backing]] = {}
        self._orders: dict[bytes, Order] = {}
        self._last_id = OrderId(0, 0)

    def commit(self, order_id: OrderId, identity: bytes, commitment: bytes, backing: Backing) -> None:
        """Take a commitment in. It counts as the order's place among equals. Raises a refusal."""
        if self.phase is not Phase.COMMIT:
            raise OutsideCommitPhase(phase=self.phase.value)
        if backing.bond < self.rules.identity_bond:
            raise IdentityNotBonded(bond=backing.bond, needed=self.rules.identity_bond)
        if identity in self._commitments:
            raise CommittedAlready(order=self._commitments[identity][0])
        if order_id <= self._last_id:
            raise OrderNumberUsed(id=order_id, last=self._last_id)
        if len(self._commitments) >= LIVE_ORDERS:
            raise TooManyOrders(orders=LIVE_ORDERS)
        self._commitments[identity] = (order_id, commitment, backing)
        self._last_id = order_id

    def open(self) -> None:
        """No more commitments; reveals from now on."""
        if self.phase is not Phase.COMMIT:
            raise OutsideCommitPhase(phase=self.phase.value)
        self.phase = Phase.REVEAL

    def reveal(self, identity: bytes, sealed: SealedOrder, salt: bytes) -> None:
        """Open the commitment of an identity. Raises a refusal."""
        if self.phase is not Phase.REVEAL:
            raise OutsideRevealPhase(phase=self.phase.value)
        if identity in self._orders:
            raise OrderRevealedAlready(order=self._orders[identity].id)
        if identity not in self._commitments:
            raise NothingCommitted
        order_id, commitment, backing = self._commitments[identity]
        if order_commitment(identity, sealed, salt) != commitment:
            raise WrongOrderRevealed(order=order_id)
        order = Order(order_id, identity, sealed.side, sealed.limit, sealed.quantity, self.round, self.round)
        check_order(order, backing, self.rules, self.round)
        self._orders[identity] = order

    def clear(self) -> Outcome:
        """Hold the round with what was revealed; who did not reveal forfeits."""
        if self.phase is not Phase.REVEAL:
            raise OutsideRevealPhase(phase=self.phase.value)
        self.phase = Phase.OVER
        outcome = CLEARING[self.mechanism](self.round, list(self._orders.values()))
        silent = tuple(identity for identity in self._commitments if identity not in self._orders)
        return Outcome(outcome.round, outcome.price, outcome.trades, outcome.departures, silent)
