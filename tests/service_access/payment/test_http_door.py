"""Requests that are paid for: 402 and what it asks, one voucher for one request, nothing for what others have seen."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from blockcloud.primitives.errors import Malformed
from blockcloud.primitives.keys import SigningKey
from blockcloud.service_access.connector import Connector
from blockcloud.service_access.edge.exchange import ClientSide
from blockcloud.service_access.edge.http_message import Fields, Request, Response, combined
from blockcloud.service_access.edge.signing_proxy import Signer, SigningProxy
from blockcloud.service_access.edge.streams import SessionStream
from blockcloud.service_access.payment.book import VoucherBook
from blockcloud.service_access.payment.http_door import (
    REQUIRED_FIELD,
    RESPONSE_FIELD,
    SIGNATURE_FIELD,
    HttpDoor,
    HttpPayment,
    encode_payment,
    read_required,
)
from blockcloud.service_access.payment.messages import Terms
from blockcloud.service_access.payment.till import Till
from blockcloud.service_chain.agreements.vouchers import Channel, Payer
from tests.service_access.access_world import NAME, World, bounded
from tests.service_access.edge.edge_world import Origin, origin_server
from tests.service_access.payment.paid_world import CHAIN, PRICE, PROVIDER, Ledger

TERMS = Terms("request", PRICE, 10)
BODY = b"worth it\n"


@dataclass
class Shop:
    """A published server that sells requests, and a client that pays by hand."""

    ledger: Ledger
    till: Till
    client: ClientSide
    instance: bytes
    origin: Origin

    async def get(self, payment: HttpPayment | str | None = None) -> Response:
        fields: Fields = (("host", NAME),)
        if payment is not None:
            value = payment if isinstance(payment, str) else encode_payment(payment)
            fields = (*fields, (SIGNATURE_FIELD, value))
        head = await bounded(self.client.ask(Request("GET", "/thing", fields), None, 0))
        return Response(head.response.status, head.response.fields, await bounded(self.client.whole(10_000)))

    async def opened(self, deposit: int = 1_000_000) -> tuple[Payer, int, bytes]:
        asked = read_required(await self.get())
        opened = await self.ledger.open(NAME, asked.instance, asked.terms, deposit)
        return Payer(opened.channel, opened.key), opened.height, opened.nonce


@pytest.fixture
async def shop(world: World, tmp_path: Path) -> AsyncIterator[Shop]:
    async with origin_server() as origin:
        origin.set("/thing", BODY, ("cache-control", "max-age=60"))
        ledger, key = Ledger(), world.key()
        listener = await world.listener(key=key)
        till = Till(TERMS, key.public, CHAIN, VoucherBook(tmp_path / "till.sqlite"), ledger.find)
        door = HttpDoor(till, NAME, key.public, PROVIDER.public)
        proxy = SigningProxy(Signer(key, NAME), ("127.0.0.1", origin.port), door)
        serving = asyncio.create_task(proxy.run(listener))
        session = await Connector(await world.endpoint(), world.registry).connect(NAME)
        yield Shop(ledger, till, ClientSide(SessionStream(session)), key.public, origin)
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
        till.close()


def required(response: Response) -> dict[str, Any]:
    assert response.status == 402
    said: dict[str, Any] = json.loads(base64.b64decode(combined(response.fields, REQUIRED_FIELD) or ""))
    assert said == json.loads(response.body), "people see what programs do"
    return said


def paid(response: Response) -> tuple[int, int]:
    """(promised, served) as the provider says."""
    assert (response.status, response.body) == (200, BODY)
    said = json.loads(base64.b64decode(combined(response.fields, RESPONSE_FIELD) or ""))
    assert said["success"] is True
    return int(said["promised"]), said["served"]


async def test_a_402_says_what_a_request_costs(shop: Shop) -> None:
    said = required(await shop.get())
    assert said["x402Version"] == 2
    (accepted,) = said["accepts"]
    assert (accepted["scheme"], accepted["amount"], accepted["resource"]) == ("bloc-voucher", str(PRICE), "/thing")
    assert accepted["extra"] == {"name": NAME, "unit": "request", "instance": shop.instance.hex()}
    assert not shop.origin.heads, "the server is not troubled"


async def test_each_request_is_paid_by_a_voucher_of_its_own(shop: Shop) -> None:
    payer, height, nonce = await shop.opened()
    for number in (1, 2, 3):
        payment = HttpPayment(payer.channel.agreement, height, nonce, payer.pay(PRICE, 1))
        answer = await shop.get(payment)
        assert paid(answer) == (number * PRICE, number)
        assert combined(answer.fields, "cache-control") == "private", "what was paid for is for who paid"
        again = required(await shop.get(payment))
        assert again["error"] == "stale_voucher"
    assert all(SIGNATURE_FIELD not in fields for _, _, fields, _ in shop.origin.heads), (
        "the server does not see the money"
    )


async def test_what_pays_too_little_or_is_not_money_is_told_so(shop: Shop) -> None:
    payer, height, nonce = await shop.opened(deposit=10_000)
    agreement, key = payer.channel.agreement, shop.ledger.voucher_key

    async def error(payment: HttpPayment | str) -> str:
        return str(required(await shop.get(payment))["error"])

    assert await error("rubbish!") == "malformed"
    assert await error(base64.b64encode(b"rubbish").decode()) == "malformed"
    assert await error("A" * 9_000) == "malformed"
    little = payer.pay(PRICE - 1, 1)
    assert await error(HttpPayment(agreement, height, nonce, little)) == "not_paid"
    assert await error(HttpPayment(bytes(32), height, nonce, little)) == "wrong_agreement"
    assert await error(HttpPayment(agreement, height + 1, nonce, little)) == "unbound_agreement"
    rich = Channel(CHAIN, agreement, key.public, 10**9, PRICE)
    above = Payer(rich, key, payer.last).pay(10_000)
    assert await error(HttpPayment(agreement, height, nonce, above)) == "voucher_above_deposit"
    stranger = Payer(rich, SigningKey.generate(), payer.last).pay(PRICE)
    assert await error(HttpPayment(agreement, height, nonce, stranger)) == "wrong_voucher_key"
    assert not shop.origin.heads
    assert paid(await shop.get(HttpPayment(agreement, height, nonce, payer.pay(1, 1)))) == (PRICE, 1)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"accepts": []},
        {"accepts": [{"scheme": "exact", "amount": "1"}]},
        {
            "accepts": [
                {"scheme": "bloc-voucher", "amount": "-1", "extra": {"name": "a", "unit": "request", "instance": ""}}
            ]
        },
        {
            "accepts": [
                {"scheme": "bloc-voucher", "amount": "1", "extra": {"name": "a", "unit": "hour", "instance": ""}}
            ]
        },
        {
            "accepts": [
                {"scheme": "bloc-voucher", "amount": "1", "extra": {"name": "a", "unit": "request", "instance": "x"}}
            ]
        },
        {"accepts": 7},
        [],
    ],
)
def test_a_402_of_somebody_else_is_not_paid(body: object) -> None:
    header = base64.b64encode(json.dumps(body).encode()).decode()
    with pytest.raises(Malformed):
        read_required(Response(402, ((REQUIRED_FIELD, header),)))
    with pytest.raises(Malformed):
        read_required(Response(402))
