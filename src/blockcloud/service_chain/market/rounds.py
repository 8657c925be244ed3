"""The rounds of markets on the ledger: before the transactions of a commit, those that are due are held.

A round of the chain begins with the first commit whose time is in it, and every market that has orders then has its
turn; if they are too many for one commit, the later ones have theirs in the next commits, so rounds become longer, not
commits. The seed of a market's lottery is of the commit that holds its round: nobody knew it when the orders were
included, which was in earlier commits. DESIGN section 6.1.

There is no pool of orders beside the state: a market is read, the pure engine does what it does, and what that changed
is written. So a restart, a snapshot or a transaction that is undone needs no care. What a round writes is a book
without its orders (some 2 KB), and the orders, accounts and agreements that changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from msgspec.structs import replace

from blockcloud.primitives import codec
from blockcloud.primitives.hashes import tagged_hash
from blockcloud.service_chain.accounts import Context, Event, credit
from blockcloud.service_chain.agreements.rules import MatchedTerms, open_matched
from blockcloud.service_chain.market.keys import (
    CALENDAR_KEY,
    book_key,
    market_key,
    match_name,
    order_key,
    orders_listing,
    turn_key,
)
from blockcloud.service_chain.market.listing import members, remove
from blockcloud.service_chain.market.operations import MarketKey
from blockcloud.service_chain.market.outcome import Outcome, Trade, Why
from blockcloud.service_chain.market.ratchet import Known, Ratchet, RatchetRecord
from blockcloud.service_chain.market.records import (
    BookRecord,
    Calendar,
    Clearing,
    MarketRecord,
    MarketTurn,
    OrderRecord,
    OrderStatus,
    Pages,
    Phase,
)
from blockcloud.service_chain.market.rules import end_ms, rules_of, serves
from blockcloud.service_chain.market.sealed import CLEARING, Mechanism
from blockcloud.service_chain.staking import burn
from blockcloud.service_chain.working_state import WorkingState

SEED: Final = "market-round/v1"
# A market costs as much as so many orders, however few it has.
MARKET_WORK: Final = 16


class _Market(NamedTuple):
    """A market whose turn it is."""

    id: bytes
    key: MarketKey
    book: BookRecord
    orders: Mapping[bytes, OrderRecord]  # by account, as they came


class _Changes:
    """What a round does to the orders of a market, and to whom it pays; written at its end."""

    def __init__(self, orders: Mapping[bytes, OrderRecord]) -> None:
        self.before = orders
        self.after: dict[bytes, OrderRecord | None] = dict(orders)
        self.by_id = {record.order.id: account for account, record in orders.items()}
        self.paid: dict[bytes, int] = {}
        self.burned = 0

    def now(self, account: bytes) -> OrderRecord:
        record = self.after[account]
        assert record is not None, "an order leaves once"
        return record

    def pay(self, account: bytes, amount: int) -> None:
        self.paid[account] = self.paid.get(account, 0) + amount

    def release(self, account: bytes, *, keep: bool) -> None:
        """Give an order's money back; `keep`: its identity rests."""
        record = self.now(account)
        self.pay(account, record.at_stake)
        self.after[account] = replace(record, status=OrderStatus.RESTING, locked=0, bond=0) if keep else None

    def write(self, state: WorkingState, market: bytes, pages: Pages) -> Pages:
        """Carry it out; the list of orders without those that are gone."""
        gone = {}
        for account, record in self.after.items():
            if record is None:
                gone[account] = self.before[account].page
                state.delete(order_key(market, account))
            elif record is not self.before[account]:
                state.put(order_key(market, account), record)
        for account, amount in self.paid.items():
            if amount:
                credit(state, account, amount)
        if self.burned:
            burn(state, self.burned)
        return remove(state, orders_listing(market), pages, gone) if gone else pages


def turn_markets(state: WorkingState, context: Context, commit_digest: bytes) -> Sequence[Event]:
    """Hold the rounds that are due in this commit. Costs one lookup where no market has an order."""
    calendar = state.get(CALENDAR_KEY, Calendar)
    if calendar is None or calendar.head == calendar.tail:
        return ()
    now = context.time_ms // context.market.round_ms
    if calendar.head == calendar.until:
        if now <= calendar.round:
            return ()
        calendar = replace(calendar, round=now, until=calendar.tail)
    events: list[Event] = []
    head, tail, orders, work = calendar.head, calendar.tail, calendar.orders, context.market.orders_per_commit
    while head < calendar.until and work > 0:
        market = _take_turn(state, head)
        head += 1
        found = _read(state, market)
        events += _hold(state, found, now, context, commit_digest)
        after = state.get(book_key(market), BookRecord)
        assert after is not None, "a market with orders is not closed"
        orders -= len(found.orders) - after.orders.entries
        work -= max(len(found.orders), MARKET_WORK)
        if after.orders.entries:
            _queue(state, tail, market)
            tail += 1
    state.put(CALENDAR_KEY, replace(calendar, head=head, tail=tail, orders=orders))
    return events


def _take_turn(state: WorkingState, number: int) -> bytes:
    turn = state.get(turn_key(number), MarketTurn)
    assert turn is not None, "the queue has no holes"
    state.delete(turn_key(number))
    return turn.market


def _queue(state: WorkingState, number: int, market: bytes) -> None:
    state.get(turn_key(number), MarketTurn)
    state.put(turn_key(number), MarketTurn(market))


def _read(state: WorkingState, market: bytes) -> _Market:
    record, book = state.get(market_key(market), MarketRecord), state.get(book_key(market), BookRecord)
    assert record is not None, "who has a turn is a market"
    assert book is not None, "a market has a book"
    orders = {}
    for account in members(state, orders_listing(market), book.orders):
        order = state.get(order_key(market, account), OrderRecord)
        assert order is not None, "who is listed has an order"
        orders[account] = order
    return _Market(market, record.key, book, orders)


def _hold(state: WorkingState, market: _Market, now: int, context: Context, commit_digest: bytes) -> Sequence[Event]:
    """What is due in one market."""
    book, ends = market.book, end_ms(market.key)
    if ends is not None and context.time_ms >= ends:
        return _dissolve(state, market)
    if book.phase is Phase.ORDERS:
        seed = tagged_hash(SEED, codec.encode((context.plan.beacon, commit_digest, market.id)))
        return _hold_ratchet(state, market, seed, context)
    if now < book.phase_ends:
        return ()
    if book.phase is Phase.COMMITMENTS:
        opened = replace(book, phase=Phase.REVEALS, phase_ends=now + context.market.reveal_rounds)
        state.put(book_key(market.id), opened)
        return [("market", market.id)]
    return _hold_sealed(state, market, context)


def _dissolve(state: WorkingState, market: _Market) -> Sequence[Event]:
    """The window is over: nobody trades any more, and everybody gets back what is locked."""
    changes = _Changes(market.orders)
    for account in market.orders:
        changes.release(account, keep=False)
    orders = changes.write(state, market.id, market.book.orders)
    phase = Phase.ORDERS if market.book.phase is Phase.ORDERS else Phase.COMMITMENTS
    state.put(book_key(market.id), replace(market.book, orders=orders, live=0, phase=phase))
    return [("market", market.id)]


def _hold_ratchet(state: WorkingState, market: _Market, seed: bytes, context: Context) -> Sequence[Event]:
    """A round of the ratchet: trades, departures, and the money of orders that were cancelled."""
    book, changes = market.book, _Changes(market.orders)
    lapsed = _lapsed(state, market, context)
    for account in lapsed:
        changes.release(account, keep=True)
    engine = Ratchet(
        rules_of(market.key, context.market),
        RatchetRecord(book.coming_round, book.prices, book.remembered, book.last_id),
        [
            (record.order, record.left)
            for account, record in market.orders.items()
            if record.status is OrderStatus.LIVE and account not in lapsed
        ],
        [(account, Known(record.order.id, record.until)) for account, record in market.orders.items()],
    )
    outcome = engine.clear(seed)
    events = _trade(state, market, changes, outcome, context)
    for departure in outcome.departures:
        changes.release(changes.by_id[departure.id], keep=departure.why is not Why.FILLED)
    for account, record in market.orders.items():
        after = changes.after[account]
        if after is None:
            continue
        if after.status is OrderStatus.CANCELLED and record.order.expiry <= outcome.round:
            changes.release(account, keep=True)
        if after.status is not OrderStatus.LIVE and record.until <= outcome.round:
            changes.after[account] = None
    orders = changes.write(state, market.id, book.orders)
    found, live = engine.record(), len(engine.live())
    after_round = replace(
        book,
        coming_round=found.coming_round,
        prices=found.prices,
        remembered=found.remembered,
        orders=orders,
        live=live,
    )
    state.put(book_key(market.id), _with_clearing(after_round, outcome, context))
    return [("market", market.id), *events] if outcome.departures or events else ()


def _hold_sealed(state: WorkingState, market: _Market, context: Context) -> Sequence[Event]:
    """Clear a sealed round. Nobody stays; who did not reveal loses the forfeit, and no more."""
    book, changes = market.book, _Changes(market.orders)
    lapsed = _lapsed(state, market, context)
    revealed = [
        record.order
        for account, record in market.orders.items()
        if record.status is OrderStatus.LIVE and account not in lapsed
    ]
    outcome = CLEARING[Mechanism(market.key.mechanism.value)](book.coming_round, revealed)
    events = _trade(state, market, changes, outcome, context)
    for account, record in market.orders.items():
        if record.status is OrderStatus.COMMITTED:
            forfeit = record.bond - context.market.identity_bond
            changes.burned += forfeit
            changes.pay(account, -forfeit)
        changes.release(account, keep=False)
    orders = changes.write(state, market.id, book.orders)
    prices = (outcome.price,) if outcome.trades else book.prices
    after_round = replace(
        book, coming_round=book.coming_round + 1, prices=prices, orders=orders, live=0, phase=Phase.COMMITMENTS
    )
    state.put(book_key(market.id), _with_clearing(after_round, outcome, context))
    return [("market", market.id), *events]


def _lapsed(state: WorkingState, market: _Market, context: Context) -> Mapping[bytes, None]:
    """Who offers what a name delivers that is not his any more."""
    return {
        account: None
        for account, record in market.orders.items()
        if record.name and record.status is OrderStatus.LIVE and not serves(state, record.name, account, context)
    }


def _trade(state: WorkingState, market: _Market, changes: _Changes, outcome: Outcome, context: Context) -> list[Event]:
    """Open an agreement for each trade, out of what both orders have locked."""
    events: list[Event] = []
    bond = market.key.delivery_bond
    for index, trade in enumerate(outcome.trades):
        buyer, seller = changes.by_id[trade.bid], changes.by_id[trade.ask]
        bid, ask, units = changes.now(buyer), changes.now(seller), trade.quantity
        promised = bid.order.limit * units
        changes.after[buyer] = replace(bid, left=bid.left - units, locked=bid.locked - promised)
        changes.after[seller] = replace(ask, left=ask.left - units, locked=ask.locked - bond * units)
        changes.pay(buyer, promised - trade.paid * units)
        terms = _terms(market, trade, bid, ask, match_name(market.id, context.height, index), context.time_ms)
        events.append(("agreement", open_matched(state, context, terms)))
    changes.burned += outcome.surplus
    return events


def _terms(
    market: _Market, trade: Trade, bid: OrderRecord, ask: OrderRecord, match: bytes, time_ms: int
) -> MatchedTerms:
    """What buyer and seller have agreed on: the seller's price, and so much in the channel as that comes to."""
    key = market.key
    starts = max(key.starts_ms, time_ms)
    return MatchedTerms(
        match=match,
        name=ask.name,
        client=bid.order.identity,
        provider=ask.order.identity,
        voucher_key=bid.voucher_key,
        unit=key.unit,
        unit_price=trade.received,
        quality_ppm=key.quality_ppm,
        start_ms=starts,
        end_ms=end_ms(key) or starts + key.duration_ms,
        sleep_ms=ask.sleep_ms,
        deposit=trade.received * trade.quantity,
        bond=key.delivery_bond * trade.quantity,
    )


def _with_clearing(book: BookRecord, outcome: Outcome, context: Context) -> BookRecord:
    """The book with the result of a round in which somebody traded."""
    trades = outcome.trades
    if not trades:
        return book
    clearing = Clearing(
        height=context.height,
        time_ms=context.time_ms,
        round=outcome.round,
        price=outcome.price,
        trades=len(trades),
        units=sum(trade.quantity for trade in trades),
        paid=sum(trade.quantity * trade.paid for trade in trades),
        surplus=outcome.surplus,
    )
    return replace(book, clearing=clearing)
