"""Agreements for programs: what a provider offers; opening, paying and ending an agreement. Sessions that pay by
themselves are in `paid_sessions`.

Each function takes a client (`AsyncClient`). Offers and agreements are proven, so no node can make anybody pay more, or
serve somebody who has put nothing in.
"""

from __future__ import annotations

import time
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from blockcloud.primitives.addresses import format_address
from blockcloud.primitives.keys import SigningKey
from blockcloud.primitives.names import parse_name
from blockcloud.sdk.client import AsyncClient
from blockcloud.sdk.home import Home
from blockcloud.service_access.payment.book import VoucherBook
from blockcloud.service_access.payment.errors import WrongAgreement
from blockcloud.service_access.resolution import UnknownName
from blockcloud.service_chain.agreements.keys import agreement_id, agreement_key, provider_key
from blockcloud.service_chain.agreements.operations import (
    ClaimVoucher,
    OpenAgreement,
    PostOffer,
    SettleAgreement,
)
from blockcloud.service_chain.agreements.records import Agreement, ProviderRecord
from blockcloud.service_chain.agreements.rejections import (
    AgreementClosed,
    AgreementDue,
    AgreementNotDue,
    NothingToClaim,
    StaleClaim,
)
from blockcloud.service_chain.agreements.rules import AgreementStatus, status_of
from blockcloud.service_chain.agreements.vouchers import Channel, Payer, SignedVoucher, Voucher
from blockcloud.service_chain.operations import Transfer
from blockcloud.service_chain.proof_of_service.keys import service_key, standing_key
from blockcloud.service_chain.proof_of_service.records import ServiceRecord, StandingRecord
from blockcloud.service_chain.receipts import Receipt
from blockcloud.service_chain.records import decode_record

PAYMENTS_FOLDER: Final = "payments"
VOUCHER_KEY: Final = "voucher.pem"
TILL_PREFIX: Final = "till-"
WALLET_PREFIX: Final = "wallet-"
BOOK_SUFFIX: Final = ".sqlite"
LONGEST_MS: Final = 3_600_000  # of an agreement that a session opens by itself
AGREEMENT_AGE_SECONDS: Final = 5  # of the proof that an agreement lasts
FIND_SECONDS: Final = 15.0


def now_ms() -> int:
    """Unix time."""
    return time.time_ns() // 1_000_000


def payments_folder(home: Home) -> Path:
    """Where the books of this home are; nobody else may look into it."""
    folder = home.path / PAYMENTS_FOLDER
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def voucher_key(home: Home, file: str = VOUCHER_KEY) -> SigningKey:
    """The key that signs vouchers of this home, made the first time."""
    path = payments_folder(home) / file
    if not path.exists():
        SigningKey.generate().save(path)
    return SigningKey.load(path)


@dataclass(frozen=True)
class Offering:
    """What stands behind a name: its owner, and what it has put up and offers (None: nothing)."""

    name: str
    provider: bytes
    record: ProviderRecord | None


async def offering(client: AsyncClient, name: str, *, at_least_height: int = 0) -> Offering:
    """What the owner of `name` offers under it, proven. Raises UnknownName."""
    name = parse_name(name)
    record = await client.name(name)
    if record is None:
        raise UnknownName(name=name)
    proof = await client.proven(provider_key(record.owner, name), at_least_height=at_least_height)
    return Offering(name, record.owner, decode_record(proof.value, ProviderRecord))


async def quality(client: AsyncClient, offered: Offering) -> tuple[ServiceRecord | None, StandingRecord | None]:
    """What proof of service has found of what is offered, and of who offers it; both proven."""
    service = await client.proven(service_key(offered.name))
    standing = await client.proven(standing_key(offered.provider))
    return decode_record(service.value, ServiceRecord), decode_record(standing.value, StandingRecord)


async def agreement(client: AsyncClient, identity: bytes, *, at_least_height: int = 0) -> Agreement:
    """The agreement, proven. Raises WrongAgreement if there is none."""
    proof = await client.proven(
        agreement_key(identity),
        max_age_s=AGREEMENT_AGE_SECONDS,
        at_least_height=at_least_height,
        timeout_s=FIND_SECONDS,
    )
    record = decode_record(proof.value, Agreement)
    if record is None:
        raise WrongAgreement("the ledger has no such agreement", agreement=identity.hex()[:16])
    return record


async def post_offer(
    client: AsyncClient,
    key: SigningKey,
    name: str,
    *,
    unit: str,
    unit_price: int,
    bond: int,
    longest_ms: int = LONGEST_MS,
    quality_ppm: int = 990_000,
    sleep_ms: int = 10_000,
) -> Receipt:
    """Offer what `name` delivers for `unit_price` micro-BLOC a `unit`, with `bond` micro-BLOC more behind it. Raises as
    `submit_all`."""
    operation = PostOffer(parse_name(name), unit, unit_price, longest_ms, quality_ppm, sleep_ms, bond)
    return await client.transact(key, operation)


async def open_agreement(
    client: AsyncClient, key: SigningKey, offered: Offering, *, deposit: int, salt: bytes, voucher_key: bytes
) -> tuple[bytes, int, Agreement]:
    """Agree to what is offered and put `deposit` micro-BLOC into the channel; (id, height, record).

    Raises WrongAgreement if nothing is offered, and as `submit_all`.
    """
    offer = offered.record.offer if offered.record is not None else None
    if offer is None:
        raise WrongAgreement("nothing is offered under the name", name=offered.name)
    duration_ms = min(offer.longest_ms, LONGEST_MS)
    operation = OpenAgreement(
        offered.name,
        offered.provider,
        salt,
        voucher_key,
        deposit,
        offer.unit_price,
        offer.quality_ppm,
        duration_ms,
    )
    receipt = await client.transact(key, operation)
    identity = agreement_id(client.acts_for(key), salt, receipt.height)
    return identity, receipt.height, await agreement(client, identity, at_least_height=receipt.height)


async def settle_due(client: AsyncClient, key: SigningKey, identities: list[bytes]) -> int:
    """Bring home what is left in those of `identities` whose time for claims is over; how many."""
    settled = 0
    for identity in identities:
        record = await agreement(client, identity)
        if status_of(record, now_ms()) is AgreementStatus.DUE:
            with suppress(AgreementClosed, AgreementNotDue):  # the ledger's clock may be a little behind
                await client.transact(key, SettleAgreement(identity))
                settled += 1
    return settled


async def claim_books(client: AsyncClient, key: SigningKey, home: Home) -> int:
    """As `claim_all`, for the books of tills that do not run now; micro-BLOC that the claimed vouchers promise in all.

    Raises StorageFault for a book that a running `publish` has.
    """
    claimed = 0
    for path in sorted(payments_folder(home).glob(f"{TILL_PREFIX}*{BOOK_SUFFIX}")):
        with closing(VoucherBook(path)) as book:
            for identity, standing in book.all_taken().items():
                if standing.best is None:
                    continue
                claimed += standing.best.voucher.amount
                if await claim_voucher(client, key, standing.best):
                    book.forget(identity)
    return claimed


async def claim_voucher(client: AsyncClient, key: SigningKey, signed: SignedVoucher) -> bool:
    """Post a voucher; whether its agreement is over. One that the ledger has already is no error."""
    try:
        await client.transact(key, ClaimVoucher(signed))
    except (NothingToClaim, StaleClaim):
        return False
    except (AgreementClosed, AgreementDue):
        return True
    return False


async def pay(
    client: AsyncClient, key: SigningKey, home: Home, payee: bytes, amount: int, own: list[dict[str, Any]]
) -> bytes | None:
    """Pay `amount` micro-BLOC to `payee`: out of an open agreement with it (of `own`, as `AsyncReader.agreements` has
    them) whose vouchers this home signs, and then its id, else by a transfer. Raises as `submit_all`.

    A voucher costs the payee nothing to take in a session; here the ledger hears of it at once, because nobody listens.
    """
    vouchers = voucher_key(home)
    for view in own:
        identity = bytes.fromhex(view["agreement"])
        if view["status"] != AgreementStatus.OPEN.value or view["provider"] != format_address(payee):
            continue
        record = await agreement(client, identity)
        if record.voucher_key != vouchers.public or record.balance < amount or record.provider != payee:
            continue
        channel = Channel(client.genesis.chain_id(), identity, record.voucher_key, record.deposited, record.unit_price)
        last = Voucher(channel.chain_id, identity, record.epoch, record.sequence, record.voucher_amount, 0)
        await client.transact(key, ClaimVoucher(Payer(channel, vouchers, last).pay(amount)))
        return identity
    await client.transact(key, Transfer(payee, amount))
    return None
