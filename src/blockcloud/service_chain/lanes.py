"""Lanes: further lines of transactions of one account, each with its own key, permissions, cap and expiry.

That is what a device carries instead of its owner's key. Lane 0 is the owner's and lives in the Account record, so that
a transfer touches two state keys. Only the owner opens and closes lanes. A lane's number is never used again: its old
transactions stay stale for ever.
"""

from __future__ import annotations

from collections.abc import Sequence

from blockcloud.service_chain.accounts import Context, Event, credit, debit
from blockcloud.service_chain.operations import CloseLane, OpenLane
from blockcloud.service_chain.records import Account, Lane
from blockcloud.service_chain.rejections import InsufficientBalance, LaneAlreadyOver, LaneNotOpen, LaneNumberUsed
from blockcloud.service_chain.state_keys import account_key, lane_key
from blockcloud.service_chain.working_state import WorkingState


def apply_open_lane(state: WorkingState, sender: bytes, operation: OpenLane, context: Context) -> Sequence[Event]:
    """Open a lane against a deposit, which `CloseLane` returns."""
    key = account_key(sender)
    account = state.get(key, Account)
    if account is None:
        raise InsufficientBalance(balance=0)
    if operation.lane <= account.highest_lane:
        raise LaneNumberUsed(lane=operation.lane, highest=account.highest_lane)
    if operation.expires_height < context.height:
        raise LaneAlreadyOver(expires_height=operation.expires_height, height=context.height)
    deposit = context.fees.lane_deposit
    state.put(key, Account(account.balance, account.sequence, operation.lane, account.rekeyed))
    debit(state, sender, deposit)
    place = lane_key(sender, operation.lane)
    state.get(place, Lane)
    state.put(place, Lane(operation.key, operation.allowed, operation.cap, operation.expires_height, deposit))
    return [("lane", place)]


def apply_close_lane(state: WorkingState, sender: bytes, operation: CloseLane, context: Context) -> Sequence[Event]:
    """Close a lane, expired or not, and return its deposit."""
    place = lane_key(sender, operation.lane)
    lane = state.get(place, Lane)
    if lane is None:
        raise LaneNotOpen(lane=operation.lane)
    state.delete(place)
    credit(state, sender, lane.deposit)
    return [("lane", place)]
