"""How one transaction is executed: may it act, who pays, what does it do.

The order is fixed, because every node must refuse for the same reason:

1. `authorise`: expiry, lane, signers, sequence, permissions, fee. A transaction that fails here is void (`Unpaid`).
2. The fee is charged and the lane's sequence moves on. Nothing later undoes that.
3. The operations, in order. If one breaks a rule (`Failed`), all of them are undone.

A lane's spending is what its sender's balance has lost when the operations are done, so no operation needs to know
about caps. DESIGN section 4.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from blockcloud.service_chain.account_keys import apply_set_keys, authorise_keys, ended_lanes
from blockcloud.service_chain.accounts import NO_EVENTS, Context, Event, apply_transfer, credit
from blockcloud.service_chain.agreements.rules import AGREEMENT_RULES
from blockcloud.service_chain.contracts.limits import REASON_BYTES
from blockcloud.service_chain.contracts.rules import apply_call, apply_deploy, told_by
from blockcloud.service_chain.contracts.runtime import Spent
from blockcloud.service_chain.delegation import apply_delegate
from blockcloud.service_chain.eras import apply_ready, apply_reveal
from blockcloud.service_chain.evidence import apply_report_conflict, apply_report_equivocation
from blockcloud.service_chain.fees import fuel_of, fuel_weight
from blockcloud.service_chain.lanes import apply_close_lane, apply_open_lane
from blockcloud.service_chain.market.rules import MARKET_RULES
from blockcloud.service_chain.names import (
    apply_add_instance,
    apply_register,
    apply_remove_instance,
    apply_renew_name,
    apply_revoke_name,
    apply_transfer_name,
    apply_update_name,
)
from blockcloud.service_chain.namespaces import apply_ready_namespace, apply_reveal_namespace
from blockcloud.service_chain.operations import (
    TAGS,
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
from blockcloud.service_chain.policies import (
    apply_grant_role,
    apply_revoke_grant,
    apply_revoke_role,
    apply_set_policy,
)
from blockcloud.service_chain.preorders import apply_preorder
from blockcloud.service_chain.proof_of_service.rules import PROOF_OF_SERVICE_RULES
from blockcloud.service_chain.records import Account, Lane
from blockcloud.service_chain.rejections import (
    OK,
    Failed,
    FeeLimitTooLow,
    FeeNotPayable,
    FutureSequence,
    LaneEnded,
    LaneExpired,
    OperationNotAllowed,
    SpendingCapExceeded,
    StaleSequence,
    TransactionExpired,
    UnknownLane,
    WrongSigner,
)
from blockcloud.service_chain.resources import apply_report_challenges, apply_stake_resources
from blockcloud.service_chain.staking import (
    apply_announce_endpoint,
    apply_bond,
    apply_unbond,
    apply_unjail,
    apply_withdraw,
)
from blockcloud.service_chain.state_keys import account_key, lane_key
from blockcloud.service_chain.transaction import Transaction
from blockcloud.service_chain.working_state import WorkingState

Rule = Callable[[WorkingState, bytes, Any, Context], Sequence[Event]]

RULES: Final[Mapping[type, Rule]] = {
    Transfer: apply_transfer,
    OpenLane: apply_open_lane,
    CloseLane: apply_close_lane,
    SetKeys: apply_set_keys,
    Preorder: apply_preorder,
    Register: apply_register,
    UpdateName: apply_update_name,
    AddInstance: apply_add_instance,
    RemoveInstance: apply_remove_instance,
    TransferName: apply_transfer_name,
    RenewName: apply_renew_name,
    RevokeName: apply_revoke_name,
    RevealNamespace: apply_reveal_namespace,
    ReadyNamespace: apply_ready_namespace,
    Delegate: apply_delegate,
    AnnounceEndpoint: apply_announce_endpoint,
    Bond: apply_bond,
    Unbond: apply_unbond,
    Withdraw: apply_withdraw,
    Ready: apply_ready,
    Reveal: apply_reveal,
    Unjail: apply_unjail,
    StakeResources: apply_stake_resources,
    ReportChallenges: apply_report_challenges,
    ReportEquivocation: apply_report_equivocation,
    ReportConflict: apply_report_conflict,
    Deploy: apply_deploy,
    CallContract: apply_call,
    SetPolicy: apply_set_policy,
    GrantRole: apply_grant_role,
    RevokeRole: apply_revoke_role,
    RevokeGrant: apply_revoke_grant,
    **AGREEMENT_RULES,
    **MARKET_RULES,
    **PROOF_OF_SERVICE_RULES,
}
_NOBODY: Final = Account(0)


class Effect(msgspec.Struct, frozen=True):
    """What a transaction that was entitled to act did: `code` is "ok" or that of the rejection that undid it."""

    code: str
    fee: int
    events: Sequence[Event]
    weight: int = 0  # that was paid for
    spent: Spent | None = None  # by contracts


def execute_transaction(state: WorkingState, transaction: Transaction, base_fee: int, context: Context) -> Effect:
    """Execute one transaction.

    Raises a child of `Unpaid`, and has done nothing then, if the transaction may not act.
    """
    body = transaction.body
    sender, source = body.sender, account_key(body.sender)
    fee = base_fee * transaction.weight
    account, lane = _authorise(state, transaction, source, fee, context.height)
    balance = account.balance - fee
    if lane is None:
        state.put(source, Account(balance, account.sequence + 1, account.highest_lane, account.rekeyed))
    else:
        state.put(source, Account(balance, account.sequence, account.highest_lane, account.rekeyed))
        state.put(lane_key(sender, body.lane), _moved_on(lane, fee))
    mark = state.mark()
    events: Sequence[Event] = NO_EVENTS
    try:
        for operation in body.operations:
            told = RULES[type(operation)](state, sender, operation, context)
            if told:
                events = (*events, *told)
        if lane is not None:
            _spend(state, sender, body.lane, balance)
    except Failed as rejection:
        state.roll_back(mark)
        return _settled(state, transaction, base_fee, context, rejection.code, NO_EVENTS, rejection.message)
    return _settled(state, transaction, base_fee, context, OK, events)


def _settled(
    state: WorkingState,
    transaction: Transaction,
    base_fee: int,
    context: Context,
    code: str,
    events: Sequence[Event],
    reason: str = "",
) -> Effect:
    """The effect of a transaction, after the fuel that it reserved and did not use is given back."""
    body, weight = transaction.body, transaction.weight
    reserved = fuel_of(body.operations)
    if not reserved:
        return Effect(code, base_fee * weight, events, weight)
    spent = context.contracts.take_spent()
    unused = fuel_weight(reserved) - fuel_weight(spent.fuel)
    credit(state, body.sender, base_fee * unused)
    lane = state.get(lane_key(body.sender, body.lane), Lane) if body.lane else None
    if lane is not None:
        state.put(lane_key(body.sender, body.lane), replace(lane, cap=lane.cap + base_fee * unused))
    if code == OK:
        events = (*events, *told_by(spent))
    else:
        spent = Spent(spent.fuel, reason.encode("ascii", "backslashreplace")[:REASON_BYTES])
    weight -= unused
    return Effect(code, base_fee * weight, events, weight, spent)


def _authorise(
    state: WorkingState, transaction: Transaction, source: bytes, fee: int, height: int
) -> tuple[Account, Lane | None]:
    """The sender's account, and its lane unless that is the owner's. Raises Unpaid if the transaction may not act."""
    body = transaction.body
    sender = body.sender
    if height > body.valid_until:
        raise TransactionExpired(valid_until=body.valid_until, height=height)
    account = state.get(source, Account) or _NOBODY
    lane: Lane | None = None
    sequence, payable = account.sequence, account.balance
    if body.lane:
        lane = state.get(lane_key(sender, body.lane), Lane)
        if lane is None:
            raise UnknownLane(lane=body.lane)
        sequence, payable = lane.sequence, min(payable, lane.cap)
        if transaction.signers != (lane.key,):
            raise WrongSigner(lane=body.lane)
        if account.rekeyed and body.lane <= ended_lanes(state, sender):
            raise LaneEnded(lane=body.lane)
    elif account.rekeyed or transaction.signers != (sender,):
        authorise_keys(state, account, transaction)
    if body.sequence != sequence:
        raise (StaleSequence if body.sequence < sequence else FutureSequence)(sequence=body.sequence, next=sequence)
    if lane is not None:
        if height > lane.expires_height:
            raise LaneExpired(lane=body.lane, expires_height=lane.expires_height)
        for operation in body.operations:
            if TAGS[type(operation)] not in lane.allowed:
                raise OperationNotAllowed(lane=body.lane, tag=TAGS[type(operation)])
    if fee > body.fee_limit:
        raise FeeLimitTooLow(fee=fee, fee_limit=body.fee_limit)
    if fee > payable:
        raise FeeNotPayable(fee=fee, payable=payable)
    return account, lane


def _moved_on(lane: Lane, spent: int) -> Lane:
    """`lane` after a transaction that spent so much."""
    return Lane(lane.key, lane.allowed, lane.cap - spent, lane.expires_height, lane.deposit, lane.sequence + 1)


def _spend(state: WorkingState, sender: bytes, number: int, balance: int) -> None:
    """Take what the operations spent, starting from `balance`, off the lane's cap. Raises SpendingCapExceeded."""
    account = state.get(account_key(sender), Account) or _NOBODY
    spent = balance - account.balance
    place = lane_key(sender, number)
    lane = state.get(place, Lane)
    assert lane is not None, "a lane cannot close itself"
    if spent > lane.cap:
        raise SpendingCapExceeded(lane=number, spent=spent, cap=lane.cap)
    if spent > 0:
        state.put(
            place, Lane(lane.key, lane.allowed, lane.cap - spent, lane.expires_height, lane.deposit, lane.sequence)
        )
