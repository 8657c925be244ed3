"""What a transaction costs, and how the price follows the load.

A transaction has a weight: its bytes, signatures and operations. It pays base fee x weight. After each commit the base
moves towards the price at which commits carry the target: by at most one eighth, or by 1 micro-BLOC where an eighth is
less, and never below the floor (the scheme of EIP-1559). Half of each fee is burned, half goes to the era pot, an odd
micro-BLOC is burned, so that copying a neighbour's transactions earns a proposer nothing. DESIGN sections 3.4 and 4.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from blockcloud.service_chain.agreements.operations import AGREEMENT_WEIGHTS
from blockcloud.service_chain.contracts.limits import FUEL_PER_UNIT
from blockcloud.service_chain.genesis import FeeParameters
from blockcloud.service_chain.market.operations import MARKET_WEIGHTS
from blockcloud.service_chain.operations import (
    AddInstance,
    AnnounceEndpoint,
    Bond,
    CallContract,
    CloseLane,
    Delegate,
    Deploy,
    GrantRole,
    OpenLane,
    Preorder,
    Ready,
    ReadyNamespace,
    Register,
    RemoveInstance,
    RenewName,
    ReportChallenges,
    ReportConflict,
    ReportEquivocation,
    Reveal,
    RevealNamespace,
    RevokeGrant,
    RevokeName,
    RevokeRole,
    SetKeys,
    SetPolicy,
    StakeResources,
    Transfer,
    TransferName,
    Unbond,
    Unjail,
    UpdateName,
    Withdraw,
)
from blockcloud.service_chain.proof_of_service.operations import PROOF_OF_SERVICE_WEIGHTS
from blockcloud.service_chain.records import Fees

BYTES_PER_UNIT: Final = 64
SIGNATURE_WEIGHT: Final = 5
# In proportion to the keys that an operation reads and writes; a key that may stay for ever counts double.
OPERATION_WEIGHTS: Final[Mapping[type, int]] = {
    Transfer: 4,
    OpenLane: 8,
    CloseLane: 4,
    # Its keys weigh as bytes, and their signatures as signatures.
    SetKeys: 10,
    Preorder: 8,
    Register: 16,
    UpdateName: 8,
    AddInstance: 6,
    RemoveInstance: 4,
    TransferName: 6,
    RenewName: 4,
    RevokeName: 4,
    RevealNamespace: 20,
    ReadyNamespace: 4,
    # And its entries.
    Delegate: 6,
    AnnounceEndpoint: 6,
    Bond: 16,
    Unbond: 8,
    Withdraw: 8,
    Ready: 16,
    # May cost as many hashes as an onion has layers, if its author missed as many eras.
    Reveal: 16,
    Unjail: 4,
    StakeResources: 16,
    # And its rows.
    ReportChallenges: 8,
    # Two signatures each.
    ReportEquivocation: 26,
    ReportConflict: 26,
    # And their fuel (`fuel_weight`).
    Deploy: 32,
    CallContract: 8,
    # Cedar parses and checks the text.
    SetPolicy: 64,
    # Rewrites the list of members, up to 35 KB.
    GrantRole: 16,
    RevokeRole: 16,
    RevokeGrant: 16,
    **AGREEMENT_WEIGHTS,
    **MARKET_WEIGHTS,
    **PROOF_OF_SERVICE_WEIGHTS,
}
FUELLED: Final = frozenset((Deploy, CallContract))
STEP_DIVISOR: Final = 8
# Rows of a report that cost a unit: each is counted when the round is settled, about 2 us, a fifth of a unit.
ROWS_PER_UNIT: Final = 4
# A delegated name is a new key that may stay for ever, and one of a service file: a registration without its preorder.
DELEGATION_WEIGHT: Final = 12


def weight_of(raw_bytes: int, signatures: int, operations: Sequence[object]) -> int:
    """The weight in units of a transaction of so many bytes and signatures; a transfer with one signature has 13."""
    weights = OPERATION_WEIGHTS
    size = -(-raw_bytes // BYTES_PER_UNIT)
    kinds = [type(operation) for operation in operations]
    weight = size + SIGNATURE_WEIGHT * signatures + sum([weights[kind] for kind in kinds])
    weight += fuel_weight(fuel_of(operations))
    if Delegate in kinds:
        weight += DELEGATION_WEIGHT * delegations_of(operations)
    return weight + _row_weight(operations) if ReportChallenges in kinds else weight


def delegations_of(operations: Sequence[object]) -> int:
    """How many names the operations delegate."""
    return sum([len(operation.entries) for operation in operations if isinstance(operation, Delegate)])


def _row_weight(operations: Sequence[object]) -> int:
    """What the rows of reports weigh."""
    rows = sum(len(operation.report.rows) for operation in operations if isinstance(operation, ReportChallenges))
    return -(-rows // ROWS_PER_UNIT)


def fuel_of(operations: Sequence[object]) -> int:
    """The fuel that the operations may use at most."""
    if FUELLED.isdisjoint(map(type, operations)):
        return 0
    return sum([operation.fuel_limit for operation in operations if isinstance(operation, Deploy | CallContract)])


def fuel_weight(fuel: int) -> int:
    """The weight in units of so much fuel."""
    return -(-fuel // FUEL_PER_UNIT)


def next_base_fee(base_fee: int, weight: int, parameters: FeeParameters) -> int:
    """The base fee after a commit of `weight` units: unchanged at the target, up or down by at most an eighth."""
    target = parameters.target_weight
    distance = min(abs(weight - target), target)
    step = -(-base_fee * distance // (target * STEP_DIVISOR))
    step = min(step, max(1, base_fee // STEP_DIVISOR))
    return max(parameters.base_fee_floor, base_fee + step if weight > target else base_fee - step)


def after_commit(fees: Fees, paid: int, pot: int, weight: int, parameters: FeeParameters) -> Fees:
    """The fee record after a commit in which `paid` was charged, `pot` of it for the era pot, for `weight` units."""
    return Fees(
        base_fee=next_base_fee(fees.base_fee, weight, parameters),
        era_pot=fees.era_pot + pot,
        burned=fees.burned + paid - pot,
        supply=fees.supply,
    )
