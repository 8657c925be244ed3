"""Markets on the ledger: what an account may do in them. What a round does is in `rounds`.

An order burns a flat fee and locks what it promises and a bond of the identity, which is the account: one account has
one order in a market, hence one ticket in its lottery. An identity whose order left unfilled, or was cancelled, keeps
its place in the book, without money or with, until the window of the order is over (`ratchet`).

A market that has an order waits in the queue of `Calendar`, and only such a market costs anything in a round.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from msgspec.structs import replace

from blockcloud.service_chain.accounts import Context, Event, credit, debit
from blockcloud.service_chain.agreements.parameters import TIME_MAX_MS
from blockcloud.service_chain.agreements.rejections import NotTheProvider, OfferOutOfBounds
from blockcloud.service_chain.market.keys import (
    CALENDAR_KEY,
    LISTED,
    book_key,
    market_id,
    market_key,
    order_key,
    orders_listing,
    turn_key,
)
from blockcloud.service_chain.market.listing import add, remove
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
from blockcloud.service_chain.market.orders import Backing, MarketRules, Order, OrderId, Side, check_order
from blockcloud.service_chain.market.parameters import MarketParameters
from blockcloud.service_chain.market.records import (
    BookRecord,
    Calendar,
    MarketRecord,
    MarketTurn,
    OrderRecord,
    OrderStatus,
    Phase,
)
from blockcloud.service_chain.market.refusals import (
    CommittedAlready,
    IdentityHasOrder,
    IdentityNotBonded,
    IdentityRests,
    NothingCommitted,
    OrderIsOver,
    OrderNotBacked,
    OrderRevealedAlready,
    OutsideCommitPhase,
    OutsideRevealPhase,
    TooManyOrders,
    UnknownOrder,
    WrongOrderRevealed,
)
from blockcloud.service_chain.market.rejections import (
    MarketExists,
    MarketInUse,
    MarketOutOfBounds,
    MarketOver,
    NotMarketOpener,
    OrderNotRevealable,
    TooManyMarkets,
    UnknownMarket,
    WrongMechanism,
)
from blockcloud.service_chain.market.sealed import order_commitment
from blockcloud.service_chain.proof_of_service.standing import is_in_standing
from blockcloud.service_chain.records import Account, NameRecord
from blockcloud.service_chain.staking import burn
from blockcloud.service_chain.state_keys import account_key, name_key
from blockcloud.service_chain.working_state import WorkingState


def calendar_of(state: WorkingState) -> Calendar:
    """The calendar; that of a chain without any market yet."""
    return state.get(CALENDAR_KEY, Calendar) or Calendar()


def rules_of(key: MarketKey, limits: MarketParameters) -> MarketRules:
    """What all orders of a market have in common."""
    return MarketRules(limits.patience_max, limits.identity_bond, key.delivery_bond)


def end_ms(key: MarketKey) -> int | None:
    """When the window of a market ends; None if every match has one of its own."""
    return key.starts_ms + key.duration_ms if key.starts_ms else None


def serves(state: WorkingState, name: str, account: bytes, context: Context) -> bool:
    """Whether `name` is active, and the account's, which may offer something."""
    record = state.get(name_key(name), NameRecord)
    if record is None or not record.is_active(context.height) or record.owner != account:
        return False
    return is_in_standing(state, account, context.plan.era)


def apply_open_market(state: WorkingState, sender: bytes, operation: OpenMarket, context: Context) -> Sequence[Event]:
    """Open a market. It is in no queue before its first order."""
    key, limits = operation.key, context.market
    identity, calendar = market_id(key), calendar_of(state)
    if state.get(market_key(identity), MarketRecord) is not None:
        raise MarketExists(market=identity.hex())
    ends = end_ms(key)
    late = ends is not None and not context.time_ms < ends <= context.time_ms + TIME_MAX_MS
    if late or key.duration_ms > context.agreements.window_max_ms or key.delivery_bond < limits.delivery_bond_min:
        raise MarketOutOfBounds(ends_ms=ends or 0, delivery_bond=key.delivery_bond, least=limits.delivery_bond_min)
    if calendar.listed.entries >= limits.markets:
        raise TooManyMarkets(markets=limits.markets)
    debit(state, sender, limits.market_deposit)
    listed = add(state, LISTED, calendar.listed, identity)
    _put_calendar(state, replace(calendar, listed=listed))
    record = MarketRecord(key, sender, limits.market_deposit, context.height, listed.end - 1)
    state.put(market_key(identity), record)
    state.get(book_key(identity), BookRecord)
    phase = Phase.ORDERS if key.mechanism is MarketMechanism.RATCHET else Phase.COMMITMENTS
    prices = (operation.opening_price,) * (limits.patience_max + 1 if phase is Phase.ORDERS else 1)
    state.put(book_key(identity), BookRecord(context.time_ms // limits.round_ms + 1, prices, phase=phase))
    return [("market", identity)]


def apply_close_market(state: WorkingState, sender: bytes, operation: CloseMarket, context: Context) -> Sequence[Event]:
    """Remove a market; its deposit goes to its opener."""
    record, book = _market(state, operation.market)
    ends = end_ms(record.key)
    if sender != record.opener and (ends is None or context.time_ms < ends):
        raise NotMarketOpener(market=operation.market.hex())
    if book.orders.entries:
        raise MarketInUse(market=operation.market.hex(), orders=book.orders.entries)
    calendar = calendar_of(state)
    listed = remove(state, LISTED, calendar.listed, {operation.market: record.page})
    _put_calendar(state, replace(calendar, listed=listed))
    state.delete(market_key(operation.market))
    state.delete(book_key(operation.market))
    credit(state, record.opener, record.deposit)
    return [("market", operation.market)]


def apply_bid(state: WorkingState, sender: bytes, operation: Bid, context: Context) -> Sequence[Event]:
    """Take in a buyer's order."""
    promised = operation.limit * operation.quantity
    return _order(state, sender, Side.BID, operation, promised, context, voucher_key=operation.voucher_key)


def apply_ask(state: WorkingState, sender: bytes, operation: Ask, context: Context) -> Sequence[Event]:
    """Take in a seller's order."""
    record, _ = _market(state, operation.market)
    _check_seller(state, sender, operation.name, operation.sleep_ms, context)
    promised = record.key.delivery_bond * operation.quantity
    return _order(
        state, sender, Side.ASK, operation, promised, context, name=operation.name, sleep_ms=operation.sleep_ms
    )


def apply_cancel(state: WorkingState, sender: bytes, operation: CancelOrder, context: Context) -> Sequence[Event]:
    """Take an order out of the rounds to come. Its identity rests; its money stays until it would have expired."""
    _, book = _market(state, operation.market)
    place = order_key(operation.market, sender)
    record = state.get(place, OrderRecord)
    if record is None:
        raise UnknownOrder(market=operation.market.hex())
    if record.status is OrderStatus.COMMITTED or book.phase is not Phase.ORDERS:
        raise WrongMechanism(market=operation.market.hex(), sealed="a commitment is kept")
    if record.status is not OrderStatus.LIVE:
        raise OrderIsOver(id=record.order.id)
    state.put(place, replace(record, status=OrderStatus.CANCELLED))
    state.put(book_key(operation.market), replace(book, live=book.live - 1))
    return [("market", operation.market)]


def apply_commit_order(state: WorkingState, sender: bytes, operation: CommitOrder, context: Context) -> Sequence[Event]:
    """Take in a commitment. The first begins the round."""
    record, book = _market(state, operation.market)
    limits = context.market
    if book.phase is Phase.ORDERS:
        raise WrongMechanism(market=operation.market.hex(), mechanism=record.key.mechanism.value)
    if book.phase is not Phase.COMMITMENTS:
        raise OutsideCommitPhase(phase=book.phase.name.lower())
    earlier = state.get(order_key(operation.market, sender), OrderRecord)
    if earlier is not None:
        raise CommittedAlready(order=earlier.order.id)
    if not book.orders.entries:
        now = context.time_ms // limits.round_ms
        book = replace(book, phase_ends=now + limits.commit_rounds, coming_round=max(book.coming_round, now + 1))
    _check_window(record.key, context, limits.commit_rounds + limits.reveal_rounds)
    backing = _backing(state, sender, operation.locked, limits.forfeit, context)
    if backing.bond < limits.identity_bond:
        raise IdentityNotBonded(bond=backing.bond, needed=limits.identity_bond)
    if backing.locked < operation.locked:
        raise OrderNotBacked(locked=backing.locked, needed=operation.locked)
    # Which side it is, and how much, is not known yet.
    order = Order(_next_id(book, context), sender, Side.BID, 0, 0, book.coming_round, book.coming_round)
    hidden = OrderRecord(order, OrderStatus.COMMITTED, 0, operation.locked, limits.identity_bond + limits.forfeit, 0, 0)
    return _enter(state, operation.market, book, replace(hidden, commitment=operation.commitment), context)


def apply_reveal_order(state: WorkingState, sender: bytes, operation: RevealOrder, context: Context) -> Sequence[Event]:
    """Open a commitment. Nothing is paid out before the round is cleared."""
    record, book = _market(state, operation.market)
    if book.phase is Phase.ORDERS:
        raise WrongMechanism(market=operation.market.hex(), mechanism=record.key.mechanism.value)
    if book.phase is not Phase.REVEALS:
        raise OutsideRevealPhase(phase=book.phase.name.lower())
    place = order_key(operation.market, sender)
    hidden = state.get(place, OrderRecord)
    if hidden is None:
        raise NothingCommitted(market=operation.market.hex())
    if hidden.status is not OrderStatus.COMMITTED:
        raise OrderRevealedAlready(order=hidden.order.id)
    sealed = operation.order
    if order_commitment(sender, sealed, operation.salt) != hidden.commitment:
        raise WrongOrderRevealed(order=hidden.order.id)
    if (sealed.side is Side.ASK) != bool(operation.name):
        raise OrderNotRevealable(side=sealed.side.name.lower(), name=operation.name)
    if sealed.side is Side.ASK:
        _check_seller(state, sender, operation.name, operation.sleep_ms, context)
    order = replace(hidden.order, side=sealed.side, limit=sealed.limit, quantity=sealed.quantity)
    backing = Backing(hidden.bond, hidden.locked)
    check_order(order, backing, rules_of(record.key, context.market), book.coming_round)
    after = replace(
        hidden,
        order=order,
        status=OrderStatus.LIVE,
        left=order.quantity,
        voucher_key=operation.voucher_key,
        name=operation.name,
        sleep_ms=operation.sleep_ms,
    )
    state.put(place, after)
    state.put(book_key(operation.market), replace(book, live=book.live + 1))
    return [("market", operation.market)]


def _order(
    state: WorkingState,
    sender: bytes,
    side: Side,
    operation: Bid | Ask,
    promised: int,
    context: Context,
    **of_side: Any,
) -> Sequence[Event]:
    """Take in an order for the coming round of a ratchet, and lock what it promises."""
    record, book = _market(state, operation.market)
    limits, market = context.market, operation.market
    if book.phase is not Phase.ORDERS:
        raise WrongMechanism(market=market.hex(), mechanism=record.key.mechanism.value)
    _check_window(record.key, context, 1)
    earlier = state.get(order_key(market, sender), OrderRecord)
    if earlier is not None and earlier.status is OrderStatus.LIVE:
        raise IdentityHasOrder(order=earlier.order.id)
    if earlier is not None:
        raise IdentityRests(until_round=earlier.until, coming_round=book.coming_round)
    if not book.orders.entries:
        book = _awake(book, context.time_ms // limits.round_ms + 1)
    arrival = book.coming_round
    order = Order(
        _next_id(book, context),
        sender,
        side,
        operation.limit,
        operation.quantity,
        arrival,
        arrival + operation.patience,
    )
    backing = _backing(state, sender, promised, 0, context)
    check_order(order, backing, rules_of(record.key, limits), arrival)
    until = arrival + limits.patience_max
    taken = OrderRecord(order, OrderStatus.LIVE, order.quantity, promised, limits.identity_bond, until, 0, **of_side)
    return _enter(state, market, replace(book, live=book.live + 1), taken, context)


def _enter(
    state: WorkingState, market: bytes, book: BookRecord, taken: OrderRecord, context: Context
) -> Sequence[Event]:
    """Put an order into the book, its money into the order, and the market into the queue."""
    calendar, limits, sender = calendar_of(state), context.market, taken.order.identity
    if book.orders.entries >= limits.orders_per_market or calendar.orders >= limits.orders:
        raise TooManyOrders(orders=book.orders.entries, of_all_markets=calendar.orders)
    debit(state, sender, taken.at_stake + limits.listing_fee)
    burn(state, limits.listing_fee)
    if not book.orders.entries:
        key = turn_key(calendar.tail)
        state.get(key, MarketTurn)
        state.put(key, MarketTurn(market))
        # Where nobody waited no round was opened: the one that runs is over with its second.
        idle = calendar.head == calendar.tail
        running = context.time_ms // limits.round_ms if idle else calendar.round
        calendar = replace(calendar, tail=calendar.tail + 1, round=running)
    _put_calendar(state, replace(calendar, orders=calendar.orders + 1))
    orders = add(state, orders_listing(market), book.orders, sender)
    state.put(order_key(market, sender), replace(taken, page=orders.end - 1))
    state.put(book_key(market), replace(book, orders=orders, last_id=taken.order.id))
    return [("market", market)]


def _market(state: WorkingState, market: bytes) -> tuple[MarketRecord, BookRecord]:
    record = state.get(market_key(market), MarketRecord)
    if record is None:
        raise UnknownMarket(market=market.hex())
    book = state.get(book_key(market), BookRecord)
    assert book is not None, "a market has a book"
    return record, book


def _awake(book: BookRecord, coming_round: int) -> BookRecord:
    """The book of a market where nobody was: the rounds without anybody are over, at the price that there was."""
    skipped = max(0, coming_round - book.coming_round)
    prices = (*book.prices, *(book.price,) * min(skipped, len(book.prices)))[-len(book.prices) :]
    return replace(book, coming_round=book.coming_round + skipped, prices=prices)


def _next_id(book: BookRecord, context: Context) -> OrderId:
    """The id of the next order in this market: the commit's height, and how many came before it there."""
    last = book.last_id
    return OrderId(context.height, last.place + 1 if last.height == context.height else 0)


def _backing(state: WorkingState, sender: bytes, promised: int, forfeit: int, context: Context) -> Backing:
    """What the sender can put up: the identity's bond first, then what an order promises."""
    limits, account = context.market, state.get(account_key(sender), Account)
    balance = max(0, (account.balance if account is not None else 0) - limits.listing_fee - forfeit)
    bond = min(balance, limits.identity_bond)
    return Backing(bond, min(balance - bond, promised))


def _check_window(key: MarketKey, context: Context, rounds: int) -> None:
    """Raise MarketOver if the window ends before so many rounds are over."""
    ends = end_ms(key)
    if ends is not None and context.time_ms + rounds * context.market.round_ms >= ends:
        raise MarketOver(ends_ms=ends)


def _check_seller(state: WorkingState, sender: bytes, name: str, sleep_ms: int, context: Context) -> None:
    if sleep_ms > context.agreements.sleep_max_ms:
        raise OfferOutOfBounds(sleep_ms=sleep_ms)
    if not serves(state, name, sender, context):
        raise NotTheProvider(name=name)


def _put_calendar(state: WorkingState, calendar: Calendar) -> None:
    state.get(CALENDAR_KEY, Calendar)
    state.put(CALENDAR_KEY, calendar)


MARKET_RULES: Final[Mapping[type, Callable[[WorkingState, bytes, Any, Context], Sequence[Event]]]] = {
    OpenMarket: apply_open_market,
    CloseMarket: apply_close_market,
    Bid: apply_bid,
    Ask: apply_ask,
    CancelOrder: apply_cancel,
    CommitOrder: apply_commit_order,
    RevealOrder: apply_reveal_order,
}
