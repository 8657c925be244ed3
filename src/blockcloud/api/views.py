"""The shapes of what the ledger holds, for the API and the command line: plain objects, the same everywhere.

Amounts appear as decimal BLOC and as integers in micro-BLOC.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from blockcloud.primitives import codec
from blockcloud.primitives.addresses import format_address
from blockcloud.primitives.amounts import format_amount
from blockcloud.primitives.certificates import Certificate
from blockcloud.service_chain.handover import Handover
from blockcloud.service_chain.inclusion import ProvenTransaction
from blockcloud.service_chain.proven import ProvenValue
from blockcloud.service_chain.receipts import Receipt
from blockcloud.service_chain.records import Account, AccountKeys, Candidate, ContractRecord, StakeRecord
from blockcloud.service_chain.rejections import OK
from blockcloud.transaction_chain.cloudpos.stake import Resources
from blockcloud.transaction_chain.era import EraPlan


def account_view(public_key: bytes, account: Account | None, keys: AccountKeys | None) -> dict[str, Any]:
    """An account; one that the ledger does not know has nothing and starts at sequence 0. `keys`: who signs for it."""
    balance = account.balance if account else 0
    return {
        "address": format_address(public_key),
        "balance": format_amount(balance),
        "balance_micro_bloc": balance,
        "sequence": account.sequence if account else 0,
        "exists": account is not None,
        **keys_view(public_key, keys),
    }


def keys_view(public_key: bytes, keys: AccountKeys | None) -> dict[str, Any]:
    """Who signs for an account: `threshold` of `keys`, which are shown as the addresses that they would have. Lanes up
    to the number `ended_lanes` are over."""
    signers = (public_key,) if keys is None else keys.keys
    return {
        "threshold": 1 if keys is None else keys.threshold,
        "keys": [format_address(key) for key in signers],
        "ended_lanes": 0 if keys is None else keys.ended_lanes,
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
        **(_contract_part(receipt) if receipt.fuel else {}),
    }


def _contract_part(receipt: Receipt) -> dict[str, Any]:
    """What contracts used, answered (or why one failed) and told."""
    output: dict[str, Any] = {"output": receipt.output.hex()}
    if receipt.code != OK:
        output = {"reason": receipt.output.decode("ascii", "backslashreplace")}
    events = [
        {"contract": format_address(contract), "topic": topic.decode("ascii"), "data": data.hex()}
        for contract, topic, data in receipt.events
    ]
    return {"fuel": receipt.fuel, **output, "events": events}


def contract_view(address: bytes, record: ContractRecord, balance: int) -> dict[str, Any]:
    """A contract: its money, and the deposit for what it stores."""
    return {
        "address": format_address(address),
        "code_hash": record.code_hash.hex(),
        "owner": format_address(record.owner),
        "created_height": record.created_height,
        "balance": format_amount(balance),
        "balance_micro_bloc": balance,
        "stored_bytes": record.stored_bytes,
        "deposit": format_amount(record.deposit),
        "deposit_micro_bloc": record.deposit,
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


def committee_view(plan: EraPlan) -> dict[str, Any]:
    """The committee of an era; weights are bonds. `key` is who a member is, `consensus_key` what it signs with in this
    era."""
    return {
        "era": plan.era,
        "first_height": plan.first_height,
        "beacon": plan.beacon.hex(),
        "protocol_version": plan.protocol_version,
        "quorum": plan.committee().quorum,
        "members": [
            {
                "key": seat.node_key.hex(),
                "address": format_address(seat.node_key),
                "consensus_key": seat.consensus_key.hex(),
                "bond": format_amount(seat.bond),
                "bond_micro_bloc": seat.bond,
                "resource_weight_ppm": seat.resource_weight,
                "link_address": seat.link_address,
                "api_url": seat.api_url,
            }
            for seat in plan.seats
        ],
    }


def handover_view(handover: Handover) -> dict[str, Any]:
    """A hand-over; `handover` are the canonical bytes that a light client verifies."""
    statement = handover.certificate.statement
    return {
        "era": handover.plan.era,
        "last_height": statement.height,
        "commit_digest": statement.digests[0].hex(),
        "state_root": statement.digests[1].hex(),
        "plan_digest": statement.digests[2].hex(),
        "signers": [signer.hex() for signer, _ in handover.certificate.signatures],
        "committee": committee_view(handover.plan),
        "handover": codec.encode(handover).hex(),
    }


def candidate_view(
    node_key: bytes,
    candidate: Candidate,
    withdrawable_ms: Callable[[int], int | None],
    stake: StakeRecord | None = None,
) -> dict[str, Any]:
    """A candidate: what is behind it, for which eras it is ready and with which keys. `jailed_era` is null if it is not
    jailed; what is unbonding can be withdrawn from the era `from_era` on, and not before `from_time_ms` (null: not
    known yet), which `withdrawable_ms` tells of an era. `stake` is null if it has put up no resources."""
    return {
        "address": format_address(node_key),
        "key": node_key.hex(),
        "bond": format_amount(candidate.bond),
        "bond_micro_bloc": candidate.bond,
        "unbonding": [
            {
                "from_era": era,
                "from_time_ms": withdrawable_ms(era),
                "amount": format_amount(amount),
                "amount_micro_bloc": amount,
            }
            for era, amount in candidate.unbonding
        ],
        "ready": [{"era": era, "consensus_key": key.hex()} for era, key in candidate.keys],
        "jailed": candidate.jailed,
        "jailed_era": candidate.jailed_era if candidate.jailed else None,
        "offences": candidate.offences,
        "link_address": candidate.link_address,
        "api_url": candidate.api_url,
        "onion": bool(candidate.onion),
        "stake": None if stake is None else _stake_view(stake),
    }


def _stake_view(stake: StakeRecord) -> dict[str, Any]:
    """Resources that a candidate has put up; only what is confirmed counts for its weight."""
    return {
        "address": stake.address,
        "claim": _resources_view(stake.claim.resources),
        "confirmed": _resources_view(stake.confirmed),
        "compute_lanes": stake.claim.compute_lanes,
        "plot_root": stake.claim.plot_root.hex(),
    }


def _resources_view(resources: Resources) -> dict[str, int]:
    return {
        "compute_steps_per_second": resources.compute,
        "storage_bytes": resources.storage,
        "data_rate_bytes_per_second": resources.data_rate,
    }
