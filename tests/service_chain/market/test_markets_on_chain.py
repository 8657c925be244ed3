"""Markets on the ledger: what each operation does, what is refused and why, and that no micro-BLOC is lost."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from msgspec.structs import replace

from blockcloud.primitives.errors import BadConfiguration, PeerFault
from blockcloud.service_chain.agreements.keys import provider_key
from blockcloud.service_chain.agreements.operations import CloseAgreement, WithdrawOffer
from blockcloud.service_chain.agreements.records import ProviderRecord
from blockcloud.service_chain.genesis import Genesis
from blockcloud.service_chain.market.keys import market_id
from blockcloud.service_chain.market.operations import (
    CancelOrder,
    CloseMarket,
    CommitOrder,
    MarketMechanism,
    OpenMarket,
)
from blockcloud.service_chain.market.orders import OrderId, Side
from blockcloud.service_chain.market.parameters import MarketParameters
from blockcloud.service_chain.market.records import OrderStatus, Phase
from blockcloud.service_chain.operations import Operation, RevokeName, Transfer
from blockcloud.service_chain.records import decode_record
from tests.service_chain.ledger_in_memory import MARKETS, RICH, small_genesis
from tests.service_chain.market.ledger_market_world import (
    BUYERS,
    DELIVERY_BOND,
    PRICE,
    SELLERS,
    STRANGER,
    WINDOW_MS,
    MarketWorld,
    market,
    reveal,
    sealed,
)

BUYER, OTHER_BUYER, THIRD_BUYER = BUYERS
SELLER, OTHER_SELLER, THIRD_SELLER = SELLERS
FEE = MARKETS.listing_fee
BOND = MARKETS.identity_bond


@pytest.fixture
def world() -> Iterator[MarketWorld]:
    world = MarketWorld()
    yield world
    assert world.ledger.money() == world.ledger.chain.fees.supply


@pytest.fixture
def sealed_world() -> Iterator[MarketWorld]:
    """Its phases are long enough for some commits."""
    world = MarketWorld(replace(MARKETS, commit_rounds=5, reveal_rounds=5))
    yield world
    assert world.ledger.money() == world.ledger.chain.fees.supply


def spent(world: MarketWorld, user: Any, *operations: Operation) -> int:
    """What operations that were done took from an account, beside the fee."""
    before = world.balance(user)
    payload = world.ledger.sign(user, *operations)
    world.ledger.commit(payload)
    transaction, code = world.ledger.results[-1].outcomes[0]
    assert code == "ok"
    receipt = world.ledger.chain.receipt(transaction)
    assert receipt is not None
    return before - world.balance(user) - receipt.fee


def test_a_bid_and_an_ask_become_an_agreement_and_the_rest_of_the_money_comes_back(world: MarketWorld) -> None:
    burned = world.ledger.chain.fees.burned
    assert spent(world, BUYER, world.bid(1_200, 5, 2)) == FEE + BOND + 6_000
    assert spent(world, SELLER, world.ask(SELLER, 900, 3, 2, sleep_ms=70)) == FEE + BOND + 3 * DELIVERY_BOND
    buyer, seller = world.balance(BUYER), world.balance(SELLER)
    world.next_round()
    (agreement,) = world.agreements()
    assert (agreement.client, agreement.provider, agreement.name) == (BUYER.public, SELLER.public, "thermo")
    assert (agreement.unit_price, agreement.deposited, agreement.matched) == (PRICE, 3 * PRICE, True)
    assert (agreement.quality_ppm, agreement.unit) == (990_000, "request")
    assert (agreement.start_ms, agreement.end_ms - agreement.start_ms) == (world.ledger.height * 100, WINDOW_MS)
    standing = decode_record(world.ledger.chain.get(provider_key(SELLER.public, "thermo")), ProviderRecord)
    assert standing is not None
    assert (standing.bond, standing.live) == (3 * DELIVERY_BOND, 1)
    # The seller is done; of the buyer's five units two wait on.
    assert world.order(SELLER) is None
    assert world.balance(SELLER) == seller + BOND
    waiting = world.order(BUYER)
    assert waiting is not None
    assert (waiting.left, waiting.locked, waiting.status) == (2, 2_400, OrderStatus.LIVE)
    assert world.balance(BUYER) == buyer + 3 * 200
    assert world.ledger.chain.fees.burned >= burned + 2 * FEE
    clearing = world.book().clearing
    assert clearing is not None
    assert (clearing.price, clearing.trades, clearing.units, clearing.paid) == (PRICE, 1, 3, 3 * PRICE)
    for _ in range(3):
        world.next_round()
    assert world.balance(BUYER) == buyer + 6_000 - 3 * PRICE + BOND


def test_an_order_takes_no_part_in_the_round_that_its_own_commit_opens(world: MarketWorld) -> None:
    world.ledger.run(BUYER, world.bid(1_200, 1, 4))
    while (world.ledger.height + 1) * 100 % 200:
        world.ledger.commit()
    assert world.ledger.commit(world.ledger.sign(SELLER, world.ask(SELLER, 900))) == ["ok"]
    assert world.agreements() == []
    world.next_round()
    assert len(world.agreements()) == 1


def test_orders_are_numbered_by_height_and_place(world: MarketWorld) -> None:
    orders = [(BUYER, world.bid(900)), (OTHER_BUYER, world.bid(900)), (SELLER, world.ask(SELLER, 2_000))]
    assert world.ledger.commit(*[world.ledger.sign(user, order) for user, order in orders]) == ["ok"] * 3
    found = [world.order(user) for user, _ in orders]
    height = world.ledger.height
    assert [order.order.id for order in found if order is not None] == [OrderId(height, place) for place in range(3)]


def test_who_is_priced_out_or_expires_gets_everything_back_and_rests(world: MarketWorld) -> None:
    before = world.balance(BUYER), world.balance(SELLER)
    paid = spent(world, BUYER, world.bid(999, 4, 4)), spent(world, SELLER, world.ask(SELLER, 900, 4, 0))
    assert paid == (FEE + BOND + 3_996, FEE + BOND + 4 * DELIVERY_BOND)
    world.next_round()
    for user, start in zip((BUYER, SELLER), before, strict=True):
        order = world.order(user)
        assert order is not None
        assert (order.status, order.at_stake) == (OrderStatus.RESTING, 0)
        assert start - world.balance(user) < FEE + 1_000  # and the fee of a transaction
    assert world.ledger.run(BUYER, world.bid(999)) == "identity_rests"
    for _ in range(MARKETS.patience_max):
        world.next_round()
    assert world.order(BUYER) is None
    assert world.ledger.run(BUYER, world.bid(1_000)) == "ok"


def test_a_cancelled_order_is_dead_and_its_money_stays_until_it_would_have_expired(world: MarketWorld) -> None:
    world.ledger.run(BUYER, world.bid(1_500, 2, 3))
    balance = world.balance(BUYER)
    assert spent(world, BUYER, CancelOrder(world.market)) == 0
    world.next_round()
    held = world.order(BUYER)
    assert held is not None
    assert (held.status, held.at_stake) == (OrderStatus.CANCELLED, 3_000 + BOND)
    assert world.book().coming_round <= held.order.expiry
    world.ledger.run(SELLER, world.ask(SELLER, 500, 1, 4))
    assert world.ledger.run(BUYER, CancelOrder(world.market)) == "order_is_over"
    assert world.ledger.run(BUYER, world.bid(2_000)) == "identity_rests"
    assert world.ledger.run(OTHER_BUYER, CancelOrder(world.market)) == "unknown_order"
    while world.book().coming_round <= held.order.expiry:
        world.next_round()
    assert world.agreements() == []
    assert world.balance(BUYER) > balance + BOND
    resting = world.order(BUYER)
    assert resting is not None
    assert (resting.status, resting.at_stake) == (OrderStatus.RESTING, 0)


def test_a_market_without_orders_costs_nothing_and_its_rounds_pass(world: MarketWorld) -> None:
    world.ledger.commit(world.ledger.sign(BUYER, world.bid(3_000)), world.ledger.sign(SELLER, world.ask(SELLER, 1)))
    world.next_round()
    calendar = world.calendar()
    assert (calendar.head, calendar.orders) == (calendar.tail, 0)
    price, prices = world.book().price, world.book().prices
    assert prices[0] != prices[-1]
    world.ledger.advance(40)
    assert len(world.ledger.chain.changes_at(world.ledger.height)) <= 3
    assert world.ledger.run(SELLER, world.ask(SELLER, price)) == "ok"
    # Nobody pays for what was asked long ago.
    assert world.book().prices == (price,) * (MARKETS.patience_max + 1)
    assert world.book().coming_round == world.ledger.height * 100 // 200 + 1


def test_bad_orders_are_refused(world: MarketWorld) -> None:
    run = world.ledger.run
    assert run(BUYER, world.bid(1_000, market=bytes(32))) == "unknown_market"
    assert run(BUYER, world.bid(2**50, 2**20)) == "order_too_large"
    assert run(BUYER, world.bid(2**50, 1)) == "order_not_backed"
    assert run(BUYER, world.bid(1_000, 1, MARKETS.patience_max + 1)) == "order_too_patient"
    assert run(SELLER, world.ask(SELLER, 1_000, 2**32)) == "order_not_backed"
    assert run(SELLER, world.ask(SELLER, 1_000, name="nobody")) == "not_the_provider"
    assert run(SELLER, world.ask(SELLER, 1_000, name="kitchen")) == "not_the_provider"
    assert run(SELLER, world.ask(SELLER, 1_000, sleep_ms=8 * 24 * 3_600_000)) == "offer_out_of_bounds"
    rest = world.balance(BUYER) - BOND // 2
    assert run(BUYER, Transfer(STRANGER.public, rest)) == "ok"
    assert run(BUYER, world.bid(1)) == "identity_not_bonded"
    assert run(OTHER_BUYER, world.bid(1_000, 1, 4)) == "ok"
    assert run(OTHER_BUYER, world.bid(1_000)) == "identity_has_order"
    assert run(OTHER_BUYER, CommitOrder(world.market, bytes(32), 1)) == "wrong_mechanism"
    assert run(OTHER_BUYER, reveal(world.market, OTHER_BUYER, Side.BID, 5)) == "wrong_mechanism"


@pytest.mark.parametrize(("limit", "quantity", "patience"), [(0, 1, 0), (-1, 1, 0), (5, 0, 0), (5, -3, 0), (5, 1, -1)])
def test_what_is_no_number_of_an_order_is_no_operation(
    world: MarketWorld, limit: int, quantity: int, patience: int
) -> None:
    for order in (world.bid(limit, quantity, patience), world.ask(SELLER, limit, quantity, patience)):
        with pytest.raises(PeerFault):
            world.ledger.chain.check(world.ledger.sign(BUYER, order))


def test_a_market_has_bounds_a_deposit_and_an_end(world: MarketWorld) -> None:
    run = world.ledger.run
    assert run(BUYER, OpenMarket(market(), PRICE)) == "market_exists"
    assert run(BUYER, OpenMarket(market(delivery_bond=1), PRICE)) == "market_out_of_bounds"
    assert run(BUYER, OpenMarket(market(starts_ms=1, duration_ms=9), PRICE)) == "market_out_of_bounds"
    assert run(BUYER, OpenMarket(market(starts_ms=2**62), PRICE)) == "market_out_of_bounds"
    assert spent(world, BUYER, OpenMarket(market(region="u1"), PRICE)) == MARKETS.market_deposit
    other = market_id(market(region="u1"))
    assert run(STRANGER, CloseMarket(other)) == "not_market_opener"
    assert run(SELLER, world.ask(SELLER, 900, market=other)) == "ok"
    assert run(BUYER, CloseMarket(other)) == "market_in_use"
    for _ in range(MARKETS.patience_max + 2):
        world.next_round()
    assert spent(world, BUYER, CloseMarket(other)) == -MARKETS.market_deposit
    assert run(BUYER, CloseMarket(other)) == "unknown_market"
    for number in range(MARKETS.markets - 1):
        assert run(STRANGER, OpenMarket(market(region=f"v{number}"), PRICE)) == "ok"
    assert run(STRANGER, OpenMarket(market(region="w"), PRICE)) == "too_many_markets"


def test_a_window_that_is_over_gives_everything_back(world: MarketWorld) -> None:
    now = world.ledger.height * 100
    slot = world.open(starts_ms=now + 600, duration_ms=600)
    order = world.bid(2_000, 2, 4, market=slot)
    before = world.balance(BUYER)
    # Matched ahead of the window: the agreement is for the window.
    assert world.ledger.commit(
        world.ledger.sign(OTHER_BUYER, order), world.ledger.sign(SELLER, world.ask(SELLER, 10, market=slot))
    ) == ["ok", "ok"]
    world.next_round()
    (agreement,) = world.agreements()
    assert (agreement.start_ms, agreement.end_ms) == (now + 600, now + 1_200)
    world.ledger.advance(4)
    assert world.ledger.run(BUYER, order) == "ok"
    while world.ledger.height * 100 < now + 1_200:
        assert world.order(BUYER, slot) is not None
        world.ledger.commit()
    assert world.order(BUYER, slot) is None
    assert before - world.balance(BUYER) < FEE + 1_000
    assert world.ledger.run(BUYER, order) == "market_over"
    opener = world.balance(STRANGER)
    assert world.ledger.run(SELLER, CloseMarket(slot)) == "ok"
    assert world.balance(STRANGER) == opener + MARKETS.market_deposit


def test_a_seller_that_has_lost_the_name_trades_no_more(world: MarketWorld) -> None:
    world.ledger.run(SELLER, world.ask(SELLER, 900, 1, 4))
    world.ledger.run(SELLER, RevokeName("thermo"))
    world.ledger.run(BUYER, world.bid(1_100, 1, 0))
    world.next_round()
    assert world.agreements() == []
    order = world.order(SELLER)
    assert order is not None
    assert (order.status, order.at_stake) == (OrderStatus.RESTING, 0)


def test_the_difference_of_prices_is_burned(world: MarketWorld) -> None:
    # A departed ask moves the price down, so who came before pays more than who asks gets.
    assert world.ledger.run(THIRD_SELLER, world.ask(THIRD_SELLER, 2_000, 8)) == "ok"
    assert world.ledger.run(OTHER_BUYER, world.bid(10, 8)) == "ok"
    world.next_round()
    assert world.book().price != PRICE
    buyer, burned = world.balance(BUYER), world.ledger.chain.fees.burned
    bid, ask = world.bid(3_000, 2), world.ask(SELLER, 1, 2)
    world.ledger.commit(world.ledger.sign(BUYER, bid), world.ledger.sign(SELLER, ask))
    fees = world.ledger.chain.fees.burned - burned
    world.next_round()
    clearing = world.book().clearing
    assert clearing is not None
    (agreement,) = world.agreements()
    assert clearing.surplus == clearing.paid - agreement.deposited > 0
    assert world.ledger.chain.fees.burned == burned + fees + clearing.surplus
    assert buyer - world.balance(BUYER) - clearing.paid < FEE + 1_000


def test_a_provider_takes_its_bond_back_when_the_agreement_is_over(world: MarketWorld) -> None:
    world.ledger.commit(world.ledger.sign(BUYER, world.bid(2_000)), world.ledger.sign(SELLER, world.ask(SELLER, 1)))
    world.next_round()
    before = world.balance(SELLER)
    assert world.ledger.run(SELLER, WithdrawOffer("thermo")) == "bond_held"
    (identity,) = [data for kind, data in world.ledger.results[-2].events if kind == "agreement"]
    assert world.ledger.run(SELLER, CloseAgreement(identity)) == "ok"
    world.ledger.advance(10)
    assert spent(world, SELLER, WithdrawOffer("thermo")) == -DELIVERY_BOND
    assert before - 2_000 < world.balance(SELLER) < before + DELIVERY_BOND


def test_books_and_the_chain_have_room_for_so_many_orders() -> None:
    world = MarketWorld(replace(MARKETS, orders_per_market=2, orders=3))
    other = world.open(region="u1")
    run = world.ledger.run
    assert run(BUYER, world.bid(2_000, 1, 4)) == "ok"
    assert run(OTHER_BUYER, world.bid(2_000, 1, 4)) == "ok"
    assert run(THIRD_BUYER, world.bid(2_000, 1, 4)) == "too_many_orders"
    assert run(BUYER, world.bid(2_000, 1, 4, market=other)) == "ok"
    assert run(OTHER_BUYER, world.bid(2_000, 1, 4, market=other)) == "too_many_orders"
    for _ in range(6):
        world.next_round()
    assert run(OTHER_BUYER, world.bid(2_000, 1, 4, market=other)) == "ok"


def test_a_commit_works_off_so_much_and_the_next_goes_on() -> None:
    world = MarketWorld(replace(MARKETS, orders_per_commit=1))
    markets = [world.market, world.open(region="u1"), world.open(region="u2")]
    while world.ledger.height * 100 % 200 != 100:
        world.ledger.commit()
    orders = [world.bid(2_000, 1, 4, market=each) for each in markets]
    world.ledger.commit(world.ledger.sign(BUYER, *orders))
    coming = [world.book(each).coming_round for each in markets]
    held = []
    for _ in range(6):
        world.ledger.commit()
        held.append([world.book(each).coming_round - first for each, first in zip(markets, coming, strict=True)])
    assert held[:4] == [[0, 0, 0], [1, 0, 0], [1, 1, 0], [1, 1, 1]]


def test_the_book_is_the_state_alone_so_a_restart_changes_nothing() -> None:
    ends = []
    for restarts in (False, True):
        world = MarketWorld()
        for number, user in enumerate((*BUYERS, *SELLERS)):
            order = world.ask(user, 700 + number, 2, 4) if user in SELLERS else world.bid(1_000 + 30 * number, 3, 3)
            assert world.ledger.run(user, order) == "ok"
            if restarts:
                world.ledger.restart()
        world.next_round()
        if restarts:
            world.ledger.restart()
        world.next_round()
        assert world.agreements()
        ends.append(world.ledger.state())
    assert ends[0] == ends[1]


@pytest.mark.parametrize("mechanism", [MarketMechanism.MCAFEE, MarketMechanism.M1])
def test_a_sealed_round_commits_reveals_and_clears(sealed_world: MarketWorld, mechanism: MarketMechanism) -> None:
    world = sealed_world
    sealed_market, run = world.open(mechanism=mechanism), world.ledger.run
    bids = [(BUYER, 3_000), (OTHER_BUYER, 2_500), (THIRD_BUYER, 600)]
    asks = [(SELLER, 500), (OTHER_SELLER, 700), (THIRD_SELLER, 4_000)]
    orders = [(user, Side.BID, limit) for user, limit in bids] + [(user, Side.ASK, limit) for user, limit in asks]
    assert run(BUYER, world.bid(1, market=sealed_market)) == "wrong_mechanism"
    assert run(BUYER, reveal(sealed_market, BUYER, Side.BID, 3_000)) == "outside_reveal_phase"
    before = {user: world.balance(user) for user, _, _ in orders}
    payloads = [world.ledger.sign(*(user, sealed(sealed_market, user, side, limit))) for user, side, limit in orders]
    assert world.ledger.commit(*payloads) == ["ok"] * 6
    assert run(BUYER, sealed(sealed_market, BUYER, Side.BID, 2_000)) == "committed_already"
    assert run(BUYER, CancelOrder(sealed_market)) == "wrong_mechanism"
    while world.book(sealed_market).phase is Phase.COMMITMENTS:
        world.ledger.commit()
    assert run(STRANGER, sealed(sealed_market, STRANGER, Side.BID, 2_000)) == "outside_commit_phase"
    assert run(STRANGER, reveal(sealed_market, STRANGER, Side.BID, 2_000)) == "nothing_committed"
    assert run(BUYER, reveal(sealed_market, BUYER, Side.BID, 2_999)) == "wrong_order_revealed"
    assert run(BUYER, reveal(sealed_market, BUYER, Side.BID, 3_000, name="thermo")) == "order_not_revealable"
    # All but the dearest seller say what they meant.
    payloads = [world.ledger.sign(user, reveal(sealed_market, user, side, limit)) for user, side, limit in orders[:5]]
    assert world.ledger.commit(*payloads) == ["ok"] * 5
    assert run(SELLER, reveal(sealed_market, SELLER, Side.ASK, 500)) == "order_revealed_already"
    burned = world.ledger.chain.fees.burned
    while world.book(sealed_market).orders.entries:
        world.ledger.commit()
    clearing = world.book(sealed_market).clearing
    assert clearing is not None
    # McAfee: the next bid and nobody's ask are left over, so the second pair gives way.
    expected = (1, 2_500) if mechanism is MarketMechanism.MCAFEE else (2, 700)
    assert (clearing.trades, clearing.price) == expected
    assert world.ledger.chain.fees.burned == burned + MARKETS.forfeit + clearing.surplus
    assert all(world.order(user, sealed_market) is None for user, _, _ in orders)
    lost = before[THIRD_SELLER] - world.balance(THIRD_SELLER)
    assert MARKETS.forfeit + FEE < lost < MARKETS.forfeit + FEE + 1_000
    assert run(THIRD_SELLER, reveal(sealed_market, THIRD_SELLER, Side.ASK, 4_000)) == "outside_reveal_phase"
    assert run(THIRD_SELLER, sealed(sealed_market, THIRD_SELLER, Side.ASK, 5)) == "ok"


def test_sealed_orders_are_no_better_than_others(sealed_world: MarketWorld) -> None:
    world = sealed_world
    sealed_market, run = world.open(mechanism=MarketMechanism.MCAFEE), world.ledger.run
    short = replace(sealed(sealed_market, BUYER, Side.BID, 3_000), locked=2_999)
    assert run(BUYER, short) == "ok"
    assert run(OTHER_BUYER, replace(short, locked=2 * RICH)) == "order_not_backed"
    assert run(SELLER, sealed(sealed_market, SELLER, Side.ASK, 10)) == "ok"
    assert run(THIRD_BUYER, Transfer(STRANGER.public, world.balance(THIRD_BUYER) - BOND)) == "ok"
    assert run(THIRD_BUYER, sealed(sealed_market, THIRD_BUYER, Side.BID, 1)) == "identity_not_bonded"
    while world.book(sealed_market).phase is Phase.COMMITMENTS:
        world.ledger.commit()
    assert run(BUYER, reveal(sealed_market, BUYER, Side.BID, 3_000)) == "order_not_backed"
    assert run(SELLER, reveal(sealed_market, SELLER, Side.ASK, 10, name="kitchen")) == "not_the_provider"
    ends = world.ledger.height * 100 + 10 * MARKETS.round_ms
    soon = world.open(mechanism=MarketMechanism.MCAFEE, starts_ms=ends - 10, duration_ms=10)
    assert run(OTHER_BUYER, sealed(soon, OTHER_BUYER, Side.BID, 5)) == "market_over"


def test_the_parameters_are_a_group_of_the_genesis() -> None:
    genesis = replace(small_genesis(), market=replace(MARKETS, listing_fee=77))
    assert Genesis.from_json(genesis.to_json()) == genesis
    assert genesis.chain_id() != small_genesis().chain_id()
    wrong: list[dict[str, Any]] = [
        {"round_ms": 0},
        {"patience_max": 2_000},
        {"listing_fee": -1},
        {"commit_rounds": 0},
        {"orders": 1},
        {"markets": 0},
        {"orders_per_commit": 0},
    ]
    for changes in wrong:
        with pytest.raises(BadConfiguration):
            MarketParameters(**{"orders_per_market": 2, "orders": 3, **changes}).check()
