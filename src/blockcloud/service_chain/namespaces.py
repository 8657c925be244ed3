"""Namespaces: a last label ("lab" in "thermo.lab") below which everybody registers, by rules of its own.

Who wins a namespace opens it in three steps. A preorder hides the label, with a commitment of another domain than a
name's. The reveal, inside the preorder's window, names the rules that hold from then on: price, lifetime and grace of
the names directly below the label. It costs a price by the label's length, which is burned, and a deposit. Then the
owner puts in the names that are to be there from the start (`delegation.py`), free of price and preorder, and says that
the namespace is ready; if that does not come in time, the namespace lapses and anybody may open it again. From then on
the owner has no more rights than anybody: names are registered and renewed against the price of the rule, which is
burned, whoever asks. What is ready stays ready, and a rule never changes.

These rules are for direct children only. A deeper name belongs to whoever holds the nearest registered name above it,
as everywhere, and lives by the chain's own rules; where nobody holds one, it cannot be had. A label is a name or a
namespace, never both at a time. Names that are there when a namespace is opened above them live on by the chain's own
rules, or who opens it could make others pay dear for what they have.

Like a name's, a namespace's status is not stored: it follows from the record and the height. The steps are Blockstack's
(`reference/sources.md` 6.2); unlike there nothing is ever paid to who opened it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from msgspec.structs import replace

from blockcloud.primitives.names import parent_of
from blockcloud.service_chain.accounts import Context, Event, credit, debit
from blockcloud.service_chain.genesis import NamingParameters
from blockcloud.service_chain.name_price import highest_price, price_of_label
from blockcloud.service_chain.namespace_rejections import (
    LabelIsName,
    NamespaceIsReady,
    NamespaceLapsed,
    NamespaceNotReady,
    NamespaceRuleOutOfBounds,
    NamespaceTaken,
    NotNamespaceOwner,
    PriceAboveLimit,
    UnknownNamespace,
)
from blockcloud.service_chain.operations import (
    Delegate,
    ReadyNamespace,
    Register,
    RevealNamespace,
    namespace_commitment,
)
from blockcloud.service_chain.preorders import use_preorder
from blockcloud.service_chain.records import NameRecord, NamespaceRecord
from blockcloud.service_chain.rejections import Failed, UnknownName
from blockcloud.service_chain.staking import burn
from blockcloud.service_chain.state_keys import name_key, namespace_key
from blockcloud.service_chain.working_state import WorkingState

# What a label of up to so many characters costs, as a multiple of the genesis' `namespace_price`.
LENGTH_FACTORS: Final = ((1, 1_000), (3, 100), (7, 10))


class NamespaceStatus(Enum):
    """Where a namespace is in its life."""

    FREE = "free"  # never opened
    IMPORTING = "importing"  # revealed: only its owner puts names in
    READY = "ready"
    LAPSED = "lapsed"  # was not ready in time: as if never opened


# What may be done in a namespace in which status: None where it may, else why not. `Delegate` puts names directly below
# the label, `Register` takes one of those. Where a label is not an open namespace, the rules of names go on from there.
NAMESPACE_TRANSITIONS: Final[Mapping[NamespaceStatus, Mapping[type, type[Failed] | None]]] = {
    NamespaceStatus.FREE: {
        RevealNamespace: None,
        ReadyNamespace: UnknownNamespace,
        Delegate: UnknownName,
        Register: None,
    },
    NamespaceStatus.IMPORTING: {
        RevealNamespace: NamespaceTaken,
        ReadyNamespace: None,
        Delegate: None,
        Register: NamespaceNotReady,
    },
    NamespaceStatus.READY: {
        RevealNamespace: NamespaceTaken,
        ReadyNamespace: NamespaceIsReady,
        Delegate: NamespaceIsReady,
        Register: None,
    },
    NamespaceStatus.LAPSED: {
        RevealNamespace: None,
        ReadyNamespace: NamespaceLapsed,
        Delegate: UnknownName,
        Register: None,
    },
}
OPEN: Final = (NamespaceStatus.IMPORTING, NamespaceStatus.READY)


@dataclass(frozen=True, slots=True)
class Terms:
    """What registering or renewing a name means: micro-BLOC to burn, and commits."""

    price: int
    lifetime: int
    grace: int
    namespace: str  # whose rules these are; empty: the chain's


def namespace_status(record: NamespaceRecord | None, height: int) -> NamespaceStatus:
    """The status at `height` of a namespace whose record is `record`."""
    if record is None:
        return NamespaceStatus.FREE
    if record.ready_height:
        return NamespaceStatus.READY
    return NamespaceStatus.IMPORTING if height < record.lapses_height else NamespaceStatus.LAPSED


def opening_price(label: str, naming: NamingParameters) -> int:
    """Micro-BLOC that opening the namespace costs, beside the deposit. Short labels are few."""
    factor = next((factor for length, factor in LENGTH_FACTORS if len(label) <= length), 1)
    return naming.namespace_price * factor


def terms_of(
    name: str, namespace: NamespaceRecord | None, height: int, naming: NamingParameters, since: int | None = None
) -> Terms:
    """By which rules `name` is registered at `height`, or renewed if it was registered at `since`; `namespace` is the
    record of its parent, if any."""
    own = Terms(0, naming.lifetime, naming.grace, "")
    if namespace is None or namespace_status(namespace, height) not in OPEN:
        return own
    if since is not None and since < namespace.revealed_height:
        return own
    price = price_of_label(namespace.rule, name.partition(".")[0])
    return Terms(price, namespace.lifetime, namespace.grace, namespace.label)


def namespace_of(state: WorkingState, label: str) -> NamespaceRecord | None:
    """The record of a namespace. A text with several labels, or none, is never one."""
    return None if not label or "." in label else state.get(namespace_key(label), NamespaceRecord)


def terms_now(state: WorkingState, name: str, context: Context, since: int | None = None) -> Terms:
    """By which rules `name` is registered now, or renewed if it was registered at `since`."""
    return terms_of(name, namespace_of(state, parent_of(name)), context.height, context.naming, since)


def pay(state: WorkingState, sender: bytes, name: str, terms: Terms, limit: int) -> None:
    """Burn the price of a name. Raises PriceAboveLimit or InsufficientBalance."""
    if terms.price > limit:
        raise PriceAboveLimit(name=name, price=terms.price, limit=limit)
    if terms.price:
        debit(state, sender, terms.price)
        burn(state, terms.price)


def apply_reveal_namespace(
    state: WorkingState, sender: bytes, operation: RevealNamespace, context: Context
) -> Sequence[Event]:
    """Open a preordered namespace. Who opened it before and let it lapse gets the old deposit back."""
    label, naming = operation.label, context.naming
    record = _permitted(state, label, RevealNamespace, context)
    name = state.get(name_key(label), NameRecord)
    if name is not None and name.is_held(context.height):
        raise LabelIsName(label=label)
    if highest_price(operation.rule) > naming.name_price_max:
        raise NamespaceRuleOutOfBounds(price=highest_price(operation.rule), limit=naming.name_price_max)
    if max(operation.lifetime, operation.grace) > naming.lifetime_max:
        commits = max(operation.lifetime, operation.grace)
        raise NamespaceRuleOutOfBounds(commits=commits, limit=naming.lifetime_max)
    use_preorder(state, sender, label, namespace_commitment(label, operation.salt, sender), context)
    if record is not None:
        credit(state, record.owner, record.deposit)
    price, deposit = opening_price(label, naming), context.fees.new_key_deposit
    debit(state, sender, price + deposit)
    burn(state, price)
    opened = NamespaceRecord(
        label=label,
        owner=sender,
        rule=operation.rule,
        lifetime=operation.lifetime,
        grace=operation.grace,
        revealed_height=context.height,
        lapses_height=context.height + naming.ready_max,
        ready_height=0,
        deposit=deposit,
    )
    state.put(namespace_key(label), opened)
    return _changed(label)


def apply_ready_namespace(
    state: WorkingState, sender: bytes, operation: ReadyNamespace, context: Context
) -> Sequence[Event]:
    """Open a namespace to everybody, for good."""
    record = _permitted(state, operation.label, ReadyNamespace, context)
    assert record is not None, "only Reveal is for a namespace that was never opened"
    if record.owner != sender:
        raise NotNamespaceOwner(namespace=record.label)
    state.put(namespace_key(record.label), replace(record, ready_height=context.height))
    return _changed(record.label)


def check_namespace(record: NamespaceRecord | None, label: str, operation: type, height: int) -> None:
    """Raise what `NAMESPACE_TRANSITIONS` says against `operation` in the namespace `label` with this record."""
    status = namespace_status(record, height)
    rejection = NAMESPACE_TRANSITIONS[status][operation]
    if rejection is not None:
        raise rejection(namespace=label, status=status.value)


def _permitted(state: WorkingState, label: str, operation: type, context: Context) -> NamespaceRecord | None:
    """The record of the namespace, if the table allows `operation`."""
    record = namespace_of(state, label)
    check_namespace(record, label, operation, context.height)
    return record


def _changed(label: str) -> Sequence[Event]:
    return [("namespace", label.encode("ascii"))]
