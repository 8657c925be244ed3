"""A provider that wants money and a consumer that has a budget, on loopback. The ledger is a dictionary of agreements
as the state has them; vouchers, books, sessions and sockets are real."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, field
from pathlib import Path

from msgspec.structs import replace

from blockcloud.primitives.errors import BlockCloudError
from blockcloud.primitives.keys import SigningKey
from blockcloud.service_access.connector import Connector
from blockcloud.service_access.endpoint import ServiceEndpoint
from blockcloud.service_access.forward import Forwarder
from blockcloud.service_access.payment.book import VoucherBook
from blockcloud.service_access.payment.errors import BudgetSpent, TermsDiffer, WrongAgreement
from blockcloud.service_access.payment.messages import NONCE_BYTES, Terms, salt_for
from blockcloud.service_access.payment.purse import Opened, Wallet
from blockcloud.service_access.payment.till import Till
from blockcloud.service_access.publish import publish
from blockcloud.service_access.session import SessionParameters
from blockcloud.service_chain.agreements.keys import agreement_id
from blockcloud.service_chain.agreements.records import Agreement
from blockcloud.service_chain.agreements.vouchers import Channel
from tests.service_access.access_world import NAME, World

CHAIN = bytes([9]) * 32
PRICE = 100
TERMS = Terms("kib", PRICE, 10)
UNIT = 1024
BUDGET = 2_000_000
HEIGHT = 7
PROVIDER = SigningKey(bytes([21]) * 32)


@dataclass
class Ledger:
    """What the ledger has of agreements: the client opens, the provider looks up."""

    client: SigningKey = field(default_factory=SigningKey.generate)
    voucher_key: SigningKey = field(default_factory=SigningKey.generate)
    agreements: dict[bytes, Agreement] = field(default_factory=dict)

    async def find(self, agreement: bytes, height: int) -> Agreement:
        record = self.agreements.get(agreement)
        if record is None:
            raise WrongAgreement(agreement=agreement.hex()[:16])
        return record

    async def open(self, name: str, instance: bytes, terms: Terms, limit: int) -> Opened:
        if terms.unit_price > PRICE:
            raise TermsDiffer(unit_price=terms.unit_price)
        if limit < terms.unit_price:
            raise BudgetSpent(budget=limit)
        nonce = os.urandom(NONCE_BYTES)
        identity = agreement_id(self.client.public, salt_for(instance, nonce), HEIGHT)
        key = self.voucher_key
        self.agreements[identity] = Agreement(
            name, self.client.public, PROVIDER.public, key.public, terms.unit, terms.unit_price, 0, 0, 9**12, 0, limit
        )
        return Opened(Channel(CHAIN, identity, key.public, limit, terms.unit_price), HEIGHT, nonce, key)

    def topped_up(self, agreement: bytes, amount: int) -> None:
        record = self.agreements[agreement]
        self.agreements[agreement] = replace(record, deposited=record.deposited + amount)


@dataclass
class Paid:
    """Both sides, and what went wrong."""

    till: Till
    wallet: Wallet
    endpoint: ServiceEndpoint
    port: int  # where the consumer's program connects
    ledger: Ledger
    errors: list[BlockCloudError]

    @property
    def promised(self) -> int:
        return sum(account.payee.promised for account in self.till.accounts.values())

    @property
    def served_units(self) -> int:
        return sum(account.payee.standing.served_units for account in self.till.accounts.values())


async def paid_service(
    world: World,
    folder: Path,
    server_port: int,
    *,
    terms: Terms = TERMS,
    budget: int = BUDGET,
    parameters: SessionParameters | None = None,
) -> Paid:
    """`server_port` published for money, and forwarded with a budget."""
    ledger, errors = Ledger(), list[BlockCloudError]()
    listener = await world.listener(parameters=parameters)
    till = Till(terms, listener.endpoint.key.public, CHAIN, VoucherBook(folder / "till.sqlite"), ledger.find)
    serving = asyncio.create_task(publish(listener, ("127.0.0.1", server_port), till))
    endpoint = await world.endpoint(parameters=parameters)
    wallet = Wallet(ledger, VoucherBook(folder / "wallet.sqlite"), budget, errors.append)
    forwarder = Forwarder(NAME, Connector(endpoint, world.registry), wallet=wallet)
    _, port = await forwarder.start("127.0.0.1", 0)

    async def stop() -> None:
        await forwarder.close()
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
        await wallet.close()
        till.close()

    world.stack.push_async_callback(stop)
    return Paid(till, wallet, endpoint, port, ledger, errors)
