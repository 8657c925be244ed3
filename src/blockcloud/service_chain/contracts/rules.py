"""The two operations of contracts: deploy and call."""

from __future__ import annotations

from collections.abc import Sequence

from blockcloud.primitives.addresses import format_address
from blockcloud.service_chain.accounts import NO_EVENTS, Context, Event
from blockcloud.service_chain.contracts.runtime import Call, Spent
from blockcloud.service_chain.operations import CallContract, Deploy
from blockcloud.service_chain.working_state import WorkingState


def apply_deploy(state: WorkingState, sender: bytes, operation: Deploy, context: Context) -> Sequence[Event]:
    """Make a contract and run its `init`; its address is the output unless `init` has one of its own."""
    call = Call(
        b"", sender, "", operation.arguments, operation.value, operation.fuel_limit, context.height,
        context.fees.new_key_deposit,
    )  # fmt: skip
    address = context.contracts.deploy(state, operation.code, operation.salt, call, operation.deposit_limit)
    return [("contract_deployed", format_address(address).encode("ascii"))]


def apply_call(state: WorkingState, sender: bytes, operation: CallContract, context: Context) -> Sequence[Event]:
    """Call a method of a contract."""
    call = Call(
        operation.contract, sender, operation.method, operation.arguments, operation.value, operation.fuel_limit,
        context.height, context.fees.new_key_deposit,
    )  # fmt: skip
    context.contracts.call(state, call, operation.deposit_limit)
    return NO_EVENTS


def told_by(spent: Spent) -> Sequence[Event]:
    """What the contracts of a transaction told, for subscribers: address, topic, data in hexadecimal."""
    return [
        ("contract", b" ".join((format_address(item.contract).encode("ascii"), item.topic, item.data.hex().encode())))
        for item in spent.events
    ]
