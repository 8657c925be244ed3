"""Namespaces and batches of sub-names for programs: open a namespace, put names in, make it ready; see what it asks.

Each function takes a client (`AsyncClient`). What a namespace asks is proven, so a node cannot make anybody pay more
than its rule says; and what is proven goes into the operation as its limit, so the ledger cannot take more either.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from blockcloud.primitives.addresses import parse_address
from blockcloud.primitives.errors import Malformed
from blockcloud.primitives.keys import SigningKey
from blockcloud.primitives.limits import DELEGATIONS
from blockcloud.primitives.names import parent_of, parse_name
from blockcloud.sdk.client import SALT_BYTES, AsyncClient
from blockcloud.sdk.reading import TIMEOUT_SECONDS
from blockcloud.service_chain.name_price import PRICED_LENGTHS, PriceRule
from blockcloud.service_chain.namespaces import Terms, terms_of
from blockcloud.service_chain.operations import (
    Delegate,
    Delegation,
    ReadyNamespace,
    RevealNamespace,
    check_operation,
    namespace_commitment,
)
from blockcloud.service_chain.receipts import Receipt
from blockcloud.service_chain.records import NamespaceRecord, decode_record
from blockcloud.service_chain.state_keys import namespace_key

BATCH_BYTES: Final = 1024 * 1024


def price_rule(
    coefficient: int,
    base: int = 1,
    exponents: Iterable[int] = (0,),
    *,
    no_vowel_discount: int = 1,
    non_letter_discount: int = 1,
) -> PriceRule:
    """A rule; `coefficient` in micro-BLOC. `exponents` are for labels of 1, 2, ... characters, the last one given for
    all longer ones. Raises Malformed."""
    given = list(exponents)
    if not 1 <= len(given) <= PRICED_LENGTHS:
        raise Malformed(f"a rule has 1 to {PRICED_LENGTHS} exponents", exponents=len(given))
    filled = (*given, *given[-1:] * (PRICED_LENGTHS - len(given)))
    fields = (coefficient, base, filled, no_vowel_discount, non_letter_discount)
    try:
        return msgspec.convert(fields, PriceRule)
    except msgspec.ValidationError as error:
        raise Malformed(f"not a price rule: {error}") from None


async def open_namespace(
    client: AsyncClient,
    key: SigningKey,
    label: str,
    rule: PriceRule,
    lifetime: int,
    grace: int,
    *,
    salt: bytes | None = None,
    timeout_s: float = TIMEOUT_SECONDS,
) -> Receipt:
    """Open the namespace `label`: preorder with a salted hash, wait for the window, reveal. Lifetime and grace of its
    names in commits. It costs `service_chain.namespaces.opening_price`, which is burned, and a deposit.

    Give the `salt` (32 bytes, secret until the end) to be able to go on after a crash. Raises as `submit_all`.
    """
    salt = os.urandom(SALT_BYTES) if salt is None else salt
    reveal = RevealNamespace(label, salt, rule, lifetime, grace)
    check_operation(reveal)
    commitment = namespace_commitment(label, salt, client.acts_for(key))
    return await client.preordered(key, commitment, reveal, timeout_s=timeout_s)


async def ready_namespace(client: AsyncClient, key: SigningKey, label: str, **how: Any) -> Receipt:
    """Let everybody register below a namespace from now on. Keywords as `submit_all`."""
    return await client.transact(key, ReadyNamespace(label), **how)


async def delegate(
    client: AsyncClient, key: SigningKey, parent: str, entries: Sequence[Delegation], **how: Any
) -> Receipt:
    """Register names directly below `parent`, a held name or a namespace that is not ready, all or none, at most 64.
    Keywords as `submit_all`."""
    operation = Delegate(parse_name(parent), tuple(entries))
    if not 1 <= len(operation.entries) <= DELEGATIONS:
        raise Malformed(f"a batch has 1 to {DELEGATIONS} names", names=len(operation.entries))
    check_operation(operation)
    return await client.transact(key, operation, **how)


async def namespace(client: AsyncClient, label: str, **how: Any) -> NamespaceRecord | None:
    """The proven record of a namespace; None if nobody opened it. Keywords as `AsyncClient.proven`."""
    return decode_record((await client.proven(namespace_key(parse_name(label)), **how)).value, NamespaceRecord)


async def namespace_view(client: AsyncClient, label: str) -> dict[str, Any]:
    """A namespace as a node's newest state has it. Raises NotFound."""
    return await client.transport.json(f"/v1/namespaces/{parse_name(label)}")


async def terms(client: AsyncClient, name: str, **how: Any) -> Terms:
    """What registering or renewing a name means at the ledger's newest height: price (micro-BLOC), lifetime and grace
    (commits), proven. Keywords as `AsyncClient.proven`."""
    label, naming = parent_of(parse_name(name)), client.genesis.naming
    if not label or "." in label:
        return terms_of(name, None, 0, naming)
    if "at_least_height" not in how:
        how["at_least_height"] = (await client.status())["height"]
    proven = await client.proven(namespace_key(label), **how)
    return terms_of(name, decode_record(proven.value, NamespaceRecord), proven.height, naming)


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One name of a batch file."""

    label: str
    owner: str = ""
    service_file_hash: str = ""
    instance_keys: list[str] = []


def read_batch(data: bytes, default_owner: bytes) -> tuple[Delegation, ...]:
    """The entries of a batch file: a JSON array of objects with `label`, and optionally `owner` (an address; default:
    `default_owner`), `service_file_hash` (hexadecimal) and `instance_keys` (addresses).

    Raises Malformed or InvalidAddress."""
    if len(data) > BATCH_BYTES:
        raise Malformed("a batch file is at most 1 MiB")
    try:
        entries = msgspec.json.decode(data, type=list[_Entry])
        return tuple(
            Delegation(
                entry.label,
                parse_address(entry.owner) if entry.owner else default_owner,
                bytes.fromhex(entry.service_file_hash),
                tuple(parse_address(each) for each in entry.instance_keys),
            )
            for entry in entries
        )
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise Malformed(f"not a batch file: {error}") from None


__all__ = [
    "delegate",
    "namespace",
    "namespace_view",
    "open_namespace",
    "price_rule",
    "read_batch",
    "ready_namespace",
    "terms",
]
