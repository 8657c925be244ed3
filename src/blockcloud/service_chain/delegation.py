"""Sub-names in batches: whoever alone may register directly below a name puts many names there with one operation.

The owner of a held name delegates names directly below it to others, or to itself; the owner of a namespace that is not
ready yet puts in the names that are to be there from the start. Since nobody else may register there, there is nobody
to run in front of, so no preorder is needed. A delegated name is its owner's like any other: who delegated it cannot
take it back. Each costs a deposit, and weighs in the fee (`fees.py`). All or nothing. DESIGN section 4.
"""

from __future__ import annotations

from collections.abc import Sequence

from blockcloud.service_chain.accounts import Context, Event
from blockcloud.service_chain.names import NewName, check_depth, check_name, permitted, put_new_name
from blockcloud.service_chain.namespace_rejections import NotNamespaceOwner
from blockcloud.service_chain.namespaces import (
    OPEN,
    check_namespace,
    namespace_of,
    namespace_status,
    terms_of,
)
from blockcloud.service_chain.operations import Delegate, Register
from blockcloud.service_chain.records import NameRecord, NamespaceRecord
from blockcloud.service_chain.rejections import NotNameOwner
from blockcloud.service_chain.state_keys import name_key
from blockcloud.service_chain.working_state import WorkingState


def apply_delegate(state: WorkingState, sender: bytes, operation: Delegate, context: Context) -> Sequence[Event]:
    """Register names directly below `parent`. Raises for the first that cannot be; then none is."""
    parent = operation.parent
    namespace = _importing(state, sender, parent, context)
    if namespace is None:
        _check_parent(state, sender, parent, context)
    events: list[Event] = []
    for entry in operation.entries:
        name = f"{entry.label}.{parent}"
        check_depth(name)
        earlier = permitted(state, name, Register, context)
        terms = terms_of(name, namespace, context.height, context.naming)
        new = NewName(name, entry.owner, entry.service_file_hash, entry.instance_keys)
        events.extend(put_new_name(state, sender, new, earlier, terms, context))
    return events


def _importing(state: WorkingState, sender: bytes, parent: str, context: Context) -> NamespaceRecord | None:
    """The sender's namespace that is not ready yet; None if `parent` is no open namespace."""
    namespace = namespace_of(state, parent)
    if namespace is None or namespace_status(namespace, context.height) not in OPEN:
        return None
    check_namespace(namespace, parent, Delegate, context.height)
    if namespace.owner != sender:
        raise NotNamespaceOwner(namespace=parent)
    return namespace


def _check_parent(state: WorkingState, sender: bytes, parent: str, context: Context) -> None:
    """Raise unless `parent` is a name that the sender holds. Delegating below it is no change of it."""
    record = state.get(name_key(parent), NameRecord)
    check_name(record, parent, Delegate, context.height)
    assert record is not None, "the table refuses a free name"
    if record.owner != sender:
        raise NotNameOwner(name=parent)
