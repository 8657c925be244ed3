"""Requests a second through a session that is paid for, against the same without payment: part of `bench vouchers`.

An echo server behind `publish`, one consumer with one request at a time, all in this process. The unit is a KiB; the
provider gives its usual credit of ten units and asks when one is owed, the consumer pays one unit ahead: so there is a
voucher for every two units, and the size of a request says how many of them it pays for, ten or one. How many vouchers
there were is counted. The third kind is what people get: as the first, but paid further ahead. Paid and unpaid rounds
take turns; the books wait for the disk, as they do in earnest.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from statistics import median
from typing import Any, Final

import uvloop

from blockcloud.primitives.keys import SigningKey
from blockcloud.routing.address_record import Endpoint
from blockcloud.service_access.connector import Connector
from blockcloud.service_access.endpoint import ServiceEndpoint
from blockcloud.service_access.listener import listen
from blockcloud.service_access.payment.book import VoucherBook
from blockcloud.service_access.payment.messages import NONCE_BYTES, UNIT_BYTES, Terms, salt_for
from blockcloud.service_access.payment.purse import Opened, Wallet
from blockcloud.service_access.payment.till import Till
from blockcloud.service_access.publish import publish
from blockcloud.service_access.resolution import Instance, Resolution
from blockcloud.service_access.stream import Session
from blockcloud.service_chain.agreements.keys import agreement_id
from blockcloud.service_chain.agreements.records import Agreement
from blockcloud.service_chain.agreements.vouchers import Channel

NAME: Final = "echo"
CHAIN: Final = bytes(32)
TERMS: Final = Terms("kib", 10, 10)
UNITS_A_VOUCHER: Final = 2
DEPOSIT: Final = 10**12
# Bytes of a request, which come back: both directions of so many requests are the units of a voucher.
PER_TEN: Final = UNITS_A_VOUCHER * UNIT_BYTES["kib"] // 20
PER_ONE: Final = UNITS_A_VOUCHER * UNIT_BYTES["kib"] // 2
ROUNDS: Final = 5
PAID_TEN_RATIO: Final = 0.7


class _Place:
    """Ledger and registry of one service, in memory: neither is in the path of a request."""

    def __init__(self, instance: SigningKey) -> None:
        self.instance = instance
        self.client, self.vouchers = SigningKey.generate(), SigningKey.generate()
        self.agreements: dict[bytes, Agreement] = {}
        self.found: tuple[Instance, ...] = ()

    async def resolve(self, name: str, *, max_age_s: int = 60) -> Resolution:
        return Resolution(name, bytes(32), bytes(32), (self.instance.public,), self.found, 1, 0)

    async def find(self, agreement: bytes, height: int) -> Agreement:
        return self.agreements[agreement]

    async def open(self, name: str, instance: bytes, terms: Terms, limit: int) -> Opened:
        nonce, client, key = os.urandom(NONCE_BYTES), self.client.public, self.vouchers.public
        identity = agreement_id(client, salt_for(instance, nonce), 1)
        price = terms.unit_price
        self.agreements[identity] = Agreement(
            name, client, self.instance.public, key, terms.unit, price, 0, 0, 2**62, 0, limit
        )
        return Opened(Channel(CHAIN, identity, key, limit, price), 1, nonce, self.vouchers)


def run(*, requests: int = 3_000) -> dict[str, Any]:
    """Requests a second and ratios, for a voucher per ten requests and per request; medians of ROUNDS rounds."""
    return uvloop.run(_run(requests))


async def _run(requests: int) -> dict[str, Any]:
    report: dict[str, Any] = {}
    for kind, size, ahead in (("per_ten", PER_TEN, 1), ("per_one", PER_ONE, 1), ("usual", PER_TEN, None)):
        with tempfile.TemporaryDirectory() as folder:
            async with _session(None, ahead) as (unpaid, _), _session(Path(folder), ahead) as (paid, wallet):
                rates: dict[str, list[float]] = {"unpaid": [], "paid": []}
                for _ in range(ROUNDS):
                    rates["unpaid"].append(await _rate(unpaid, size, requests))
                    rates["paid"].append(await _rate(paid, size, requests))
                vouchers = sum(purse.vouchers for purse in wallet.purses.values()) if wallet is not None else 0
        ratios = [paid / unpaid for paid, unpaid in zip(rates["paid"], rates["unpaid"], strict=True)]
        report[kind] = {
            "paid_a_second": round(median(rates["paid"])),
            "unpaid_a_second": round(median(rates["unpaid"])),
            "ratio": round(median(ratios), 2),
            "requests_a_voucher": round(requests * ROUNDS / max(1, vouchers), 1),
        }
    return report


async def _rate(session: Session, size: int, requests: int) -> float:
    message = bytes(size)
    begun = time.perf_counter()
    for _ in range(requests):
        await session.write(message)
        await session.read_exactly(size)
    return requests / (time.perf_counter() - begun)


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65_536):
            writer.write(data)
    except ConnectionError:
        return
    finally:
        writer.close()


@asynccontextmanager
async def _session(folder: Path | None, ahead: int | None) -> AsyncIterator[tuple[Session, Wallet | None]]:
    """A session with a published echo server; one that is paid for if there is a folder for the books."""
    async with AsyncExitStack() as stack:
        server = await asyncio.start_server(_echo, "127.0.0.1", 0)
        stack.callback(server.close)
        instance = SigningKey.generate()
        place = _Place(instance)
        listener = await stack.enter_async_context(listen(NAME, instance))
        endpoints = tuple(Endpoint(each.kind, each.host, each.port) for each in listener.endpoint.addresses)
        place.found = (Instance(instance.public, endpoints, 1, 2**40, 0, False),)
        till = None
        if folder is not None:
            till = Till(TERMS, instance.public, CHAIN, VoucherBook(folder / "till"), place.find)
            stack.callback(till.close)
        serving = asyncio.create_task(publish(listener, server.sockets[0].getsockname()[:2], till))
        stack.push_async_callback(_stopped, serving)
        endpoint = await stack.enter_async_context(ServiceEndpoint(SigningKey.generate()))
        session = await Connector(endpoint, place).connect(NAME)
        stack.push_async_callback(session.close)
        wallet: Wallet | None = None
        if folder is not None:
            wallet = Wallet(place, VoucherBook(folder / "wallet"), DEPOSIT, ahead_units=ahead)
            stack.push_async_callback(wallet.close)
            wallet.pays_for(session)
        yield session, wallet


async def _stopped(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
