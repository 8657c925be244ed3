"""The shapes of what the ledger holds, for the API and the command line: plain objects, the same everywhere.

Amounts appear as decimal BLOC and as integers in micro-BLOC.
"""

from __future__ import annotations

from typing import Any

from blockcloud.primitives import codec
from blockcloud.primitives.addresses import format_address
from blockcloud.primitives.amounts import format_amount
from blockcloud.primitives.certificates import Certificate
from blockcloud.service_chain.inclusion import ProvenTransaction
from blockcloud.service_chain.proven import ProvenValue
from blockcloud.service_chain.receipts import Receipt
from blockcloud.service_chain.records import Account, NameRecord
from blockcloud.transaction_chain.committee import Committee


def account_view(public_key: bytes, account: Account | None) -> dict[str, Any]:
    """An account; one that the ledger does not know has nothing and starts at sequence 0."""
    balance = account.balance if account else 0
    return {
        "address": format_address(public_key),
        "balance": format_amount(balance),
        "balance_micro_bloc": balance,
        "sequence": account.sequence if account else 0,
        "exists": account is not None,
    }


def name_view(record: NameRecord) -> dict[str, Any]:
    """A name as the registry holds it."""
    return {
        "name": record.name,
        "owner": format_address(record.owner),
        "service_file_hash": record.service_file_hash.hex(),
        "instance_keys": [key.hex() for key in record.instance_keys],
        "registered_height": record.registered_height,
        "expires_height": record.expires_height,
        "changed_height": record.changed_height,
        "revoked": record.revoked,
    }


def receipt_view(receipt: Receipt) -> dict[str, Any]:
    """A receipt: what a committed transaction did and cost."""
    return {
        "id": receipt.transaction_id.hex(),
        "height": receipt.height,
        "index": receipt.index,
        "code": receipt.code,
        "fee": format_amount(receipt.fee),
        "fee_micro_bloc": receipt.fee,
    }


def proven_view(proven: ProvenValue) -> dict[str, Any]:
    """A state value with everything that verifying it takes; `value` is null if the key is absent."""
    return {
        "key": proven.key.hex(),
        "value": proven.value.hex() or None,
        "height": proven.certificate.statement.height,
        "proof": proven.proof.hex(),
        "certificate": codec.encode(proven.certificate).hex(),
        "commit": proven.commit.hex(),
    }


def inclusion_view(proven: ProvenTransaction) -> dict[str, Any]:
    """A transaction with everything that verifying its place in the ledger takes."""
    return {
        "transaction": proven.transaction.hex(),
        "index": proven.index,
        "size": proven.size,
        "path": [sibling.hex() for sibling in proven.path],
        "header": proven.header.hex(),
        "commits": [commit.hex() for commit in proven.commits],
        "certificate": codec.encode(proven.certificate).hex(),
    }


def checkpoint_view(certificate: Certificate) -> dict[str, Any]:
    """A certified checkpoint; `certificate` are the canonical bytes that a light client verifies."""
    statement = certificate.statement
    return {
        "height": statement.height,
        "commit_digest": statement.digests[0].hex(),
        "state_root": statement.digests[1].hex(),
        "signers": [signer.hex() for signer, _ in certificate.signatures],
        "certificate": codec.encode(certificate).hex(),
    }


def committee_view(era: int, committee: Committee) -> dict[str, Any]:
    """The committee of an era; weights are bonds."""
    return {
        "era": era,
        "quorum": committee.quorum,
        "members": [
            {"key": member.key.hex(), "address": format_address(member.key), "bond_micro_bloc": member.bond}
            for member in committee.members
        ],
    }
