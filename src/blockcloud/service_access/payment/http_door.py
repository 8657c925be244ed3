"""Paid requests over plain HTTP: 402 says what is asked, a header brings a voucher, another says what was taken.

The shape is that of x402 version 2 (`PAYMENT-REQUIRED`, `PAYMENT-SIGNATURE`, `PAYMENT-RESPONSE`; values are base64),
with a scheme of our own, `bloc-voucher`: a voucher is cumulative and out of an agreement on the ledger. Each request
brings a voucher newer than all before it, which pays for it in advance: so a header that somebody has seen buys
nothing, and there is no credit. Sans-IO but for the till behind it.
"""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from typing import Any, Final

from blockcloud.primitives import codec
from blockcloud.primitives.addresses import format_address
from blockcloud.primitives.codec import Struct
from blockcloud.primitives.errors import BlockCloudError, Malformed, PeerFault
from blockcloud.service_access.edge.http_message import Fields, Request, Response, combined, without
from blockcloud.service_access.payment.errors import NotPaid
from blockcloud.service_access.payment.messages import Nonce, Terms
from blockcloud.service_access.payment.till import Till
from blockcloud.service_chain.agreements.faults import StaleVoucher
from blockcloud.service_chain.agreements.vouchers import SignedVoucher
from blockcloud.service_chain.fields import Digest, Number

X402_VERSION: Final = 2
SCHEME: Final = "bloc-voucher"
REQUEST_UNIT: Final = "request"
PAYMENT_REQUIRED: Final = 402
REQUIRED_FIELD: Final = "payment-required"
SIGNATURE_FIELD: Final = "payment-signature"
RESPONSE_FIELD: Final = "payment-response"
HEADER_BYTES: Final = 4_096


class HttpPayment(Struct, frozen=True):
    """What a client sends: the agreement that it opened at `height` with the salt that `nonce` makes, and a voucher."""

    agreement: Digest
    height: Number
    nonce: Nonce
    voucher: SignedVoucher


@dataclass(frozen=True)
class Asked:
    """What a 402 asks for a request."""

    name: str
    instance: bytes
    terms: Terms


class HttpDoor:
    """Lets requests in that are paid for, each for the price of a `request`."""

    def __init__(self, till: Till, name: str, instance: bytes, provider: bytes) -> None:
        self._till, self._name, self._instance, self._provider = till, name, instance, provider

    async def admit(self, request: Request) -> Response | tuple[Request, Fields]:
        """(The request without its payment, what to add to the answer), or the 402 to answer with."""
        header = combined(request.fields, SIGNATURE_FIELD)
        try:
            if header is None:
                raise NotPaid("this costs something")
            promised, served = await self._take(decode_payment(header))
        except BlockCloudError as error:
            return self._required(request, error)
        answer = {"success": True, "scheme": SCHEME, "promised": str(promised), "served": served}
        return (
            Request(request.method, request.target, without(request.fields, (SIGNATURE_FIELD,))),
            ((RESPONSE_FIELD, _base64(answer)),),
        )

    async def _take(self, payment: HttpPayment) -> tuple[int, int]:
        account = await self._till.account(payment.agreement, payment.height, payment.nonce)
        payee = account.payee
        if payment.voucher == payee.standing.best:
            raise StaleVoucher(number=payment.voucher.voucher.number)
        await self._till.take(account, payment.voucher)
        served = payee.standing.served_units
        if payee.promised < (served + 1) * payee.channel.unit_price:
            raise NotPaid("the voucher does not pay for this request", promised=payee.promised, served=served)
        account.count(1)
        return payee.promised, served + 1

    def _required(self, request: Request, error: BlockCloudError) -> Response:
        terms = self._till.terms
        body = {
            "x402Version": X402_VERSION,
            "error": error.code,
            "reason": str(error),
            "accepts": [
                {
                    "scheme": SCHEME,
                    "network": f"blockcloud:{self._till.chain_id.hex()}",
                    "asset": "BLOC",
                    "amount": str(terms.unit_price),
                    "payTo": format_address(self._provider),
                    "resource": request.target,
                    "extra": {"name": self._name, "unit": terms.unit, "instance": self._instance.hex()},
                }
            ],
        }
        fields = (("content-type", "application/json"), ("cache-control", "no-store"), (REQUIRED_FIELD, _base64(body)))
        return Response(PAYMENT_REQUIRED, fields, json.dumps(body, indent=2).encode() + b"\n")


def encode_payment(payment: HttpPayment) -> str:
    """The value of PAYMENT-SIGNATURE."""
    return base64.b64encode(codec.encode(payment)).decode()


def decode_payment(header: str) -> HttpPayment:
    """What a PAYMENT-SIGNATURE says. Raises Malformed, NonCanonical or Oversized."""
    return codec.decode(_decoded(header), HttpPayment, limit=HEADER_BYTES)


def read_required(response: Response) -> Asked:
    """What a 402 asks. Raises Malformed if it is none of ours."""
    header = combined(response.fields, REQUIRED_FIELD)
    if header is None:
        raise Malformed("a 402 that does not say what it asks")
    try:
        body = json.loads(_decoded(header))
        ours = next(each for each in body["accepts"] if each["scheme"] == SCHEME)
        extra = ours["extra"]
        amount = int(ours["amount"])
        if not 0 < amount < 2**63 or extra["unit"] != REQUEST_UNIT:
            raise ValueError("an amount or unit that cannot be")
        return Asked(str(extra["name"]), bytes.fromhex(extra["instance"]), Terms(REQUEST_UNIT, amount, 0))
    except (ValueError, KeyError, TypeError, StopIteration, RecursionError) as error:
        raise Malformed(f"a 402 that asks for something else: {error}") from None


def _base64(value: dict[str, Any]) -> str:
    return base64.b64encode(json.dumps(value, separators=(",", ":")).encode()).decode()


def _decoded(header: str) -> bytes:
    if len(header) > 2 * HEADER_BYTES:
        raise Malformed("a header about payment is too long", bytes=len(header))
    try:
        return base64.b64decode(header, validate=True)
    except (binascii.Error, ValueError):
        raise Malformed("a header about payment is not base64") from None


def refused_for(response: Response) -> PeerFault:
    """The error that a 402 after a payment stands for."""
    return NotPaid("the provider does not take what was paid", said=response.body[:200].decode("utf-8", "replace"))
