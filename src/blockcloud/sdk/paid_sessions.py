"""Sessions that are paid for as they go on, with everything behind them set up: a till for who serves, a wallet for who
uses. The rules are in `service_access.payment`; here they get the ledger, the home's books and somebody's key.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final

import structlog

from blockcloud.primitives.amounts import format_amount
from blockcloud.primitives.errors import BlockCloudError
from blockcloud.primitives.keys import SigningKey
from blockcloud.sdk.agreements import (
    BOOK_SUFFIX,
    TILL_PREFIX,
    WALLET_PREFIX,
    agreement,
    claim_voucher,
    now_ms,
    offering,
    open_agreement,
    payments_folder,
    voucher_key,
)
from blockcloud.sdk.client import AsyncClient
from blockcloud.sdk.home import Home, OwnerKey, Place
from blockcloud.service_access.payment.book import VoucherBook
from blockcloud.service_access.payment.errors import BudgetSpent, TermsDiffer, WrongAgreement
from blockcloud.service_access.payment.http_door import REQUEST_UNIT, Asked, HttpPayment, encode_payment
from blockcloud.service_access.payment.messages import NONCE_BYTES, UNIT_BYTES, Terms, salt_for
from blockcloud.service_access.payment.purse import Opened, Purse, Wallet
from blockcloud.service_access.payment.till import FindAgreement, Till
from blockcloud.service_chain.agreements.operations import ClaimVoucher, CloseAgreement
from blockcloud.service_chain.agreements.records import Agreement
from blockcloud.service_chain.agreements.rejections import AgreementClosed, AgreementDue, NothingToClaim, StaleClaim
from blockcloud.service_chain.agreements.rules import AgreementStatus, status_of
from blockcloud.service_chain.agreements.vouchers import Channel, Payer, SignedVoucher

CREDIT_UNITS: Final = 10
CLAIM_SECONDS: Final = 60.0  # between two claims of a till that runs
# A client that closes leaves a provider its declared sleep and finality for a claim: that must not be missed.
WATCH_SECONDS: Final = 1.0
WALLET_KEY: Final = "wallet.pem"  # not the one that signs by hand: two books must not sign for one channel


@dataclass
class Budget:
    """What a program wants to pay at most, in BLOC, and what it has paid (`blockcloud.connect(budget=...)`)."""

    limit: str
    wallet: Wallet | None = None

    @property
    def spent(self) -> str:
        """BLOC promised so far."""
        return format_amount(self.wallet.spent if self.wallet is not None else 0)


LoadKey = Callable[[], SigningKey]

log = structlog.get_logger(__name__)


async def terms_of(client: AsyncClient, name: str, by_request: bool = False) -> Terms:
    """What a provider asks in its sessions, or for HTTP requests: what it offers on the ledger. Raises TermsDiffer if
    they cannot be counted in that unit, WrongAgreement if nothing is offered."""
    offered = await offering(client, name)
    offer = offered.record.offer if offered.record is not None else None
    if offer is None:
        raise WrongAgreement("nothing is offered under the name; see `blockcloud offer post`", name=name)
    if (offer.unit == REQUEST_UNIT) != by_request or (not by_request and offer.unit not in UNIT_BYTES):
        raise TermsDiffer("sessions are counted in kib, mib or gib; HTTP, with --http, by request", unit=offer.unit)
    return Terms(offer.unit, offer.unit_price, CREDIT_UNITS)


def finder(client: AsyncClient, name: str) -> FindAgreement:
    """How a till for `name` looks agreements up."""

    async def find(identity: bytes, height: int) -> Agreement:
        record = await agreement(client, identity, at_least_height=height)
        owner = await client.name(name)
        status = status_of(record, now_ms())
        if record.name != name or owner is None or record.provider != owner.owner:
            raise WrongAgreement("the agreement is with somebody else", agreement=identity.hex()[:16])
        if status is not AgreementStatus.OPEN:
            raise WrongAgreement("the agreement does not last", agreement=identity.hex()[:16], status=status.value)
        return record

    return find


async def claim_all(client: AsyncClient, key: SigningKey, till: Till) -> int:
    """Post the best voucher of every agreement of `till` that promises more than was claimed; micro-BLOC claimed.

    Raises as `submit_all`, but for vouchers that the ledger knows or has no more use for.
    """
    claimed = 0
    for identity, signed in till.unclaimed():
        over = await claim_voucher(client, key, signed)
        claimed += till.claimed(identity, signed.voucher.amount, over=over)
    return claimed


@asynccontextmanager
async def open_till(
    client: AsyncClient, home: Home, name: str, instance: bytes, load_key: LoadKey, *, by_request: bool = False
) -> AsyncIterator[Till]:
    """A till for the sessions of `name` that this home's `instance` serves, or its requests. It claims what was
    promised every minute and at the end, with a key that has something for the fees.

    Raises WrongAgreement, TermsDiffer, StorageFault (another process has the book), and why there is no key.
    """
    key = load_key()
    terms = await terms_of(client, name, by_request)
    book = VoucherBook(payments_folder(home) / f"{TILL_PREFIX}{name}{BOOK_SUFFIX}")
    till = Till(terms, instance, client.genesis.chain_id(), book, finder(client, name))
    keeping = [
        asyncio.create_task(_claim_now_and_then(client, key, till)),
        asyncio.create_task(_watch(client, key, till)),
    ]
    try:
        yield till
    finally:
        for task in keeping:
            task.cancel()
        await asyncio.gather(*keeping, return_exceptions=True)
        try:
            await claim_all(client, key, till)
        except BlockCloudError as error:  # the book has it: `agreement claim` does it later
            log.warning("vouchers_not_claimed", name=name, code=error.code, reason=str(error))
        finally:
            till.close()


async def _claim_now_and_then(client: AsyncClient, key: SigningKey, till: Till) -> None:
    while True:
        await asyncio.sleep(CLAIM_SECONDS)
        try:
            await claim_all(client, key, till)
        except BlockCloudError as error:
            log.warning("vouchers_not_claimed", code=error.code, reason=str(error))


async def _watch(client: AsyncClient, key: SigningKey, till: Till) -> None:
    """See agreements that end, as soon as a node does: claim what they promise, and serve nobody for them any more."""
    while True:
        await asyncio.sleep(WATCH_SECONDS)
        for identity in tuple(till.accounts):
            try:
                view = await client.transport.json(f"/v1/agreements/{identity.hex()}")
                if view.get("status") == AgreementStatus.OPEN.value:
                    continue
                till.end(identity)
                await claim_all(client, key, till)
            except BlockCloudError as error:  # tried again a second later, and by the next claim
                log.warning("agreement_not_watched", agreement=identity.hex()[:16], code=error.code)


@asynccontextmanager
async def open_wallet(
    client: AsyncClient,
    home: Home,
    name: str,
    budget: int,
    load_key: LoadKey,
    failed: Callable[[BlockCloudError], object] | None = None,
) -> AsyncIterator[Wallet]:
    """A wallet that pays up to `budget` micro-BLOC for sessions with `name`, out of agreements that it opens when it is
    asked for money, and closes at the end. `failed` is told why a session is not paid.

    Raises StorageFault if another process of this home pays for the name.
    """
    buyer = LedgerBuyer(client, load_key, voucher_key(home, WALLET_KEY))
    book = VoucherBook(payments_folder(home) / f"{WALLET_PREFIX}{name}{BOOK_SUFFIX}")
    wallet = Wallet(buyer, book, budget, failed)
    try:
        yield wallet
    finally:
        await buyer.close_all(wallet.purses.values())
        await wallet.close()


class LedgerBuyer:
    """Opens agreements for `purse.Wallet`, signed by the key that `load_key` gives, and ends them."""

    def __init__(self, client: AsyncClient, load_key: Callable[[], SigningKey], vouchers: SigningKey) -> None:
        self._client, self._load_key, self._vouchers = client, load_key, vouchers

    async def open(self, name: str, instance: bytes, terms: Terms, limit: int) -> Opened:
        """See `purse.Buyer`."""
        offered = await offering(self._client, name)
        offer = offered.record.offer if offered.record is not None else None
        if offer is None or (offer.unit, offer.unit_price) != (terms.unit, terms.unit_price):
            raise TermsDiffer(name=name, unit=terms.unit, unit_price=terms.unit_price)
        least = max(self._client.genesis.agreements.deposit_min, terms.unit_price)
        if limit < least:
            raise BudgetSpent("the budget is less than the least that can be put in", budget=limit, least=least)
        nonce = os.urandom(NONCE_BYTES)
        identity, height, record = await open_agreement(
            self._client,
            self._load_key(),
            offered,
            deposit=limit,
            salt=salt_for(instance, nonce),
            voucher_key=self._vouchers.public,
        )
        channel = Channel(
            self._client.genesis.chain_id(), identity, record.voucher_key, record.deposited, record.unit_price
        )
        return Opened(channel, height, nonce, self._vouchers)

    async def close_all(self, purses: Iterable[Purse | RequestPurse]) -> None:
        """Close each; one that cannot be closed now ends with its window."""
        for purse in purses:
            try:
                await self.close(purse)
            except BlockCloudError as error:
                agreement = purse.opened.channel.agreement.hex()[:16]
                log.warning("agreement_not_closed", agreement=agreement, code=error.code, reason=str(error))

    async def close(self, purse: Purse | RequestPurse) -> None:
        """Pay the provider on the ledger what was used, and begin to close. What is left comes back once the provider
        has had its time for claims (`settle_due`). Raises as `submit_all`."""
        identity = purse.opened.channel.agreement
        last = await purse.voucher(ahead=False)
        key = self._load_key()
        try:
            if last is not None:
                with suppress(NothingToClaim, StaleClaim):
                    await self._client.transact(key, ClaimVoucher(last), CloseAgreement(identity))
                    return
            await self._client.transact(key, CloseAgreement(identity))
        except (AgreementClosed, AgreementDue):
            return


class RequestPurse:
    """Pays for HTTP requests of one instance: a voucher for each, in the book before it leaves."""

    def __init__(self, opened: Opened, book: VoucherBook) -> None:
        self.opened = opened
        self._payer = Payer(opened.channel, opened.key, book.given(opened.channel.agreement))
        self._book = book
        self._last: SignedVoucher | None = None

    @property
    def spent(self) -> int:
        """Micro-BLOC promised in all."""
        return self._payer.paid

    async def voucher(self, ahead: bool = True) -> SignedVoucher | None:
        """The last voucher: what was promised was used."""
        return self._last

    def header(self) -> str:
        """PAYMENT-SIGNATURE for one request more. Raises VoucherAboveDeposit, StorageFault."""
        channel = self.opened.channel
        self._last = signed = self._payer.pay(channel.unit_price, 1)
        self._book.give(channel.agreement, signed.voucher)
        return encode_payment(HttpPayment(channel.agreement, self.opened.height, self.opened.nonce, signed))


@asynccontextmanager
async def open_purses(
    client: AsyncClient,
    home: Place,
    budget: int,
    key: OwnerKey,
    purses: dict[tuple[str, bytes], RequestPurse],
) -> AsyncIterator[Callable[[str, Asked], Awaitable[RequestPurse]]]:
    """How to find or open the purse for what a 402 asks, within `budget` micro-BLOC; all are closed at the end."""
    folder = home if isinstance(home, Home) else Home.find(home)
    buyer = LedgerBuyer(client, lambda: folder.own_key(key), voucher_key(folder, WALLET_KEY))
    book = VoucherBook(payments_folder(folder) / f"{WALLET_PREFIX}http{BOOK_SUFFIX}")
    opening = asyncio.Lock()

    async def purse_for(name: str, asked: Asked) -> RequestPurse:
        async with opening:
            found = purses.get((name, asked.instance))
            if asked.name != name:
                raise TermsDiffer("the provider asks for payment under another name", name=asked.name[:100])
            left = budget - sum(each.spent for each in purses.values())
            if asked.terms.unit_price > left:
                raise BudgetSpent(spent=budget - left, budget=budget)
            if found is None:
                opened = await buyer.open(name, asked.instance, asked.terms, left)
                found = purses[name, asked.instance] = RequestPurse(opened, book)
            if found.opened.channel.unit_price != asked.terms.unit_price:
                raise TermsDiffer(name=name, unit_price=asked.terms.unit_price)
            return found

    try:
        yield purse_for
    finally:
        await buyer.close_all(purses.values())
        book.close()
