"""Preorders: a commitment first, what it hides some commits later.

What is to be won (a name, a namespace) is first announced as a salted hash that binds it to its author, and taken some
commits later, inside a window. Whoever sees it being taken is too late: there is no preorder of his old enough. The
sender is also part of the key under which a preorder stands, so copying a commitment neither helps the copyist nor gets
in the author's way. DESIGN section 4; the scheme is Blockstack's (`reference/sources.md` 6.2).
"""

from __future__ import annotations

from collections.abc import Sequence

from blockcloud.service_chain.accounts import NO_EVENTS, Context, Event
from blockcloud.service_chain.operations import Preorder
from blockcloud.service_chain.records import PreorderRecord
from blockcloud.service_chain.rejections import PreorderExists, PreorderMissing, PreorderTooOld, PreorderTooYoung
from blockcloud.service_chain.state_keys import preorder_key
from blockcloud.service_chain.working_state import WorkingState


def apply_preorder(state: WorkingState, sender: bytes, operation: Preorder, context: Context) -> Sequence[Event]:
    """Note a commitment. One whose window has closed may be made again."""
    key = preorder_key(operation.commitment, sender)
    earlier = state.get(key, PreorderRecord)
    if earlier is not None and context.height - earlier.height <= context.naming.preorder_max:
        raise PreorderExists(height=earlier.height)
    state.put(key, PreorderRecord(context.height))
    return NO_EVENTS


def use_preorder(state: WorkingState, sender: bytes, name: str, commitment: bytes, context: Context) -> None:
    """Remove the preorder with this commitment, which opens to `name`. Raises unless there is one in its window."""
    key = preorder_key(commitment, sender)
    preorder = state.get(key, PreorderRecord)
    if preorder is None:
        raise PreorderMissing(name=name)
    age = context.height - preorder.height
    if age < context.naming.preorder_min:
        raise PreorderTooYoung(name=name, commits=age, needed=context.naming.preorder_min)
    if age > context.naming.preorder_max:
        raise PreorderTooOld(name=name, commits=age, limit=context.naming.preorder_max)
    state.delete(key)
