"""The provider's side of paid sessions: who has attached which agreement, what passes, what is owed. DESIGN 6.3.

One account for each agreement, whatever number of sessions it pays for. Bytes of the stream are counted as they pass,
both ways, and rounded up to units over the whole agreement. Nothing passes before the first voucher; then as much as
was paid for and the credit covers. A voucher counts once the book has it on the medium, which a thread of its own waits
for: a slow disk holds up who pays, not who is served.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import structlog

from blockcloud.primitives import codec
from blockcloud.primitives.errors import BlockCloudError, Busy, PeerFault
from blockcloud.service_access.errors import SessionEnded
from blockcloud.service_access.payment.book import VoucherBook
from blockcloud.service_access.payment.errors import NotPaid, UnboundAgreement, WrongAgreement
from blockcloud.service_access.payment.messages import (
    UNIT_BYTES,
    Attach,
    Due,
    Message,
    Pay,
    Refused,
    Taken,
    Terms,
    decode_message,
    salt_for,
    verify_attach,
)
from blockcloud.service_access.stream import Session
from blockcloud.service_chain.agreements.faults import StaleVoucher
from blockcloud.service_chain.agreements.keys import agreement_id
from blockcloud.service_chain.agreements.records import Agreement
from blockcloud.service_chain.agreements.vouchers import Channel, Payee, SignedVoucher

ACCOUNTS: Final = 4_096  # agreements at a time
PAY_SECONDS: Final = 30.0  # how long a session may wait for money
ASK_SECONDS: Final = 0.25  # how often the payer is asked while it does

# What the ledger says about an agreement at this height or later, proven, and only if it lasts. Raises BlockCloudError.
FindAgreement = Callable[[bytes, int], Awaitable[Agreement]]

log = structlog.get_logger(__name__)


class Account:
    """What one agreement has paid for. `seen_bytes` have passed in all its sessions."""

    def __init__(self, record: Agreement, payee: Payee, unit_bytes: int) -> None:
        self.record, self.payee = record, payee
        self._unit_bytes = unit_bytes
        self.seen_bytes = payee.standing.served_units * unit_bytes
        self.meters: set[Meter] = set()
        self.lock = asyncio.Lock()  # one voucher at a time

    @property
    def affordable_bytes(self) -> int:
        """How many more bytes may pass now."""
        payee = self.payee
        units = (payee.promised + payee.credit) // payee.channel.unit_price
        return max(0, units * self._unit_bytes - self.seen_bytes)

    @property
    def is_low(self) -> bool:
        """It is time to ask for money: a unit is owed. The rest of the credit lasts while the voucher travels."""
        return self.payee.standing.served_units * self.payee.channel.unit_price > self.payee.promised

    def count(self, passed: int) -> None:
        """So many bytes pass. Those that came from the peer unasked may be more than affordable: they are owed."""
        self.seen_bytes += passed
        served = self.payee.standing.served_units
        units = -(-self.seen_bytes // self._unit_bytes)
        payee = self.payee
        covered = (payee.promised + payee.credit) // payee.channel.unit_price
        further = min(units, covered) - served
        if further > 0:
            payee.take(payee.serve(further))


class Till:
    """Takes the vouchers of all sessions of one instance of one name."""

    def __init__(self, terms: Terms, instance: bytes, chain_id: bytes, book: VoucherBook, find: FindAgreement) -> None:
        self.terms = terms
        self.accounts: dict[bytes, Account] = {}
        self._claimed: dict[bytes, int] = {}  # by agreement
        self.chain_id = chain_id
        self._instance, self._book, self._find = instance, book, find
        self._unit_bytes = UNIT_BYTES.get(terms.unit, 1)  # what is no amount of bytes is counted one by one
        self._writer = ThreadPoolExecutor(1, "voucher-book")

    def close(self) -> None:
        """Wait until the book has everything, and close it."""
        self._writer.shutdown()
        self._book.close()

    def meter(self, session: Session) -> Meter:
        """What counts the bytes of `session`; the payer is told the terms."""
        return Meter(self, session)

    def unclaimed(self) -> list[tuple[bytes, SignedVoucher]]:
        """(agreement, best voucher) of those in the book that promise more than was claimed. Raises StorageFault."""
        best = [(agreement, standing.best) for agreement, standing in self._book.all_taken().items()]
        return [
            (agreement, signed)
            for agreement, signed in best
            if signed is not None and signed.voucher.amount > self._claimed.get(agreement, 0)
        ]

    def claimed(self, agreement: bytes, amount: int, *, over: bool) -> int:
        """The ledger has paid `amount` in all; how much more than this till knew. `over`: the agreement is."""
        before = self._claimed.get(agreement, 0)
        self._claimed[agreement] = max(before, amount)
        if over:
            self._book.forget(agreement)
            self.accounts.pop(agreement, None)
        return max(0, amount - before)

    def end(self, agreement: bytes) -> None:
        """The agreement ends on the ledger: nobody is served for it any more."""
        account = self.accounts.pop(agreement, None)
        for meter in tuple(account.meters) if account is not None else ():
            meter.end()

    async def attach(self, message: Attach, session_id: bytes) -> Account:
        """The account of the agreement that is to pay for a session. Raises BadSignature, and as `account`."""
        account = await self.account(message.agreement, message.height, message.nonce)
        verify_attach(message, session_id, account.record.voucher_key)
        return account

    async def account(self, agreement: bytes, height: int, nonce: bytes) -> Account:
        """The account of an agreement, which the ledger has at `height` and which is meant for this instance.

        Raises UnboundAgreement, WrongAgreement, Busy, and why the ledger does not say so.
        """
        known = self.accounts.get(agreement)
        record = known.record if known is not None else await self._find(agreement, height)
        if agreement_id(record.client, salt_for(self._instance, nonce), height) != agreement:
            raise UnboundAgreement(agreement=agreement.hex()[:16])
        if record.unit != self.terms.unit:
            # Its price stands for as long as it lasts, but not for another unit.
            raise WrongAgreement("the agreement is about another unit", unit=record.unit, asked=self.terms.unit)
        account = self.accounts.get(agreement)  # another session may have been quicker
        if account is None:
            if len(self.accounts) >= ACCOUNTS:
                self._forget_idle()
            account = self.accounts[agreement] = Account(record, self._payee(agreement, record), self._unit_bytes)
        return account

    def _payee(self, agreement: bytes, record: Agreement) -> Payee:
        channel = Channel(self.chain_id, agreement, record.voucher_key, record.deposited, record.unit_price)
        return Payee(channel, self.terms.credit_units, self._book.standing(agreement))

    def _forget_idle(self) -> None:
        idle = next((agreement for agreement, account in self.accounts.items() if not account.meters), None)
        if idle is None:
            raise Busy("as many agreements as there may be", retry_after_ms=1_000, limit=ACCOUNTS)
        del self.accounts[idle]  # the book has what it needs to go on

    async def take(self, account: Account, signed: SignedVoucher) -> None:
        """Make a voucher durable, then let it count. Raises why it is not taken."""
        async with account.lock:
            payee = account.payee
            if signed == payee.standing.best:
                return
            try:
                standing = payee.check(signed)
            except PeerFault:
                if signed.voucher.amount <= payee.channel.deposited:
                    raise
                record = await self._find(payee.channel.agreement, 0)  # it may have been topped up
                payee.topped_up(
                    Channel(
                        self.chain_id, payee.channel.agreement, record.voucher_key, record.deposited, record.unit_price
                    )
                )
                standing = payee.check(signed)
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self._writer, self._book.take, payee.channel.agreement, standing)
            served = payee.standing.served_units  # bytes have passed meanwhile
            payee.take(standing)
            if served > standing.served_units:
                payee.take(payee.serve(served - standing.served_units))
        for meter in account.meters:
            meter.paid()


class Meter:
    """Counts the bytes of one session and holds them back while they are not paid for."""

    def __init__(self, till: Till, session: Session) -> None:
        self._till, self._session = till, session
        self._account: Account | None = None
        self._paid = asyncio.Event()
        self._asked = False  # for money, since the last voucher
        self._work: asyncio.Queue[Attach | Pay] = asyncio.Queue(4)
        session.pause_reading()
        session.set_payments(self._received)
        self._say(till.terms)

    def affordable(self, count: int) -> int:
        """How many of `count` bytes may pass now."""
        return min(count, self._account.affordable_bytes) if self._account is not None else 0

    def count(self, passed: int) -> None:
        """So many bytes pass."""
        account = self._account
        assert account is not None, "nothing passes before somebody pays"
        account.count(passed)
        if account.is_low and not self._asked:
            self._asked = True
            self._say(Due(account.payee.standing.served_units), urgent=False)

    def brought(self, piece: bytes | memoryview) -> None:
        """The consumer has sent a piece: it passes, and if nothing more is affordable, the next waits."""
        self.count(len(piece))
        if not self.affordable(1):
            self._session.pause_reading()

    async def room(self) -> None:
        """Wait until something more may pass. Raises NotPaid: the session is reset with that reason."""
        deadline = asyncio.get_running_loop().time() + PAY_SECONDS
        while not self.affordable(1):
            self._paid.clear()
            account = self._account
            self._say(Due(account.payee.standing.served_units) if account is not None else self._till.terms)
            try:
                async with asyncio.timeout(ASK_SECONDS):
                    await self._paid.wait()
            except TimeoutError:
                if asyncio.get_running_loop().time() >= deadline:
                    raise NotPaid(seconds=round(PAY_SECONDS)) from None
            if self._session.error is not None:
                raise self._session.error

    def paid(self) -> None:
        """A voucher has been taken."""
        self._asked = False
        self._paid.set()
        self._session.resume_reading()

    def end(self) -> None:
        """What pays for the session has ended."""
        error = WrongAgreement("the agreement ends")
        self._session.abort(error.code, error.message)

    async def run(self) -> None:
        """Take what the payer says, one after the other, until cancelled."""
        try:
            while True:
                message = await self._work.get()
                try:
                    await self._obey(message)
                except SessionEnded:
                    return
                except BlockCloudError as error:
                    log.info("payment_refused", name=self._session.name, code=error.code)
                    self._say(Refused(error.code[:256], str(error)[:256]))
        finally:
            if self._account is not None:
                self._account.meters.discard(self)

    async def watch(self) -> None:
        """Reset the session when what it needs is not paid in time, until cancelled."""
        while True:
            try:
                await self.room()
            except NotPaid as error:
                self._session.abort(error.code, str(error))
                return
            except BlockCloudError:
                return
            self._paid.clear()
            await self._paid.wait()

    async def _obey(self, message: Attach | Pay) -> None:
        if isinstance(message, Attach):
            if self._account is None:
                self._account = await self._till.attach(message, self._session.core.session_id)
                self._account.meters.add(self)
                if self.affordable(1):
                    self.paid()
            return
        if self._account is None:
            raise UnboundAgreement(agreement=message.voucher.voucher.agreement.hex()[:16])
        try:
            await self._till.take(self._account, message.voucher)
        except StaleVoucher:
            best = self._account.payee.standing.best
            if best is None or best.voucher.amount < message.voucher.voucher.amount:
                raise
        payee = self._account.payee
        self._say(Taken(payee.promised, payee.standing.served_units), urgent=False)

    def _received(self, data: bytes) -> None:
        try:
            message = decode_message(data)
        except PeerFault as error:
            self._session.abort(error.code, "a message about payment does not decode")
            return
        if isinstance(message, Attach | Pay) and not self._work.full():
            self._work.put_nowait(message)  # more than a few at a time are not read: the newest will come again

    def _say(self, message: Message, *, urgent: bool = True) -> None:
        self._session.send_payment(codec.encode(message), urgent=urgent)
