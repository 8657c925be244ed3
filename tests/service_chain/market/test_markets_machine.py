"""A market on the ledger against the obvious model: what everybody locked, paid and got back, worked out on paper.

The auction itself is `RatchetModel`, which shares no code with the engine; rounds, money and rest are kept here.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import NamedTuple

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from blockcloud.primitives import codec
from blockcloud.primitives.keys import SigningKey
from blockcloud.service_chain.market.operations import CancelOrder
from blockcloud.service_chain.market.orders import Side
from blockcloud.service_chain.market.records import OrderStatus
from blockcloud.service_chain.operations import Operation
from tests.service_chain.ledger_in_memory import MARKETS
from tests.service_chain.market.ledger_market_world import BUYERS, DELIVERY_BOND, PRICE, SELLERS, MarketWorld
from tests.service_chain.market.ratchet_model import ModelOrder, RatchetModel

PEOPLE = (*BUYERS, *SELLERS)
PATIENCE = MARKETS.patience_max


class Wish(NamedTuple):
    """An order that somebody may place, at so much over the price that it would trade at (under it, if negative)."""

    who: int
    over: int
    quantity: int
    patience: int


WISHES = st.builds(
    Wish,
    st.integers(0, 5),
    st.sampled_from([-400, -20, 0, 130, 400, 400, 3_000]),
    st.sampled_from([1, 1, 2, 5, 9]),
    st.integers(0, PATIENCE),
)


@dataclass
class Kept:
    """An order as its owner remembers it. `money` is what it still holds."""

    order: ModelOrder
    status: OrderStatus
    money: int


class MarketMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.world = MarketWorld()
        self.model = RatchetModel(PATIENCE, PRICE)
        self.kept: dict[SigningKey, Kept] = {}
        self.owners: dict[int, SigningKey] = {}
        self.last_round = -1
        # What is gone for good, or in agreements: beside the orders.
        self.away = dict.fromkeys(PEOPLE, 0)
        self.start = {user: self.world.balance(user) for user in PEOPLE}
        self.agreed: list[tuple[bytes, bytes, int, int]] = []

    def commit(self, *sent: tuple[SigningKey, Operation]) -> list[str]:
        """A commit; the model holds the round that it opens, if it does."""
        ledger = self.world.ledger
        ledger.commit(*[ledger.sign(user, operation) for user, operation in sent])
        now = ledger.height * 100 // MARKETS.round_ms
        if self.kept and now > self.last_round:
            self.last_round = now
            self.hold_round()
        outcomes = ledger.results[-1].outcomes
        for (user, _), (transaction, _) in zip(sent, outcomes, strict=True):
            receipt = ledger.chain.receipt(transaction)
            assert receipt is not None
            self.away[user] += receipt.fee
        return [code for _, code in outcomes]

    def hold_round(self) -> None:
        plan, digest = self.world.ledger.chain.plan, self.world.ledger.record.digest()
        told = codec.encode((plan.beacon, digest, self.world.market))
        trades, leaving = self.model.clear(hashlib.sha256(b"blockcloud/market-round/v1\x00" + told).digest())
        for bid, ask, quantity, paid, received in trades:
            buyer, seller = self.owners[bid], self.owners[ask]
            self.kept[buyer].money -= quantity * self.kept[buyer].order.limit
            self.kept[seller].money -= quantity * DELIVERY_BOND
            self.away[buyer] += quantity * paid
            self.away[seller] += quantity * DELIVERY_BOND
            self.agreed.append((buyer.public, seller.public, received, quantity * received))
        for number, left in leaving.items():
            user = self.owners[number]
            if left:
                self.kept[user].status, self.kept[user].money = OrderStatus.RESTING, 0
            else:
                del self.kept[user]
        held = self.model.round - 1
        for user, kept in list(self.kept.items()):
            if kept.status is OrderStatus.CANCELLED and held >= kept.order.expiry:
                kept.status, kept.money = OrderStatus.RESTING, 0
            if kept.status is not OrderStatus.LIVE and held >= kept.order.arrival + PATIENCE:
                del self.kept[user]

    @rule(wishes=st.lists(WISHES, min_size=1, max_size=6, unique_by=lambda wish: wish.who))
    def order(self, wishes: list[Wish]) -> None:
        """Some people order, all in one commit."""
        price = self.model.prices[self.model.round]
        limits = [max(1, price + wish.over * (1 if PEOPLE[wish.who] in BUYERS else -1)) for wish in wishes]
        sent: list[tuple[SigningKey, Operation]] = []
        for wish, limit in zip(wishes, limits, strict=True):
            user = PEOPLE[wish.who]
            if user in BUYERS:
                sent.append((user, self.world.bid(limit, wish.quantity, wish.patience)))
            else:
                sent.append((user, self.world.ask(user, limit, wish.quantity, wish.patience)))
        for wish, limit, code in zip(wishes, limits, self.commit(*sent), strict=True):
            self.ordered(wish, limit, code)

    def ordered(self, wish: Wish, limit: int, code: str) -> None:
        user, buys = PEOPLE[wish.who], PEOPLE[wish.who] in BUYERS
        quantity, patience = wish.quantity, wish.patience
        earlier = self.kept.get(user)
        if earlier is not None:
            assert code == ("identity_has_order" if earlier.status is OrderStatus.LIVE else "identity_rests")
            return
        assert code == "ok"
        now = self.world.ledger.height * 100 // MARKETS.round_ms
        if not self.kept:
            # Nobody was there: the rounds since then are over.
            self.last_round = now
            for number in range(self.model.round + 1, now + 2):
                self.model.prices[number] = self.model.prices[number - 1]
            self.model.round = max(self.model.round, now + 1)
        number, arrival = len(self.owners), self.model.round
        made = ModelOrder(number, user.public, buys, limit, quantity, quantity, arrival, arrival + patience)
        self.owners[number] = user
        self.model.pool.append(made)
        promised = quantity * (limit if buys else DELIVERY_BOND)
        self.kept[user] = Kept(made, OrderStatus.LIVE, promised + MARKETS.identity_bond)
        self.away[user] += MARKETS.listing_fee

    @rule(who=st.integers(0, 5), sure=st.booleans())
    def cancel(self, who: int, sure: bool) -> None:
        living = [user for user, kept in self.kept.items() if kept.status is OrderStatus.LIVE]
        user = living[who % len(living)] if sure and living else PEOPLE[who]
        (code,) = self.commit((user, CancelOrder(self.world.market)))
        kept = self.kept.get(user)
        if kept is None:
            assert code == "unknown_order"
        elif kept.status is not OrderStatus.LIVE:
            assert code == "order_is_over"
        else:
            assert code == "ok"
            kept.status = OrderStatus.CANCELLED
            self.model.pool.remove(kept.order)

    @rule(commits=st.sampled_from([1, 2, 5, 13]), restart=st.booleans())
    def wait(self, commits: int, restart: bool) -> None:
        if restart:
            self.world.ledger.restart()
        for _ in range(commits):
            self.commit()

    @invariant()
    def everything_is_where_it_should_be(self) -> None:
        world = self.world
        for user in PEOPLE:
            kept, found = self.kept.get(user), world.order(user)
            assert (found is None) == (kept is None)
            if kept is not None and found is not None:
                side = Side.BID if kept.order.is_buyer else Side.ASK
                assert (found.status, found.at_stake, found.order.side) == (kept.status, kept.money, side)
                assert (found.left, found.order.expiry) == (kept.order.left, kept.order.expiry)
            held = kept.money if kept is not None else 0
            assert world.balance(user) == self.start[user] - self.away[user] - held
        book, calendar = world.book(), world.calendar()
        assert (book.orders.entries, book.live) == (len(self.kept), len(self.model.pool))
        assert (calendar.orders, calendar.tail - calendar.head) == (len(self.kept), 1 if self.kept else 0)
        if self.kept:
            assert (book.coming_round, book.price) == (self.model.round, self.model.prices[self.model.round])

    def teardown(self) -> None:
        while self.kept:
            self.commit()
        self.everything_is_where_it_should_be()
        agreements = self.world.agreements()
        assert [(one.client, one.provider, one.unit_price, one.deposited) for one in agreements] == self.agreed
        assert self.world.ledger.money() == self.world.ledger.chain.fees.supply


TestMarkets = MarketMachine.TestCase
TestMarkets.settings = settings(max_examples=20, stateful_step_count=25, deadline=None)
