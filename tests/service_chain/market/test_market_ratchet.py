"""The ratchet: equal to the obvious model on random markets; what it refuses; what it keeps and what it forgets."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blockcloud.primitives import codec
from blockcloud.primitives.amounts import MAXIMUM_MICRO_BLOC
from blockcloud.service_chain.market import orders, ratchet, refusals
from blockcloud.service_chain.market.orders import Backing, Order, OrderId, Side
from blockcloud.service_chain.market.outcome import Why
from blockcloud.service_chain.market.price import REMEMBERED, Left, clearing_price, next_price
from blockcloud.service_chain.market.ratchet import Ratchet, RatchetRecord
from tests.service_chain.market.market_world import BACKED, PATIENCE, RULES, SEED, ask, bid, identity, new_market
from tests.service_chain.market.ratchet_model import ModelOrder, RatchetModel

AN_ORDER = st.tuples(st.booleans(), st.integers(1, 40), st.integers(1, 12), st.integers(0, PATIENCE))
ROUND = st.tuples(st.lists(AN_ORDER, max_size=6), st.integers(0, 2**32), st.lists(st.integers(0, 30), max_size=1))


@settings(max_examples=120)
@given(st.lists(ROUND, max_size=12), st.integers(1, 40), st.sampled_from((1, 100)))
def test_it_agrees_with_the_obvious_model(
    rounds: list[tuple[list[tuple[bool, int, int, int]], int, list[int]]], price: int, scale: int
) -> None:
    market, model = new_market(price * scale), RatchetModel(PATIENCE, price * scale)
    number = 0
    for coming, lottery, cancelled in rounds:
        now, seed = market.coming_round, lottery.to_bytes(32)
        # Each goes on from what was written down, as a node does that starts again.
        market = Ratchet(RULES, market.record(), market.live(), market.known())
        for is_buyer, value, quantity, patience in coming:
            number += 1
            make: Callable[..., Order] = bid if is_buyer else ask
            order = make(number, value * scale, rounds=patience, quantity=quantity, arrival=now)
            market.enter(order, BACKED)
            model.pool.append(
                ModelOrder(number, order.identity, is_buyer, order.limit, quantity, quantity, now, order.expiry)
            )
        for gone in cancelled:
            for order in [order for order, _ in market.live() if order.id.place == gone]:
                market.cancel(order.id, order.identity)
                model.pool = [one for one in model.pool if one.number != gone]
        outcome = market.clear(seed)
        trades, left = model.clear(seed)
        assert [(t.bid.place, t.ask.place, t.quantity, t.paid, t.received) for t in outcome.trades] == trades
        assert {departure.id.place: departure.left for departure in outcome.departures} == left
        assert {order.id.place: rest for order, rest in market.live()} == {o.number: o.left for o in model.pool}
        assert market.price == model.prices[market.coming_round]
        assert outcome.surplus >= 0
        limits = {order.number: order.limit for order in (*model.pool, *model.departed)}
        assert all(t.paid <= limits[t.bid.place] and t.received >= limits[t.ask.place] for t in outcome.trades)
        assert abs(market.price - outcome.price) <= max(1, outcome.price // 8), "the clamp"


def test_a_round_trades_at_the_price_and_fills_in_part() -> None:
    market = new_market(1_000)
    market.enter(bid(1, 1_200, quantity=5, rounds=2), BACKED)
    market.enter(ask(2, 900, quantity=3), BACKED)
    outcome = market.clear(SEED)
    (trade,) = outcome.trades
    assert (trade.quantity, trade.paid, trade.received, outcome.surplus) == (3, 1_000, 1_000, 0)
    assert [(order.id.place, left) for order, left in market.live()] == [(1, 2)]
    assert [(one.id.place, one.why, one.left) for one in outcome.departures] == [(2, Why.FILLED, 0)]


def test_the_payment_never_falls_while_an_order_waits_and_reaches_back_by_its_end() -> None:
    prices = (2_000, 1_000, 1_000, 1_000, 1_000)
    buyer_pays = {}
    for rounds in range(PATIENCE + 1):
        market = Ratchet(RULES, RatchetRecord(5, prices))
        market.enter(bid(1, 3_000, rounds=rounds, arrival=5), BACKED)
        market.enter(ask(2, 1, arrival=5), BACKED)
        (trade,) = market.clear(SEED).trades
        buyer_pays[rounds] = trade.paid
    assert buyer_pays == {0: 2_000, 1: 1_000, 2: 1_000, 3: 1_000, 4: 1_000}, "only the shortest window sees round 1"


def test_who_would_pay_more_than_his_limit_has_left() -> None:
    market = new_market(1_000)
    market.enter(bid(1, 999, rounds=4), BACKED)
    market.enter(ask(2, 1_001, rounds=4), BACKED)
    assert {(one.id.place, one.why) for one in market.clear(SEED).departures} == {
        (1, Why.PRICED_OUT),
        (2, Why.PRICED_OUT),
    }
    assert market.live() == []


def test_live_orders_do_not_move_the_price_and_departed_ones_do() -> None:
    market = new_market(1_000)
    for number in range(1, 9):
        market.enter(bid(number, 100_000, rounds=3), BACKED)
    for _ in range(3):
        market.clear(SEED)
        assert market.price == 1_000
    market.clear(SEED)
    assert market.price == 1_125, "the eight have expired: up, by no more than an eighth"


def test_a_cancelled_order_moves_nothing() -> None:
    market = new_market(1_000)
    market.enter(bid(1, 100_000), BACKED)
    market.cancel(OrderId(1, 1), identity(1))
    outcome = market.clear(SEED)
    assert (outcome.departures, outcome.trades, market.price) == ((), (), 1_000)


def test_rounds_without_anybody_may_be_left_out() -> None:
    held, skipped = new_market(), new_market()
    for market in (held, skipped):
        market.enter(ask(1, 3_000), BACKED)
        market.clear(SEED)
    for _ in range(9):
        held.clear(SEED)
    for market in (held, skipped):
        market.enter(bid(2, 5_000, arrival=11, rounds=1), BACKED)
    assert held.record() == skipped.record()
    assert held.clear(SEED) == skipped.clear(SEED)


def test_the_order_of_service_is_by_ticket_and_not_by_what_was_ordered() -> None:
    def first_served(seed: int, limits: list[int], arrival_last: int = 1) -> int:
        market = new_market(10)
        for number in range(1, 5):
            market.enter(bid(number, limits[number - 1], rounds=3), BACKED)
        market.enter(ask(9, 1), BACKED)
        (trade,) = market.clear(seed.to_bytes(32)).trades
        return trade.bid.place

    served = [first_served(seed, [10, 20, 30, 40]) for seed in range(200)]
    assert served == [first_served(seed, [99, 10, 10, 50]) for seed in range(200)]
    assert all(served.count(number) > 20 for number in range(1, 5))


def test_a_crowd_that_leaves_is_remembered_in_part_and_drawn_by_lot() -> None:
    def price_after(seed: bytes) -> int:
        market = new_market(1_000)
        for number in range(1, 4 * REMEMBERED):
            market.enter(ask(number, 1_001 if number % 2 else 9_000), BACKED)
        market.clear(seed)
        assert len(market.record().remembered) == REMEMBERED
        return sum(one.limit for one in market.record().remembered)

    assert price_after(SEED) != price_after(bytes([1] * 32))


@pytest.mark.parametrize(
    ("departed", "price"),
    [
        ([(Side.BID, 30, 1), (Side.ASK, 10, 1)], 20),
        ([(Side.BID, 10, 1), (Side.ASK, 30, 1)], 20),
        ([(Side.ASK, 30, 1), (Side.ASK, 50, 2)], 30),
        ([(Side.BID, 30, 1), (Side.BID, 50, 2)], 50),
        ([(Side.BID, 90, 9), (Side.BID, 20, 1), (Side.ASK, 10, 1)], 90),
        ([(Side.BID, 90, 1), (Side.ASK, 40, 8), (Side.ASK, 10, 8)], 10),
        ([], None),
    ],
)
def test_the_target_is_where_supply_meets_demand(departed: list[tuple[Side, int, int]], price: int | None) -> None:
    assert clearing_price([Left(*one) for one in departed]) == price


def test_the_price_stays_within_what_can_be() -> None:
    assert next_price(1, [Left(Side.ASK, 1, 1)], []) == 1
    assert next_price(MAXIMUM_MICRO_BLOC, [Left(Side.BID, MAXIMUM_MICRO_BLOC, 1)], []) == MAXIMUM_MICRO_BLOC
    price = 1_000
    for _ in range(100):
        price = next_price(price, [Left(Side.ASK, 1, 1)], [])
    assert price == 1


# What is refused

REFUSED: list[tuple[Order, Backing, type[refusals.Failed]]] = [
    (bid(1, 10, quantity=0), BACKED, refusals.OrderQuantityOutOfRange),
    (bid(1, 10, quantity=-1), BACKED, refusals.OrderQuantityOutOfRange),
    (bid(1, 10, quantity=2**32 + 1), BACKED, refusals.OrderQuantityOutOfRange),
    (bid(1, 0), BACKED, refusals.OrderLimitOutOfRange),
    (ask(1, -5), BACKED, refusals.OrderLimitOutOfRange),
    (ask(1, MAXIMUM_MICRO_BLOC + 1), BACKED, refusals.OrderLimitOutOfRange),
    (bid(1, MAXIMUM_MICRO_BLOC // 2, quantity=3), BACKED, refusals.OrderTooLarge),
    (bid(1, 10, rounds=-1), BACKED, refusals.OrderRoundPassed),
    (bid(1, 10, arrival=0, rounds=1), BACKED, refusals.OrderRoundPassed),
    (bid(1, 10, rounds=PATIENCE + 1), BACKED, refusals.OrderTooPatient),
    (bid(1, 10), Backing(RULES.identity_bond - 1, 2**40), refusals.IdentityNotBonded),
    (bid(1, 10, quantity=3), Backing(RULES.identity_bond, 29), refusals.OrderNotBacked),
    (ask(1, 10, quantity=3), Backing(RULES.identity_bond, 3 * RULES.delivery_bond - 1), refusals.OrderNotBacked),
]


@pytest.mark.parametrize(("order", "backing", "refusal"), REFUSED, ids=lambda value: getattr(value, "code", None))
def test_what_makes_no_order_is_refused(order: Order, backing: Backing, refusal: type[refusals.Failed]) -> None:
    market = new_market()
    before = market.record()
    with pytest.raises(refusal):
        market.enter(order, backing)
    assert (market.record(), market.live(), market.known()) == (before, [], [])


def test_what_is_exactly_backed_is_taken() -> None:
    market = new_market()
    market.enter(bid(1, 10, quantity=3), Backing(RULES.identity_bond, 30))
    market.enter(ask(2, 10**9, quantity=3), Backing(RULES.identity_bond, 3 * RULES.delivery_bond))
    market.enter(bid(3, MAXIMUM_MICRO_BLOC, rounds=PATIENCE), BACKED)


def test_an_identity_has_one_order_and_one_ticket() -> None:
    market = new_market()
    market.enter(bid(1, 2_000, rounds=2), BACKED)
    for second in (bid(2, 2_000, of=1), ask(2, 10, of=1)):
        with pytest.raises(refusals.IdentityHasOrder):
            market.enter(second, BACKED)
    with pytest.raises(refusals.OrderNumberUsed):
        market.enter(bid(1, 2_000, of=7), BACKED)
    with pytest.raises(refusals.OrderRoundPassed):
        market.enter(bid(3, 2_000, arrival=2), BACKED)


@pytest.mark.parametrize("how", ["cancelled", "expired", "priced out"])
def test_who_left_unfilled_rests_until_the_window_of_his_order_is_over(how: str) -> None:
    market = new_market(1_000)
    market.enter(bid(1, 999 if how == "priced out" else 2_000), BACKED)
    if how == "cancelled":
        market.cancel(OrderId(1, 1), identity(1))
    market.clear(SEED)
    for now in range(2, PATIENCE + 2):
        with pytest.raises(refusals.IdentityRests):
            market.enter(bid(now, 2_000, arrival=now, of=1), BACKED)
        market.clear(SEED)
    market.enter(bid(9, 2_000, arrival=PATIENCE + 2, of=1), BACKED)
    assert len(market.known()) == 1


def test_who_was_filled_may_order_again_at_once() -> None:
    market = new_market(1_000)
    market.enter(bid(1, 2_000, rounds=PATIENCE), BACKED)
    market.enter(ask(2, 10), BACKED)
    assert market.clear(SEED).trades
    market.enter(bid(3, 2_000, arrival=2, of=1), BACKED)


def test_only_the_owner_cancels_and_only_once() -> None:
    market = new_market()
    market.enter(bid(1, 2_000, rounds=2), BACKED)
    with pytest.raises(refusals.NotOrderOwner):
        market.cancel(OrderId(1, 1), identity(2))
    with pytest.raises(refusals.UnknownOrder):
        market.cancel(OrderId(1, 2), identity(1))
    market.cancel(OrderId(1, 1), identity(1))
    with pytest.raises(refusals.OrderIsOver):
        market.cancel(OrderId(1, 1), identity(1))
    market.enter(ask(3, 10), BACKED)
    assert market.clear(SEED).trades == ()


def test_a_market_has_room_for_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ratchet, "LIVE_ORDERS", 2)
    market = new_market()
    for number in (1, 2):
        market.enter(bid(number, 2_000), BACKED)
    with pytest.raises(refusals.TooManyOrders):
        market.enter(bid(3, 2_000), BACKED)
    monkeypatch.setattr(ratchet, "LIVE_ORDERS", 9)
    monkeypatch.setattr(ratchet, "KNOWN_IDENTITIES", 2)
    with pytest.raises(refusals.TooManyOrders):
        market.enter(bid(3, 2_000), BACKED)
    assert orders.KNOWN_IDENTITIES > orders.LIVE_ORDERS


def test_what_is_kept_has_a_canonical_form() -> None:
    market = new_market()
    market.enter(bid(1, 2_000, rounds=1), BACKED)
    market.enter(ask(2, 9_000), BACKED)
    market.clear(SEED)
    record = market.record()
    assert codec.decode(codec.encode(record), RatchetRecord, limit=10_000) == record
    ((order, left),) = market.live()
    assert codec.decode(codec.encode(order), Order, limit=1_000) == order
    assert left == 1
