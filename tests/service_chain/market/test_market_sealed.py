"""Sealed rounds: `mcafee` and `m1` against obvious versions of them; commit and reveal, and what is refused."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blockcloud.service_chain.market import refusals
from blockcloud.service_chain.market.m1 import clear_m1
from blockcloud.service_chain.market.mcafee import clear_mcafee
from blockcloud.service_chain.market.orders import Backing, Order, OrderId, Side
from blockcloud.service_chain.market.outcome import Outcome
from blockcloud.service_chain.market.sealed import Mechanism, SealedOrder, SealedRound, order_commitment
from tests.service_chain.market.market_world import BACKED, RULES, ask, bid, identity

SALT = bytes(range(32))
MARKETS = st.lists(st.tuples(st.booleans(), st.integers(1, 20), st.integers(1, 5)), max_size=12)


def orders_of(drawn: list[tuple[bool, int, int]]) -> list[Order]:
    return [
        (bid if is_buyer else ask)(number, limit, quantity=quantity)
        for number, (is_buyer, limit, quantity) in enumerate(drawn, start=1)
    ]


def units_traded(outcome: Outcome, orders: list[Order]) -> dict[OrderId, int]:
    traded = {order.id: 0 for order in orders}
    for trade in outcome.trades:
        traded[trade.bid] += trade.quantity
        traded[trade.ask] += trade.quantity
    return traded


def sound(outcome: Outcome, orders: list[Order]) -> None:
    """Within quantities and limits, without deficit, and everybody is accounted for."""
    by_id = {order.id: order for order in orders}
    traded = units_traded(outcome, orders)
    assert all(traded[order.id] <= order.quantity for order in orders)
    assert {one.id: one.left for one in outcome.departures} == {o.id: o.quantity - traded[o.id] for o in orders}
    for trade in outcome.trades:
        assert trade.quantity > 0
        assert by_id[trade.ask].limit <= trade.received <= trade.paid <= by_id[trade.bid].limit
    retired = sum(traded[order.id] > 0 for order in orders)
    assert len(outcome.trades) <= max(0, retired - 1), "a step retires a trader"


@settings(max_examples=150)
@given(MARKETS)
def test_mcafee_agrees_with_the_obvious_version(drawn: list[tuple[bool, int, int]]) -> None:
    orders = orders_of(drawn)
    outcome = clear_mcafee(1, orders)
    sound(outcome, orders)
    bids = sorted((-o.limit, o.id) for o in orders for _ in range(o.quantity) if o.side is Side.BID)
    asks = sorted((o.limit, o.id) for o in orders for _ in range(o.quantity) if o.side is Side.ASK)
    pairs = sum(-b >= a for (b, _), (a, _) in zip(bids, asks, strict=False))
    expected: dict[OrderId, int] = {order.id: 0 for order in orders}
    paid = received = 0
    if pairs:
        paid, received, traded = -bids[pairs - 1][0], asks[pairs - 1][0], pairs - 1
        if len(bids) > pairs and len(asks) > pairs:
            middle = int(Fraction(asks[pairs][0] - bids[pairs][0], 2))
            if asks[pairs - 1][0] <= middle <= -bids[pairs - 1][0]:
                paid, received, traded = middle, middle, pairs
        for _, order_id in (*bids[:traded], *asks[:traded]):
            expected[order_id] += 1
    assert units_traded(outcome, orders) == expected
    assert all((trade.paid, trade.received) == (paid, received) for trade in outcome.trades)


@settings(max_examples=150)
@given(MARKETS)
def test_m1_agrees_with_the_paper(drawn: list[tuple[bool, int, int]]) -> None:
    orders = orders_of(drawn)
    outcome = clear_m1(1, orders)
    sound(outcome, orders)
    ranks = sorted((-o.limit, o.side, o.id) for o in orders for _ in range(o.quantity))
    on_sale = sum(side is Side.ASK for _, side, _ in ranks)
    buyers = [order_id for _, side, order_id in ranks[:on_sale] if side is Side.BID]
    sellers = [order_id for _, side, order_id in ranks[on_sale:] if side is Side.ASK]
    assert len(buyers) == len(sellers)
    traded = units_traded(outcome, orders)
    assert {key: traded[key] for key in traded if traded[key]} == {
        order_id: (buyers + sellers).count(order_id) for order_id in buyers + sellers
    }
    if buyers:
        assert outcome.price == -ranks[on_sale][0]
        assert outcome.surplus == 0


def test_mcafee_lets_the_last_pair_go_where_no_price_is_between() -> None:
    outcome = clear_mcafee(1, [bid(1, 10), bid(2, 8), ask(3, 2), ask(4, 5)])
    assert [(trade.bid.place, trade.ask.place, trade.paid, trade.received) for trade in outcome.trades] == [
        (1, 3, 8, 5)
    ]
    assert outcome.surplus == 3
    assert clear_mcafee(1, [bid(1, 10), ask(2, 3)]).trades == ()


@pytest.mark.parametrize("mechanism", list(Mechanism))
def test_a_sealed_round_trades_what_was_revealed_and_the_silent_forfeit(mechanism: Mechanism) -> None:
    hidden = [SealedOrder(Side.BID, 90, 2), SealedOrder(Side.ASK, 20, 2), SealedOrder(Side.BID, 80, 1)]
    hidden += [SealedOrder(Side.ASK, 30, 1), SealedOrder(Side.BID, 70, 1)]
    sealed = SealedRound(RULES, mechanism, 5)
    for number, order in enumerate(hidden, start=1):
        sealed.commit(OrderId(7, number), identity(number), order_commitment(identity(number), order, SALT), BACKED)
    sealed.open()
    for number, order in enumerate(hidden[:4], start=1):
        sealed.reveal(identity(number), order, SALT)
    outcome = sealed.clear()
    assert outcome.trades
    assert outcome.forfeited == (identity(5),)
    assert OrderId(7, 5) not in {departure.id for departure in outcome.departures}


def test_each_step_has_its_time() -> None:
    order = SealedOrder(Side.BID, 90, 2)
    commitment = order_commitment(identity(1), order, SALT)
    sealed = SealedRound(RULES, Mechanism.MCAFEE, 1)
    with pytest.raises(refusals.OutsideRevealPhase):
        sealed.reveal(identity(1), order, SALT)
    with pytest.raises(refusals.OutsideRevealPhase):
        sealed.clear()
    sealed.commit(OrderId(1, 1), identity(1), commitment, BACKED)
    with pytest.raises(refusals.CommittedAlready):
        sealed.commit(OrderId(1, 2), identity(1), commitment, BACKED)
    with pytest.raises(refusals.OrderNumberUsed):
        sealed.commit(OrderId(1, 1), identity(2), commitment, BACKED)
    with pytest.raises(refusals.IdentityNotBonded):
        sealed.commit(OrderId(1, 3), identity(3), commitment, Backing(0, 100))
    sealed.open()
    for late in (sealed.open, lambda: sealed.commit(OrderId(1, 4), identity(4), commitment, BACKED)):
        with pytest.raises(refusals.OutsideCommitPhase):
            late()
    with pytest.raises(refusals.NothingCommitted):
        sealed.reveal(identity(2), order, SALT)
    sealed.reveal(identity(1), order, SALT)
    with pytest.raises(refusals.OrderRevealedAlready):
        sealed.reveal(identity(1), order, SALT)
    assert sealed.clear().forfeited == ()
    with pytest.raises(refusals.OutsideRevealPhase):
        sealed.clear()


def test_a_reveal_is_what_was_committed_to_by_whoever_committed() -> None:
    order = SealedOrder(Side.BID, 90, 2)
    sealed = SealedRound(RULES, Mechanism.M1, 1)
    for number, backing in ((1, BACKED), (2, BACKED), (3, Backing(RULES.identity_bond, 179))):
        who = identity(1 if number == 2 else number)  # the second copies the first
        sealed.commit(OrderId(1, number), identity(number), order_commitment(who, order, SALT), backing)
    sealed.open()
    for wrong in (SealedOrder(Side.BID, 91, 2), SealedOrder(Side.ASK, 90, 2), SealedOrder(Side.BID, 90, 1)):
        with pytest.raises(refusals.WrongOrderRevealed):
            sealed.reveal(identity(1), wrong, SALT)
    with pytest.raises(refusals.WrongOrderRevealed):
        sealed.reveal(identity(1), order, bytes(32))
    with pytest.raises(refusals.WrongOrderRevealed):
        sealed.reveal(identity(2), order, SALT)
    with pytest.raises(refusals.OrderNotBacked):
        sealed.reveal(identity(3), order, SALT)
    assert len(sealed.clear().forfeited) == 3


def test_a_huge_order_behind_a_commitment_is_refused_when_it_shows() -> None:
    order = SealedOrder(Side.BID, 2**62, 2)
    sealed = SealedRound(RULES, Mechanism.MCAFEE, 1)
    sealed.commit(OrderId(1, 1), identity(1), order_commitment(identity(1), order, SALT), BACKED)
    sealed.open()
    with pytest.raises(refusals.OrderTooLarge):
        sealed.reveal(identity(1), order, SALT)
