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
from dataclasses import dataclass
from enum import Enum
from typing import Final

from msgspec.structs import replace

from blockcloud.primitives.limits import INSTANCE_KEYS
from blockcloud.primitives.names import parent_of
from blockcloud.service_chain.accounts import Context, Event, credit, debit
from blockcloud.service_chain.namespace_rejections import LabelIsNamespace, ParentNotHeld
from blockcloud.service_chain.namespaces import (
    OPEN,
    Terms,
    check_namespace,
    namespace_of,
    namespace_status,
    pay,
    terms_now,
)
from blockcloud.service_chain.operations import (
    AddInstance,
    Delegate,
    Register,
    RemoveInstance,
    RenewName,
    RevokeName,
    TransferName,
    UpdateName,
    name_commitment,
)
from blockcloud.service_chain.preorders import use_preorder
from blockcloud.service_chain.records import REGISTERED, REVOKED, FileRecord, NameRecord
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
    TooManyInstances,
    UnknownInstance,
    UnknownName,
)
from blockcloud.service_chain.state_keys import file_key, name_key
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
        Delegate: UnknownName,
    },
    NameStatus.ACTIVE: {
        Register: NameTaken,
        UpdateName: None,
        AddInstance: None,
        RemoveInstance: None,
        TransferName: None,
        RenewName: None,
        RevokeName: None,
        Delegate: None,
    },
    NameStatus.GRACE: {
        Register: NameTaken,
        UpdateName: NameExpired,
        AddInstance: NameExpired,
        RemoveInstance: NameExpired,
        TransferName: NameExpired,
        RenewName: None,
        RevokeName: NameExpired,
        Delegate: None,
    },
    NameStatus.EXPIRED: {
        Register: None,
        UpdateName: NameExpired,
        AddInstance: NameExpired,
        RemoveInstance: NameExpired,
        TransferName: NameExpired,
        RenewName: NameExpired,
        RevokeName: NameExpired,
        Delegate: NameExpired,
    },
    NameStatus.REVOKED: {
        Register: None,
        UpdateName: NameRevoked,
        AddInstance: NameRevoked,
        RemoveInstance: NameRevoked,
        TransferName: NameRevoked,
        RenewName: NameRevoked,
        RevokeName: NameRevoked,
        Delegate: NameRevoked,
    },
}


def status_of(record: NameRecord | None, height: int) -> NameStatus:
    """The status at `height` of a name whose record is `record`."""
    if record is None:
        return NameStatus.FREE
    if record.status == REVOKED:
        return NameStatus.REVOKED
    if record.is_active(height):
        return NameStatus.ACTIVE
    return NameStatus.GRACE if record.is_held(height) else NameStatus.EXPIRED


@dataclass(frozen=True, slots=True)
class NewName:
    """What a registration or a delegation is about."""

    name: str
    owner: bytes
    service_file_hash: bytes
    instance_keys: tuple[bytes, ...]


def apply_register(state: WorkingState, sender: bytes, operation: Register, context: Context) -> Sequence[Event]:
    """Register a preordered name against a deposit, and the price where its namespace has one."""
    name = operation.name
    earlier = permitted(state, name, Register, context)
    _check_above(state, sender, name, context)
    use_preorder(state, sender, name, name_commitment(name, operation.salt, sender), context)
    terms = terms_now(state, name, context)
    pay(state, sender, name, terms, operation.price_limit)
    new = NewName(name, sender, operation.service_file_hash, operation.instance_keys)
    return put_new_name(state, sender, new, earlier, terms, context)


def put_new_name(
    state: WorkingState, payer: bytes, new: NewName, earlier: NameRecord | None, terms: Terms, context: Context
) -> Sequence[Event]:
    """Store a name against a deposit of `payer`. Who had it before gets the old deposit back."""
    if earlier is not None:
        credit(state, earlier.owner, earlier.deposit)
        _unbind_file(state, earlier.service_file_hash)
    deposit = context.fees.new_key_deposit
    debit(state, payer, deposit)
    _bind_file(state, new.service_file_hash)
    expires_height = context.height + terms.lifetime
    registered = NameRecord(
        name=new.name,
        owner=new.owner,
        service_file_hash=new.service_file_hash,
        instance_keys=new.instance_keys,
        registered_height=context.height,
        expires_height=expires_height,
        changed_height=context.height,
        status=REGISTERED,
        deposit=deposit,
        previous_height=earlier.changed_height if earlier is not None else 0,
        held_until_height=expires_height + terms.grace,
    )
    state.put(name_key(new.name), registered)
    return _changed(new.name)


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
    """Start the lifetime anew, by the rules that hold for the name now. It counts from now, so that nobody can renew
    for centuries."""
    record = _owned(state, sender, operation.name, RenewName, context)
    terms = terms_now(state, record.name, context, record.registered_height)
    pay(state, sender, record.name, terms, operation.price_limit)
    expires_height = context.height + terms.lifetime
    renewed = replace(record, expires_height=expires_height, held_until_height=expires_height + terms.grace)
    return _put(state, renewed, context)


def apply_revoke_name(state: WorkingState, sender: bytes, operation: RevokeName, context: Context) -> Sequence[Event]:
    """Give the name up and get its deposit back. A bare record stays, which proves that it was revoked, and when."""
    record = _owned(state, sender, operation.name, RevokeName, context)
    _unbind_file(state, record.service_file_hash)
    credit(state, record.owner, record.deposit)
    revoked = replace(record, status=REVOKED, service_file_hash=b"", instance_keys=(), deposit=0)
    return _put(state, revoked, context)


def permitted(state: WorkingState, name: str, operation: type, context: Context) -> NameRecord | None:
    """The record of `name` if `TRANSITIONS` and the one change a commit allow `operation`."""
    record = state.get(name_key(name), NameRecord)
    check_name(record, name, operation, context.height)
    if record is not None and record.changed_height == context.height:
        raise NameChangedAlready(name=name, height=context.height)
    return record


def check_name(record: NameRecord | None, name: str, operation: type, height: int) -> None:
    """Raise what `TRANSITIONS` says against `operation` on the name with this record."""
    status = status_of(record, height)
    rejection = TRANSITIONS[status][operation]
    if rejection is not None:
        raise rejection(name=name, status=status.value)


def _owned(state: WorkingState, sender: bytes, name: str, operation: type, context: Context) -> NameRecord:
    """The record of `name`, to which the sender may do `operation`."""
    record = permitted(state, name, operation, context)
    assert record is not None, "every operation but Register is refused for a free name"
    if record.owner != sender:
        raise NotNameOwner(name=name)
    return record


def check_depth(name: str) -> None:
    """Raise NameTooDeep if it has too many labels."""
    if name.count(".") >= NAME_LABELS:
        raise NameTooDeep(name=name, limit=NAME_LABELS)


def _check_above(state: WorkingState, sender: bytes, name: str, context: Context) -> None:
    """Raise unless what stands above a new name leaves it to the sender: the nearest registered name, else the
    namespace."""
    check_depth(name)
    parent = parent_of(name)
    while parent:
        record = state.get(name_key(parent), NameRecord)
        if record is not None and record.is_held(context.height):
            if record.owner != sender:
                raise NotParentOwner(name=name, parent=parent)
            return
        parent = parent_of(parent)
    label = name.rpartition(".")[2]
    namespace = namespace_of(state, label)
    if namespace_status(namespace, context.height) not in OPEN:
        return
    if name == label:
        raise LabelIsNamespace(label=label)
    if parent_of(name) != label:
        raise ParentNotHeld(name=name, namespace=label)
    check_namespace(namespace, label, Register, context.height)


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
