"""What payer and payee say to each other inside a session, beside its stream.

    payee                                                payer
    Terms(unit, price, credit)                     ->
                                                   <-    Attach(agreement, ..., signature over the session)
                                                   <-    Pay(voucher)
    Taken(amount, served units)                    ->
    ... bytes of the stream, both ways, are counted ...
    Due(served units)                              ->
                                                   <-    Pay(voucher)

Everything is cumulative, so a message that a broken link loses is made good by the next one; the payee asks again.

`Attach` ties the session to an agreement: the voucher key signs the session's id, so whoever saw a voucher (they are
public once claimed) cannot be served on somebody else's account. And it ties the agreement to this instance: its salt
was made from the instance's key (`salt_for`), so that a client cannot promise one deposit to two instances of a
provider that do not know of each other.
"""

from __future__ import annotations

from typing import Annotated, Final, TypeAlias, cast

from msgspec import Meta

from blockcloud.primitives import codec
from blockcloud.primitives.codec import Struct
from blockcloud.primitives.hashes import tagged_hash
from blockcloud.primitives.keys import SigningKey, verify
from blockcloud.service_access.frames import PAYMENT_BYTES
from blockcloud.service_chain.agreements.vouchers import SignedVoucher
from blockcloud.service_chain.fields import Amount, Digest, Key, Number, Signature

ATTACH_DOMAIN: Final = "bloc/pays-session/1"
NONCE_BYTES: Final = 16
# What a unit of the stream is, both directions together.
UNIT_BYTES: Final = {"kib": 1024, "mib": 1024**2, "gib": 1024**3}

Nonce: TypeAlias = Annotated[bytes, Meta(min_length=NONCE_BYTES, max_length=NONCE_BYTES)]
Unit: TypeAlias = Annotated[str, Meta(min_length=1, max_length=32)]
Text: TypeAlias = Annotated[str, Meta(max_length=256)]


class Terms(Struct, frozen=True, tag=1):
    """Each `unit` costs `unit_price` micro-BLOC; once something was paid, `credit_units` may be owed."""

    unit: Unit
    unit_price: Amount
    credit_units: Number


class Attach(Struct, frozen=True, tag=2):
    """This session is paid for through `agreement`, opened at `height` with the salt that `nonce` makes."""

    agreement: Digest
    height: Number
    nonce: Nonce
    signature: Signature


class Pay(Struct, frozen=True, tag=3):
    """The newest voucher."""

    voucher: SignedVoucher


class Taken(Struct, frozen=True, tag=4):
    """A voucher is durable here: `amount` was promised in all, `served_units` were served in all."""

    amount: Amount
    served_units: Number


class Due(Struct, frozen=True, tag=5):
    """So many units were served in all, and soon no more will be."""

    served_units: Number


class Refused(Struct, frozen=True, tag=6):
    """The payee does not take it, for this reason."""

    code: Text
    reason: Text


Message: TypeAlias = Terms | Attach | Pay | Taken | Due | Refused


def decode_message(data: bytes) -> Message:
    """The message in `data`. Raises Oversized, Malformed or NonCanonical."""
    return codec.decode(data, cast("type[Message]", Message), limit=PAYMENT_BYTES)


def salt_for(instance: bytes, nonce: bytes) -> bytes:
    """The salt of an agreement that pays the instance with this key and no other."""
    return tagged_hash("agreement-instance/v1", instance + nonce)


def attach(session_id: bytes, agreement: bytes, height: int, nonce: bytes, key: SigningKey) -> Attach:
    """The message that ties a session to an agreement; `key` is its voucher key."""
    return Attach(agreement, height, nonce, key.sign(ATTACH_DOMAIN, session_id + agreement))


def verify_attach(message: Attach, session_id: bytes, voucher_key: Key) -> None:
    """Raise BadSignature unless the holder of `voucher_key` wants this session to be paid through the agreement."""
    verify(voucher_key, ATTACH_DOMAIN, session_id + message.agreement, message.signature)
