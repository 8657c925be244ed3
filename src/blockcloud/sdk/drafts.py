"""Transactions that several people sign, each with a key file of their own, on machines that need not be online.

A draft is a file: the bytes that are signed and the signatures so far. Whoever gets it can see what it does
(`described`, read from those bytes and nothing else), sign it, and pass it on; copies that were signed apart can be put
together (`merge`). `complete` picks the signatures that the account's present keys ask for, because the ledger takes
exactly as many as needed.

The file is JSON: {"blockcloud_draft": 1, "transaction": hex, "signatures": {address of the key: hex}}.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import msgspec

from blockcloud.primitives import codec
from blockcloud.primitives.addresses import format_address, parse_address
from blockcloud.primitives.amounts import format_amount
from blockcloud.primitives.errors import InvalidAddress, Malformed, Oversized
from blockcloud.primitives.hashes import tagged_hash
from blockcloud.primitives.keys import SigningKey, verify
from blockcloud.primitives.limits import TRANSACTION_BYTES, TRANSACTION_SIGNATURES
from blockcloud.sdk.client import AsyncClient
from blockcloud.sdk.errors import BadAnswer
from blockcloud.service_chain.operations import SetKeys, check_operation
from blockcloud.service_chain.rejections import TooFewSigners
from blockcloud.service_chain.transaction import DOMAIN, KeyNotShown, TransactionBody, WireTransaction

FORMAT: Final = 1
DRAFT_BYTES: Final = 3 * TRANSACTION_BYTES
# A draft goes round among people: half a day at twenty commits a second, three days and more on an idle network.
VALID_COMMITS: Final = 1_000_000
# Fields that hold accounts or their keys, and amounts, whatever the operation.
_KEY_FIELDS: Final = frozenset(("to", "keys", "member", "contract"))
_AMOUNT_FIELDS: Final = frozenset(("amount", "cap", "value", "deposit_limit"))


class _File(msgspec.Struct, forbid_unknown_fields=True):
    blockcloud_draft: int
    transaction: str
    signatures: dict[str, str]


@dataclass(frozen=True)
class Draft:
    """A transaction's body, its canonical bytes, and the signatures so far: each was verified."""

    body: TransactionBody
    body_bytes: bytes
    signatures: Mapping[bytes, bytes]  # by key

    @classmethod
    def of(cls, body: TransactionBody) -> Draft:
        """An unsigned draft."""
        return cls(body, codec.encode(body), {})

    @classmethod
    def parse(cls, text: bytes) -> Draft:
        """The draft in a file. Raises Malformed, Oversized, NonCanonical, BadSignature or what is wrong with an
        operation."""
        if len(text) > DRAFT_BYTES:
            raise Oversized("a draft is larger than its limit", bytes=len(text), limit=DRAFT_BYTES)
        try:
            found = msgspec.json.decode(text, type=_File)
            body_bytes = bytes.fromhex(found.transaction)
            signatures = {parse_address(key): bytes.fromhex(value) for key, value in found.signatures.items()}
        except (msgspec.DecodeError, ValueError, InvalidAddress) as error:
            raise Malformed(f"not a draft of a transaction: {error}") from None
        if found.blockcloud_draft != FORMAT:
            raise Malformed("a draft of another format", format=found.blockcloud_draft)
        if len(signatures) > TRANSACTION_SIGNATURES:
            raise Malformed("more signatures than a transaction has", signatures=len(signatures))
        body = codec.decode(body_bytes, TransactionBody, limit=TRANSACTION_BYTES)
        for operation in body.operations:
            check_operation(operation)
        for key, signature in signatures.items():
            verify(key, DOMAIN, body_bytes, signature)
        return cls(body, body_bytes, signatures)

    def text(self) -> bytes:
        """What the file holds."""
        signatures = {format_address(key): value.hex() for key, value in sorted(self.signatures.items())}
        return msgspec.json.format(msgspec.json.encode(_File(FORMAT, self.body_bytes.hex(), signatures))) + b"\n"

    @property
    def id(self) -> bytes:
        """The id that the transaction will have, whoever signs it."""
        return tagged_hash(DOMAIN, self.body_bytes)

    @property
    def joining(self) -> tuple[bytes, ...]:
        """Keys that the account gets by it, ascending: each must sign."""
        changes = [operation.keys for operation in self.body.operations if isinstance(operation, SetKeys)]
        return tuple(sorted(dict.fromkeys(key for keys in changes for key in keys)))

    def signed(self, *keys: SigningKey) -> Draft:
        """With the signatures of `keys` as well."""
        more = {key.public: key.sign(DOMAIN, self.body_bytes) for key in keys}
        return replace(self, signatures={**self.signatures, **more})

    def complete(self, threshold: int, keys: Sequence[bytes]) -> bytes:
        """The wire bytes, where `threshold` of `keys` sign for the account. Signatures that it does not take are left
        out. Raises TooFewSigners or KeyNotShown, and says who may still sign."""
        joining = self.joining
        absent = [format_address(key) for key in joining if key not in self.signatures]
        if absent:
            raise KeyNotShown("new keys have not signed yet", keys=", ".join(absent))
        present = sorted((key for key in keys if key in self.signatures), key=lambda key: key not in joining)
        if len(present) < threshold:
            able = ", ".join(format_address(key) for key in keys if key not in self.signatures)
            raise TooFewSigners("more keys must sign", signed=len(present), threshold=threshold, may_sign=able)
        needed = max(threshold, sum(key in joining for key in present))
        chosen = sorted(dict.fromkeys((*present[:needed], *joining)))
        return codec.encode(WireTransaction(self.body_bytes, tuple((key, self.signatures[key]) for key in chosen)))


def merge(drafts: Sequence[Draft]) -> Draft:
    """One draft with the signatures of all. Raises Malformed if they are not of one transaction."""
    first = drafts[0]
    if any(draft.body_bytes != first.body_bytes for draft in drafts):
        raise Malformed("these are drafts of different transactions")
    return replace(first, signatures={key: value for draft in drafts for key, value in draft.signatures.items()})


async def keys_told(client: AsyncClient, account: bytes) -> tuple[int, tuple[bytes, ...]]:
    """(threshold, keys) that sign for an account, as a node has it now: newer than what can be proven. A node that lies
    about it only makes the ledger reject the transaction. Raises BadAnswer."""
    view = await client.account_view(account)
    try:
        threshold, keys = view["threshold"], tuple(map(parse_address, view["keys"]))
    except (KeyError, TypeError, AttributeError, InvalidAddress) as error:
        raise BadAnswer(f"an account without its keys: {error}") from None
    if not isinstance(threshold, int) or not 1 <= threshold <= len(keys):
        raise BadAnswer("an account that nobody can sign for")
    return threshold, keys


def described(draft: Draft) -> dict[str, Any]:
    """What a draft does, for whoever is asked to sign it."""
    body = draft.body
    return {
        "id": draft.id.hex(),
        "account": format_address(body.sender),
        "operations": [_operation_view(operation) for operation in body.operations],
        "lane": body.lane,
        "sequence": body.sequence,
        "valid_until": body.valid_until,
        "fee_limit": f"{format_amount(body.fee_limit)} BLOC",
        "chain_id": body.chain_id.hex(),
        "new_keys": [format_address(key) for key in draft.joining],
        "signed_by": [format_address(key) for key in sorted(draft.signatures)],
    }


def _operation_view(operation: msgspec.Struct) -> dict[str, Any]:
    fields = {field.name: getattr(operation, field.name) for field in msgspec.structs.fields(operation)}
    return {"operation": type(operation).__name__, **{name: _shown(name, value) for name, value in fields.items()}}


def _shown(name: str, value: Any) -> Any:
    """A field's value as a person reads it."""
    if isinstance(value, tuple):
        return [_shown(name, item) for item in value]
    if isinstance(value, bytes):
        return format_address(value) if name in _KEY_FIELDS and len(value) == 32 else value.hex()
    if isinstance(value, int) and name in _AMOUNT_FIELDS:
        return f"{format_amount(value)} BLOC"
    if isinstance(value, msgspec.Struct):
        return codec.encode(value).hex()
    return value
