"""The consumer's side of paid sessions: pays for what came, and a little ahead, out of a budget. DESIGN 6.3.

A provider that asks for money gets a voucher for what this side has counted itself, and for a few units more, so that
the stream need not stop while the next voucher travels: the more, the faster it asks, up to ten or two thousandths of
the deposit. Those few are all that a provider can take without serving.
There is one agreement for each instance that serves: whatever number of sessions go on with it, they share its purse.
A voucher is in the book before it leaves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, Protocol

import structlog

from blockcloud.primitives import codec
from blockcloud.primitives.errors import BlockCloudError, PeerFault
from blockcloud.primitives.keys import SigningKey
from blockcloud.service_access.errors import SessionEnded
from blockcloud.service_access.payment.book import VoucherBook
from blockcloud.service_access.payment.errors import BudgetSpent, PaymentRefused, TermsDiffer
from blockcloud.service_access.payment.messages import (
    UNIT_BYTES,
    Due,
    Message,
    Pay,
    Refused,
    Taken,
    Terms,
    attach,
    decode_message,
)
from blockcloud.service_access.stream import Session
from blockcloud.service_chain.agreements.vouchers import Channel, Payer, SignedVoucher

AHEAD_UNITS: Final = 10
AHEAD_SHARE: Final = 500  # of the deposit may be paid ahead, if that is more: a provider keeps what is ahead at the end
SOON_SECONDS: Final = 0.1  # asked again within this time: pay further ahead

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Opened:
    """An agreement that this side has opened with one instance of a provider."""

    channel: Channel
    height: int
    nonce: bytes
    key: SigningKey  # of the vouchers


class Buyer(Protocol):
    """Opens agreements on the ledger."""

    async def open(self, name: str, instance: bytes, terms: Terms, limit: int) -> Opened:
        """An agreement with the provider behind `instance`, at `terms` if the ledger has them too, with a deposit of at
        most `limit` micro-BLOC. Raises TermsDiffer, BudgetSpent, and what the ledger rejects with."""


class Purse:
    """What is paid to one instance. `spent` micro-BLOC were promised so far."""

    def __init__(
        self,
        name: str,
        opened: Opened,
        terms: Terms,
        book: VoucherBook,
        writer: ThreadPoolExecutor,
        left: Callable[[], int],
        ahead_units: int | None = None,
    ) -> None:
        """`left` of the budget is what all purses together may still promise."""
        self._left = left
        self.name, self.opened, self.terms = name, opened, terms
        share = opened.channel.deposited // AHEAD_SHARE // terms.unit_price
        self._ahead_most = max(AHEAD_UNITS, share) if ahead_units is None else ahead_units
        self.sessions: set[Session] = set()
        self._payer = Payer(opened.channel, opened.key, book.given(opened.channel.agreement))
        self._book, self._writer = book, writer
        self._unit_bytes = UNIT_BYTES[terms.unit]
        self._ended_bytes = 0  # of sessions that are over
        self._ahead_units = 1
        self._paid_at = 0.0
        self._newest: SignedVoucher | None = None
        self._lock = asyncio.Lock()

    @property
    def spent(self) -> int:
        """Micro-BLOC promised in all."""
        return self._payer.paid

    @property
    def vouchers(self) -> int:
        """How many were given."""
        return self._payer.last.sequence if self._payer.last is not None else 0

    @property
    def used_units(self) -> int:
        """Units that this side has had, by its own count, rounded up."""
        running = sum(each.statistics.bytes_read + each.statistics.bytes_written for each in self.sessions)
        return -(-(self._ended_bytes + running) // self._unit_bytes)

    def ended(self, session: Session) -> None:
        """A session is over."""
        if session in self.sessions:
            self._ended_bytes += session.statistics.bytes_read + session.statistics.bytes_written
            self.sessions.discard(session)

    async def voucher(self, ahead: bool = True) -> SignedVoucher | None:
        """A voucher for what was used, and some units ahead; the last one again if that pays for it already.

        Raises BudgetSpent, StorageFault.
        """
        async with self._lock:
            loop = asyncio.get_running_loop()
            soon = loop.time() - self._paid_at < SOON_SECONDS
            price = self.terms.unit_price
            self._ahead_units = min(self._ahead_units * 2, self._ahead_most) if soon else 1
            used = self.used_units
            wanted = used * price
            most = min(self.opened.channel.deposited, self.spent + self._left())
            if wanted > most:
                raise BudgetSpent(spent=self.spent, budget=most)
            if ahead:
                wanted = min(wanted + self._ahead_units * price, most)
            if wanted <= self.spent:
                if ahead and self._newest is not None and self.spent + price > most:
                    raise BudgetSpent(spent=self.spent, budget=most)
                return self._newest
            last = self._payer.last
            signed = self._payer.pay(wanted - self.spent, max(0, used - (last.units if last is not None else 0)))
            await loop.run_in_executor(self._writer, self._book.give, self.opened.channel.agreement, signed.voucher)
            self._newest, self._paid_at = signed, loop.time()
            return signed


class Wallet:
    """Pays for the sessions of this process, `budget` micro-BLOC in all. `failed` is told why a session is not paid.
    `ahead_units` are paid ahead at most; None: ten, or two thousandths of the deposit."""

    def __init__(
        self,
        buyer: Buyer,
        book: VoucherBook,
        budget: int,
        failed: Callable[[BlockCloudError], object] | None = None,
        *,
        ahead_units: int | None = None,
    ) -> None:
        self._ahead_units = ahead_units
        self.purses: dict[tuple[str, bytes], Purse] = {}
        self.budget = budget
        self._buyer, self._book, self._failed = buyer, book, failed
        self._writer = ThreadPoolExecutor(1, "voucher-book")
        self._tasks: set[asyncio.Task[None]] = set()
        self._opening: dict[tuple[str, bytes], asyncio.Lock] = {}

    async def close(self) -> None:
        """Stop paying; what was promised is in the book."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._writer.shutdown()
        self._book.close()

    @property
    def spent(self) -> int:
        """Micro-BLOC promised in all."""
        return sum(purse.spent for purse in self.purses.values())

    @property
    def left(self) -> int:
        """Micro-BLOC that may still be promised. Deposits may be more: what is not promised of them comes back."""
        return self.budget - self.spent

    def pays_for(self, session: Session) -> None:
        """From now on the wallet pays for `session`, if its provider asks for money."""
        waiting: list[Message] = []  # at most one: what the provider says next makes up for what it said before

        def received(data: bytes) -> None:
            try:
                message = decode_message(data)
            except PeerFault as error:
                session.abort(error.code, "a message about payment does not decode")
                return
            if not waiting or not isinstance(waiting[0], Refused):
                waiting[:] = [message]
            said.set()

        async def converse() -> None:
            while True:
                await said.wait()
                said.clear()
                while waiting:
                    await self._obey(session, waiting.pop())

        said = asyncio.Event()
        session.set_payments(received)
        conversing = self._start(converse())
        self._start(self._follow(session, conversing))

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _follow(self, session: Session, conversing: asyncio.Task[None]) -> None:
        await session.ended()
        conversing.cancel()
        purse = self.purses.get((session.name, session.peer_key))
        if purse is not None:
            purse.ended(session)

    async def _obey(self, session: Session, message: Message) -> None:
        try:
            match message:
                case Terms():
                    await self._begin(session, message)
                case Due():
                    purse = self.purses.get((session.name, session.peer_key))
                    if purse is not None:
                        await self._pay(session, purse, urgent=False)
                case Taken():
                    return
                case Refused(code=code, reason=reason):
                    raise PaymentRefused(f"the provider does not take it: {reason}", refusal=code)
                case _:
                    raise PaymentRefused("the provider talks like a payer")
        except SessionEnded:
            return
        except BlockCloudError as error:
            log.info("payment_failed", name=session.name, code=error.code)
            if self._failed is not None:
                self._failed(error)
            session.abort(error.code, str(error)[:120])

    async def _begin(self, session: Session, terms: Terms) -> None:
        place = session.name, session.peer_key
        async with self._opening.setdefault(place, asyncio.Lock()):
            purse = self.purses.get(place)
            if purse is None:
                if terms.unit not in UNIT_BYTES or terms.unit_price < 1:
                    raise TermsDiffer(unit=terms.unit)
                opened = await self._buyer.open(session.name, session.peer_key, terms, self.left)
                purse = self.purses[place] = Purse(
                    session.name, opened, terms, self._book, self._writer, lambda: self.left, self._ahead_units
                )
            elif (terms.unit, terms.unit_price) != (purse.terms.unit, purse.terms.unit_price):
                raise TermsDiffer(unit=terms.unit, unit_price=terms.unit_price)
        purse.sessions.add(session)
        opened = purse.opened
        message = attach(session.core.session_id, opened.channel.agreement, opened.height, opened.nonce, opened.key)
        self._say(session, message)
        await self._pay(session, purse)

    async def _pay(self, session: Session, purse: Purse, *, urgent: bool = True) -> None:
        signed = await purse.voucher()
        if signed is not None:
            self._say(session, Pay(signed), urgent=urgent)

    def _say(self, session: Session, message: Message, *, urgent: bool = True) -> None:
        session.send_payment(codec.encode(message), urgent=urgent)
