"""Transactions: several operations of one sender under one signature, all or nothing.

On the wire a transaction is (body bytes, signatures). Its id is the tagged hash of the body bytes, and the signatures
are over those bytes, so both stand before anything else is known. Signatures come in ascending order of their keys,
each key once. Whether those keys may act for the sender is decided at execution (DESIGN section 4): they must be
exactly the keys that are needed, so that a signature added by a stranger voids only that copy. A key that an account
is to get (`SetKeys`) signs as well.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from blockcloud.primitives import codec
from blockcloud.primitives.addresses import format_address
from blockcloud.primitives.codec import Struct
from blockcloud.primitives.errors import Malformed, PeerFault
from blockcloud.primitives.hashes import tagged_hash
from blockcloud.primitives.keys import SigningKey, verify
from blockcloud.primitives.limits import TRANSACTION_BYTES, TRANSACTION_OPERATIONS, TRANSACTION_SIGNATURES
from blockcloud.service_chain.contracts.limits import TRANSACTION_FUEL
from blockcloud.service_chain.fees import fuel_of, weight_of
from blockcloud.service_chain.fields import Amount, Digest, Key, Number
from blockcloud.service_chain.operations import Operation, SetKeys, check_operation

DOMAIN: Final = "transaction/v1"


class KeyNotShown(PeerFault):
    """A key that an account is to have from now on has not signed the change."""

    code = "key_not_shown"
    hint = (
        "Every new key signs the change as well: name its file with --cosign, or write the change to a file with "
        "--draft FILE and let its holder run `blockcloud tx sign FILE`."
    )


class TransactionBody(Struct, frozen=True):
    """What is signed. `sequence` is the lane's next one; the transaction is void above height `valid_until`; its fee is
    at most `fee_limit` micro-BLOC."""

    chain_id: Digest
    sender: Key
    lane: Number
    sequence: Number
    valid_until: Number
    fee_limit: Amount
    operations: Annotated[tuple[Operation, ...], Meta(min_length=1, max_length=TRANSACTION_OPERATIONS)]


class WireTransaction(Struct, frozen=True):
    """A transaction as it travels: body bytes, and (key, signature) pairs in ascending order of the keys."""

    body: bytes
    signatures: Annotated[
        tuple[tuple[Key, Annotated[bytes, Meta(min_length=64, max_length=64)]], ...],
        Meta(min_length=1, max_length=TRANSACTION_SIGNATURES),
    ]


class Transaction(msgspec.Struct, frozen=True, eq=False):
    """A parsed transaction. Two are the same if their `id` is; `signers` are the keys of the signatures, `weight` is
    what the fee is counted by (`fees.weight_of`)."""

    id: bytes
    body: TransactionBody
    body_bytes: bytes
    signatures: tuple[tuple[bytes, bytes], ...]
    signers: tuple[bytes, ...]
    raw: bytes
    weight: int


def parse_transaction(raw: bytes) -> Transaction:
    """Decode a transaction and check all that needs neither its chain, nor its signatures' verification, nor the state.

    Raises Oversized, Malformed, NonCanonical, InvalidName or, for the signatures in evidence, BadSignature.
    """
    wire = codec.decode(raw, WireTransaction, limit=TRANSACTION_BYTES)
    body = codec.decode(wire.body, TransactionBody, limit=TRANSACTION_BYTES)
    signers = tuple([key for key, _ in wire.signatures])
    if len(signers) > 1 and any(first >= second for first, second in pairwise(signers)):
        raise Malformed("signatures are not in ascending order of their keys, each key once")
    for operation in body.operations:
        check_operation(operation)
        if type(operation) is SetKeys:
            check_joining(operation, signers)
    fuel = fuel_of(body.operations)
    if fuel > TRANSACTION_FUEL:
        raise Malformed("more fuel than a transaction may use", fuel=fuel, limit=TRANSACTION_FUEL)
    weight = weight_of(len(raw), len(signers), body.operations)
    return Transaction(tagged_hash(DOMAIN, wire.body), body, wire.body, wire.signatures, signers, raw, weight)


def check_joining(operation: SetKeys, signers: tuple[bytes, ...]) -> None:
    """Each key that an account gets has signed the transaction: whoever mistypes one locks nobody out, and nobody is
    put among the keys unasked. The sequence under the signature lets it count once. Raises KeyNotShown."""
    for key in operation.keys:
        if key not in signers:
            raise KeyNotShown("a new key has not signed", key=format_address(key))


def verify_signatures(transaction: Transaction) -> None:
    """Raise BadSignature unless each key signed the body. Whether the keys may act for the sender is not asked."""
    for key, signature in transaction.signatures:
        verify(key, DOMAIN, transaction.body_bytes, signature)


def sign_transaction(body: TransactionBody, *keys: SigningKey) -> bytes:
    """The wire bytes of `body`, signed by each of `keys`."""
    body_bytes = codec.encode(body)
    signatures = sorted((key.public, key.sign(DOMAIN, body_bytes)) for key in keys)
    return codec.encode(WireTransaction(body_bytes, tuple(signatures)))
