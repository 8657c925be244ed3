"""Sessions that are paid for as they go on: what passes is what was paid and the credit, whatever either side does."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from blockcloud.primitives import codec
from blockcloud.service_access.connector import Connector
from blockcloud.service_access.errors import SessionEnded
from blockcloud.service_access.payment import till as till_module
from blockcloud.service_access.payment.book import VoucherBook
from blockcloud.service_access.payment.messages import Attach, Due, Pay, Refused, Taken, Terms, attach, decode_message
from blockcloud.service_access.payment.purse import AHEAD_SHARE, Wallet
from blockcloud.service_access.stream import Session
from blockcloud.service_chain.agreements.vouchers import Channel, Payer
from tests.service_access.access_world import NAME, World, bounded, random_bytes, until
from tests.service_access.payment.paid_world import (
    BUDGET,
    CHAIN,
    HEIGHT,
    PRICE,
    TERMS,
    UNIT,
    Ledger,
    Paid,
    paid_service,
)

FILE = random_bytes(3_000_000)
CREDIT = TERMS.credit_units


@pytest.fixture
async def server() -> AsyncIterator[int]:
    """Answers the first byte of each connection with FILE."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if await reader.read(1):
                writer.write(FILE)
                await writer.drain()
        except ConnectionError:
            return
        finally:
            writer.close()

    listening = await asyncio.start_server(answer, "127.0.0.1", 0)
    yield listening.sockets[0].getsockname()[1]
    listening.close()
    await listening.wait_closed()


async def download(port: int) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"x")
    try:
        return await bounded(reader.read(-1))
    except ConnectionError:
        return b""
    finally:
        writer.close()


def units(count: int) -> int:
    return -(-count // UNIT)


async def test_a_download_is_paid_as_it_comes(world: World, server: int, tmp_path: Path) -> None:
    paid = await paid_service(world, tmp_path, server)
    assert hashlib.sha256(await download(paid.port)).digest() == hashlib.sha256(FILE).digest()
    used = units(len(FILE) + 1)
    await until(lambda: paid.served_units == used)
    assert (used - CREDIT) * PRICE <= paid.promised <= used * PRICE + BUDGET // AHEAD_SHARE
    assert paid.wallet.spent >= paid.promised, "nothing is taken that was not given"
    assert not paid.errors


async def test_sessions_of_one_consumer_share_an_agreement(world: World, server: int, tmp_path: Path) -> None:
    paid = await paid_service(world, tmp_path, server)
    assert [len(content) for content in await asyncio.gather(*(download(paid.port) for _ in range(4)))] == [
        len(FILE)
    ] * 4
    assert len(paid.ledger.agreements) == 1
    assert paid.served_units == units(4 * (len(FILE) + 1))


async def test_money_goes_on_through_moves(world: World, server: int, tmp_path: Path) -> None:
    paid = await paid_service(world, tmp_path, server)
    await paid.endpoint.start("127.0.0.1", 0)
    running = asyncio.create_task(download(paid.port))
    for host in ("127.0.0.71", "127.0.0.72"):
        await until(lambda: (paid.endpoint.sessions and paid.served_units > 0) or running.done())
        await bounded(paid.endpoint.move(host))
    assert len(await running) == len(FILE)


async def test_a_budget_ends_the_session_and_nobody_owes(world: World, server: int, tmp_path: Path) -> None:
    budget = 500 * PRICE
    paid = await paid_service(world, tmp_path, server, budget=budget)
    content = await download(paid.port)
    assert len(content) <= (500 + CREDIT) * UNIT
    await until(lambda: [error.code for error in paid.errors] == ["budget_spent"])
    assert paid.wallet.spent <= budget
    assert paid.served_units - paid.promised // PRICE <= CREDIT


async def test_a_dearer_price_than_the_ledgers_is_not_paid(world: World, server: int, tmp_path: Path) -> None:
    paid = await paid_service(world, tmp_path, server, terms=Terms("kib", PRICE + 1, 10))
    assert await download(paid.port) == b""
    assert [error.code for error in paid.errors] == ["terms_differ"]
    assert (paid.served_units, paid.wallet.spent) == (0, 0)


async def test_who_does_not_pay_is_not_served(
    world: World, server: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(till_module, "PAY_SECONDS", 0.5)
    paid = await paid_service(world, tmp_path, server)
    session = await Connector(await world.endpoint(), world.registry).connect(NAME)
    await session.write(b"x")
    with pytest.raises(SessionEnded) as caught:
        await bounded(session.read())
    assert caught.value.values["reset_code"] == "not_paid"
    assert not paid.till.accounts


class HandMade:
    """A consumer that says what the test wants."""

    def __init__(self, paid: Paid, session: Session) -> None:
        self.paid, self.session = paid, session
        self.heard: asyncio.Queue[object] = asyncio.Queue()
        session.set_payments(lambda data: self.heard.put_nowait(decode_message(data)))

    async def opened(self, deposit: int = BUDGET) -> tuple[Attach, Payer]:
        """A good beginning; what to send."""
        opened = await self.paid.ledger.open(NAME, self.session.peer_key, TERMS, deposit)
        message = attach(
            self.session.core.session_id, opened.channel.agreement, opened.height, opened.nonce, opened.key
        )
        return message, Payer(opened.channel, opened.key)

    async def answer(self, *messages: Attach | Pay) -> object:
        """What comes back that is neither terms nor a demand."""
        for message in messages:
            self.session.send_payment(codec.encode(message))
        while isinstance(said := await bounded(self.heard.get()), Terms | Due):
            pass
        return said


@pytest.fixture
async def paid(world: World, server: int, tmp_path: Path) -> Paid:
    return await paid_service(world, tmp_path, server)


async def consumer(world: World, paid: Paid) -> HandMade:
    return HandMade(paid, await Connector(await world.endpoint(), world.registry).connect(NAME))


def refusal(said: object) -> str:
    assert isinstance(said, Refused), said
    return said.code


async def test_the_right_words_are_taken(world: World, paid: Paid) -> None:
    made = await consumer(world, paid)
    message, payer = await made.opened()
    signed = payer.pay(500)
    assert await made.answer(message, Pay(signed)) == Taken(500, 0)
    assert paid.till.unclaimed() == [(message.agreement, signed)], (
        "the book has it before the payer hears that it counts"
    )


async def test_an_agreement_is_for_its_session_and_its_instance(world: World, paid: Paid) -> None:
    made, other = await consumer(world, paid), await consumer(world, paid)
    message, payer = await made.opened()
    stolen = Attach(message.agreement, message.height, message.nonce, message.signature)
    assert refusal(await other.answer(stolen)) == "bad_signature"
    forged = Attach(message.agreement, message.height, bytes(16), message.signature)
    assert refusal(await made.answer(forged)) == "unbound_agreement"
    unknown = Attach(bytes(32), HEIGHT, message.nonce, message.signature)
    assert refusal(await made.answer(unknown)) == "wrong_agreement"
    assert refusal(await other.answer(Pay(payer.pay(500)))) == "unbound_agreement"
    assert await made.answer(message, Pay(payer.pay(500))) == Taken(1_000, 0)


async def test_an_agreement_about_another_unit_is_none(world: World, paid: Paid) -> None:
    made = await consumer(world, paid)
    message, _ = await made.opened()
    paid.ledger.agreements[message.agreement] = replace(paid.ledger.agreements[message.agreement], unit="gib")
    assert refusal(await made.answer(message)) == "wrong_agreement"
    assert not paid.till.accounts


async def test_nobody_is_served_for_an_agreement_that_ends(world: World, paid: Paid) -> None:
    made = await consumer(world, paid)
    message, payer = await made.opened()
    signed = payer.pay(5 * PRICE)
    assert await made.answer(message, Pay(signed)) == Taken(5 * PRICE, 0)
    paid.till.end(message.agreement)
    with pytest.raises(SessionEnded) as caught:
        await bounded(made.session.read())
    assert caught.value.values["reset_code"] == "wrong_agreement"
    assert paid.till.unclaimed() == [(message.agreement, signed)], "what was promised can still be claimed"


async def test_bad_vouchers_are_refused_and_change_nothing(world: World, paid: Paid) -> None:
    made = await consumer(world, paid)
    message, payer = await made.opened(deposit=10_000)
    first = payer.pay(1_000)
    assert await made.answer(message, Pay(first)) == Taken(1_000, 0)
    key, channel = paid.ledger.voucher_key, payer.channel
    rich = Channel(channel.chain_id, channel.agreement, channel.voucher_key, 10**9, PRICE)
    elsewhere = Channel(CHAIN, bytes(32), channel.voucher_key, 10**9, PRICE)
    foreign = Channel(bytes(32), channel.agreement, channel.voucher_key, 10**9, PRICE)
    above = Payer(rich, key, first.voucher).pay(9_001)
    assert refusal(await made.answer(Pay(above))) == "voucher_above_deposit"
    assert refusal(await made.answer(Pay(Payer(elsewhere, key).pay(5_000)))) == "voucher_of_another_agreement"
    assert refusal(await made.answer(Pay(Payer(foreign, key).pay(5_000)))) == "voucher_of_another_chain"
    twice = Payer(rich, key).pay(2_000)  # a second voucher with the number of the first
    assert refusal(await made.answer(Pay(twice))) == "stale_voucher"
    assert await made.answer(Pay(first)) == Taken(1_000, 0), "the same one again is no harm: it may have been lost"
    paid.ledger.topped_up(channel.agreement, 10**9)
    assert await made.answer(Pay(above)) == Taken(10_001, 0)


async def test_who_vanishes_owes_at_most_the_credit(world: World, paid: Paid) -> None:
    made = await consumer(world, paid)
    message, payer = await made.opened()
    assert await made.answer(message, Pay(payer.pay(5 * PRICE))) == Taken(5 * PRICE, 0)
    await made.session.write(b"x")
    received = 0
    while received < (5 + CREDIT) * UNIT - 1:
        received += len(await bounded(made.session.read()))
    assert received == (5 + CREDIT) * UNIT - 1, "what was paid and the credit, to the byte; the question counts too"
    assert paid.served_units == 5 + CREDIT
    made.session.abort("closed", "gone")
    await until(lambda: not paid.till.accounts[message.agreement].meters)
    assert paid.promised == 5 * PRICE


async def test_a_provider_that_asks_and_serves_nothing_gets_little(world: World, tmp_path: Path) -> None:
    ledger, listener = Ledger(), await world.listener()
    wallet = Wallet(ledger, VoucherBook(tmp_path / "wallet.sqlite"), BUDGET)
    world.stack.push_async_callback(wallet.close)
    consumer = await Connector(await world.endpoint(), world.registry).connect(NAME)
    wallet.pays_for(consumer)
    greedy = await bounded(listener.accept())
    vouchers: list[int] = []

    def received(data: bytes) -> None:
        message = decode_message(data)
        if isinstance(message, Pay):
            vouchers.append(message.voucher.voucher.amount)
            greedy.send_payment(codec.encode(Taken(message.voucher.voucher.amount, 0)))
            greedy.send_payment(codec.encode(Due(len(vouchers))))

    greedy.set_payments(received)
    greedy.send_payment(codec.encode(TERMS))
    await until(lambda: len(vouchers) >= 30)
    assert max(vouchers) == wallet.spent == max(CREDIT * PRICE, BUDGET // AHEAD_SHARE)


async def test_all_instances_share_one_budget(world: World, tmp_path: Path) -> None:
    ledger, budget = Ledger(), (CREDIT + 2) * PRICE
    wallet = Wallet(ledger, VoucherBook(tmp_path / "wallet.sqlite"), budget)
    world.stack.push_async_callback(wallet.close)
    providers: list[Session] = []
    for name in ("one.acme", "other.acme"):
        listener = await world.listener(name=name)
        consumer = await Connector(await world.endpoint(), world.registry).connect(name)
        wallet.pays_for(consumer)
        providers.append(await bounded(listener.accept()))
        providers[-1].send_payment(codec.encode(TERMS))
        await until(lambda: wallet.spent == len(providers) * PRICE)
    assert sum(purse.opened.channel.deposited for purse in wallet.purses.values()) > budget
    for provider in providers:

        def ask_again(data: bytes, provider: Session = provider) -> None:
            provider.send_payment(codec.encode(Due(1)))

        provider.set_payments(ask_again)
    await until(lambda: all(provider.error is not None for provider in providers))
    assert wallet.spent == budget


async def test_a_provider_that_starts_again_goes_on_from_its_book(world: World, server: int, tmp_path: Path) -> None:
    paid = await paid_service(world, tmp_path, server)
    made = await consumer(world, paid)
    message, payer = await made.opened()
    assert await made.answer(message, Pay(payer.pay(5 * PRICE))) == Taken(5 * PRICE, 0)
    paid.till.accounts.clear()  # all that it had in memory
    again = await consumer(world, paid)
    message = Attach(
        message.agreement,
        message.height,
        message.nonce,
        attach(
            again.session.core.session_id, message.agreement, message.height, message.nonce, paid.ledger.voucher_key
        ).signature,
    )
    assert await again.answer(message, Pay(payer.pay(PRICE))) == Taken(6 * PRICE, 0)
