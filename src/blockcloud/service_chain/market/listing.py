"""Lists in the state: kept in pages, so that adding and removing rewrites one page, not the list.

Entries stay in the order in which they came: only the last page is filled up. A page that has become empty is removed,
and at both ends the list gets shorter with it: adding and removing the same thing again and again leaves nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from msgspec.structs import replace

from blockcloud.service_chain.market.keys import page_key
from blockcloud.service_chain.market.records import Page, Pages
from blockcloud.service_chain.working_state import WorkingState

PAGE_ENTRIES: Final = 32


def add(state: WorkingState, listing: bytes, pages: Pages, member: bytes) -> Pages:
    """The list with `member` at its end; it stands on the page `end - 1` of the result."""
    last = state.get(page_key(listing, pages.end - 1), Page) if pages.entries else None
    if last is None or len(last.members) == PAGE_ENTRIES:
        state.get(page_key(listing, pages.end), Page)
        state.put(page_key(listing, pages.end), Page((member,)))
        return replace(pages, end=pages.end + 1, entries=pages.entries + 1)
    state.put(page_key(listing, pages.end - 1), Page((*last.members, member)))
    return replace(pages, entries=pages.entries + 1)


def remove(state: WorkingState, listing: bytes, pages: Pages, gone: Mapping[bytes, int]) -> Pages:
    """The list without the members in `gone`, each with the page that it stands on."""
    for number in sorted(dict.fromkeys(gone.values())):
        key = page_key(listing, number)
        page = state.get(key, Page)
        assert page is not None, "who is listed stands on a page"
        left = tuple([member for member in page.members if member not in gone])
        if left:
            state.put(key, Page(left))
        else:
            state.delete(key)
    first, end, entries = pages.first, pages.end, pages.entries - len(gone)
    if not entries:
        return Pages()
    while state.get(page_key(listing, first), Page) is None:
        first += 1
    while state.get(page_key(listing, end - 1), Page) is None:
        end -= 1
    return Pages(first, end, entries)


def members(state: WorkingState, listing: bytes, pages: Pages) -> Iterable[bytes]:
    """All members, in the order in which they came."""
    for number in range(pages.first, pages.end):
        page = state.get(page_key(listing, number), Page)
        if page is not None:
            yield from page.members
