"""Names: who owns one, what it binds, and what may be done to it when.

A name is preordered with a salted hash and registered inside a window, so that nobody who sees the registration on its
way can be faster: he has no preorder old enough. Of two who preordered, the first to register gets it. A name lives for
a while, may be renewed, and after its expiry and a grace period is anybody's again. The rules are those of Blockstack's
name system, on which the article builds (`reference/sources.md` 6.2).

Who may register below whom: the nearest registered name above decides. `thermo.kitchen.acme` is for the owner of
`kitchen.acme` if that is registered (or in grace), else for the owner of `acme` if that is, else for anybody. Whoever
registers `acme` later gets no rights over names below it that exist by then. A sub-name, once registered, is its
owner's: the owner above cannot take it back.

`TRANSITIONS` is the whole life cycle. A status is not stored: it follows from the record and the height, so that expiry
needs no transaction and an idle chain writes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Final

from msgspec.structs import replace

from blockcloud.primitives.limits import INSTANCE_KEYS
from blockcloud.primitives.names import parent_of
from blockcloud.service_chain.accounts import NO_EVENTS, Context, Event, credit, debit
from blockcloud.service_chain.genesis import NamingParameters
from blockcloud.service_chain.operations import (
    AddInstance,
    Preorder,
    Register,
    RemoveInstance,
    RenewName,
    RevokeName,
    TransferName,
    UpdateName,
    name_commitment,
)
from blockcloud.service_chain.records import REGISTERED, REVOKED, FileRecord, NameRecord, PreorderRecord
from blockcloud.service_chain.rejections import (
    Failed,
    InstanceExists,
    NameChangedAlready,
    NameExpired,
    NameRevoked,
    NameTaken,
    NameTooDeep,
    NotNameOwner,
    NotParentOwner,
    PreorderExists,
    PreorderMissing,
    PreorderTooOld,
    PreorderTooYoung,
    TooManyInstances,
    UnknownInstance,
    UnknownName,
)
from blockcloud.service_chain.state_keys import file_key, name_key, preorder_key
from blockcloud.service_chain.working_state import WorkingState

# Each label above a new name costs a read.
NAME_LABELS: Final = 8


class NameStatus(Enum):
    """Where a name is in its life."""

    FREE = "free"  # never registered
    ACTIVE = "active"
    GRACE = "grace"  # expired; its owner may still renew it
    EXPIRED = "expired"  # and past its grace
    REVOKED = "revoked"


# What may be done to a name in which status: None where it may, else why not.
TRANSITIONS: Final[Mapping[NameStatus, Mapping[type, type[Failed] | None]]] = {
    NameStatus.FREE: {
        Register: None,
        UpdateName: UnknownName,
        AddInstance: UnknownName,
        RemoveInstance: UnknownName,
        TransferName: UnknownName,
        RenewName: UnknownName,
        RevokeName: UnknownName,
    },
    NameStatus.ACTIVE: {
        Register: NameTaken,
        UpdateName: None,
        AddInstance: None,
        RemoveInstance: None,
        TransferName: None,
        RenewName: None,
        RevokeName: None,
    },
    NameStatus.GRACE: {
        Register: NameTaken,
        UpdateName: NameExpired,
        AddInstance: NameExpired,
        RemoveInstance: NameExpired,
        TransferName: NameExpired,
        RenewName: None,
        RevokeName: NameExpired,
    },
    NameStatus.EXPIRED: {
        Register: None,
        UpdateName: NameExpired,
        AddInstance: NameExpired,
        RemoveInstance: NameExpired,
        TransferName: NameExpired,
        RenewName: NameExpired,
        RevokeName: NameExpired,
    },
    NameStatus.REVOKED: {
        Register: None,
        UpdateName: NameRevoked,
        AddInstance: NameRevoked,
        RemoveInstance: NameRevoked,
        TransferName: NameRevoked,
        RenewName: NameRevoked,
        RevokeName: NameRevoked,
    },
}


def status_of(record: NameRecord | None, height: int, naming: NamingParameters) -> NameStatus:
    """The status at `height` of a name whose record is `record`."""
    if record is None:
        return NameStatus.FREE
    if record.status == REVOKED:
        return NameStatus.REVOKED
    if height < record.expires_height:
        return NameStatus.ACTIVE
    return NameStatus.GRACE if height < record.expires_height + naming.grace else NameStatus.EXPIRED


def apply_preorder(state: WorkingState, sender: bytes, operation: Preorder, context: Context) -> Sequence[Event]:
    """Note a commitment. One whose window has closed may be made again."""
    key = preorder_key(operation.commitment, sender)
    earlier = state.get(key, PreorderRecord)
    if earlier is not None and context.height - earlier.height <= context.naming.preorder_max:
        raise PreorderExists(height=earlier.height)
    state.put(key, PreorderRecord(context.height))
    return NO_EVENTS


def apply_register(state: WorkingState, sender: bytes, operation: Register, context: Context) -> Sequence[Event]:
    """Register a preordered name against a deposit. Who had it before gets the old deposit back."""
    name = operation.name
    record = _permitted(state, name, Register, context)
    _check_parents(state, sender, name, context)
    _use_preorder(state, sender, operation, context)
    if record is not None:
        credit(state, record.owner, record.deposit)
        _unbind_file(state, record.service_file_hash)
    deposit = context.fees.new_key_deposit
    debit(state, sender, deposit)
    _bind_file(state, operation.service_file_hash)
    registered = NameRecord(
        name=name,
        owner=sender,
        service_file_hash=operation.service_file_hash,
        instance_keys=operation.instance_keys,
        registered_height=context.height,
        expires_height=context.height + context.naming.lifetime,
        changed_height=context.height,
        status=REGISTERED,
        deposit=deposit,
        previous_height=record.changed_height if record is not None else 0,
    )
    state.put(name_key(name), registered)
    return _changed(name)


def apply_update_name(state: WorkingState, sender: bytes, operation: UpdateName, context: Context) -> Sequence[Event]:
    """Bind another service file."""
    record = _owned(state, sender, operation.name, UpdateName, context)
    _unbind_file(state, record.service_file_hash)
    _bind_file(state, operation.service_file_hash)
    return _put(state, replace(record, service_file_hash=operation.service_file_hash), context)


def apply_add_instance(state: WorkingState, sender: bytes, operation: AddInstance, context: Context) -> Sequence[Event]:
    """Let one more key serve under the name."""
    record = _owned(state, sender, operation.name, AddInstance, context)
    if operation.key in record.instance_keys:
        raise InstanceExists(name=record.name)
    if len(record.instance_keys) >= INSTANCE_KEYS:
        raise TooManyInstances(name=record.name, limit=INSTANCE_KEYS)
    return _put(state, replace(record, instance_keys=(*record.instance_keys, operation.key)), context)


def apply_remove_instance(
    state: WorkingState, sender: bytes, operation: RemoveInstance, context: Context
) -> Sequence[Event]:
    """Take the right to serve under the name away from a key."""
    record = _owned(state, sender, operation.name, RemoveInstance, context)
    if operation.key not in record.instance_keys:
        raise UnknownInstance(name=record.name)
    left = tuple(key for key in record.instance_keys if key != operation.key)
    return _put(state, replace(record, instance_keys=left), context)


def apply_transfer_name(
    state: WorkingState, sender: bytes, operation: TransferName, context: Context
) -> Sequence[Event]:
    """Give the name, its remaining lifetime and its deposit to another owner, without its instance keys."""
    record = _owned(state, sender, operation.name, TransferName, context)
    return _put(state, replace(record, owner=operation.to, instance_keys=()), context)


def apply_renew_name(state: WorkingState, sender: bytes, operation: RenewName, context: Context) -> Sequence[Event]:
    """Start the lifetime anew. It counts from now, so that nobody can renew for centuries."""
    record = _owned(state, sender, operation.name, RenewName, context)
    return _put(state, replace(record, expires_height=context.height + context.naming.lifetime), context)


def apply_revoke_name(state: WorkingState, sender: bytes, operation: RevokeName, context: Context) -> Sequence[Event]:
    """Give the name up and get its deposit back. A bare record stays, which proves that it was revoked, and when."""
    record = _owned(state, sender, operation.name, RevokeName, context)
    _unbind_file(state, record.service_file_hash)
    credit(state, record.owner, record.deposit)
    revoked = replace(record, status=REVOKED, service_file_hash=b"", instance_keys=(), deposit=0)
    return _put(state, revoked, context)


def _permitted(state: WorkingState, name: str, operation: type, context: Context) -> NameRecord | None:
    """The record of `name` if `TRANSITIONS` and the one change a commit allow `operation`."""
    record = state.get(name_key(name), NameRecord)
    status = status_of(record, context.height, context.naming)
    rejection = TRANSITIONS[status][operation]
    if rejection is not None:
        raise rejection(name=name, status=status.value)
    if record is not None and record.changed_height == context.height:
        raise NameChangedAlready(name=name, height=context.height)
    return record


def _owned(state: WorkingState, sender: bytes, name: str, operation: type, context: Context) -> NameRecord:
    """The record of `name`, to which the sender may do `operation`."""
    record = _permitted(state, name, operation, context)
    assert record is not None, "every operation but Register is refused for a free name"
    if record.owner != sender:
        raise NotNameOwner(name=name)
    return record


def _check_parents(state: WorkingState, sender: bytes, name: str, context: Context) -> None:
    """Raise NotParentOwner if the nearest registered name above belongs to somebody else."""
    if name.count(".") >= NAME_LABELS:
        raise NameTooDeep(name=name, limit=NAME_LABELS)
    parent = parent_of(name)
    while parent:
        record = state.get(name_key(parent), NameRecord)
        if record is not None and status_of(record, context.height, context.naming) in _HELD:
            if record.owner != sender:
                raise NotParentOwner(name=name, parent=parent)
            return
        parent = parent_of(parent)


_HELD: Final = (NameStatus.ACTIVE, NameStatus.GRACE)


def _use_preorder(state: WorkingState, sender: bytes, operation: Register, context: Context) -> None:
    """Remove the preorder that opens to this registration. Raises unless there is one inside its window."""
    key = preorder_key(name_commitment(operation.name, operation.salt, sender), sender)
    preorder = state.get(key, PreorderRecord)
    if preorder is None:
        raise PreorderMissing(name=operation.name)
    age = context.height - preorder.height
    if age < context.naming.preorder_min:
        raise PreorderTooYoung(name=operation.name, commits=age, needed=context.naming.preorder_min)
    if age > context.naming.preorder_max:
        raise PreorderTooOld(name=operation.name, commits=age, limit=context.naming.preorder_max)
    state.delete(key)


def _bind_file(state: WorkingState, service_file_hash: bytes) -> None:
    """One more name announces this service file."""
    if service_file_hash:
        key = file_key(service_file_hash)
        record = state.get(key, FileRecord)
        state.put(key, FileRecord(1 if record is None else record.names + 1))


def _unbind_file(state: WorkingState, service_file_hash: bytes) -> None:
    """One name less announces it."""
    if service_file_hash:
        key = file_key(service_file_hash)
        record = state.get(key, FileRecord)
        assert record is not None, "a bound service file is counted"
        if record.names > 1:
            state.put(key, FileRecord(record.names - 1))
        else:
            state.delete(key)


def _put(state: WorkingState, record: NameRecord, context: Context) -> Sequence[Event]:
    """Store a changed name, linked to the change before."""
    linked = replace(record, changed_height=context.height, previous_height=record.changed_height)
    state.put(name_key(record.name), linked)
    return _changed(record.name)


def _changed(name: str) -> Sequence[Event]:
    return [("name", name.encode("ascii"))]
