"""Lists in the state: kept in pages, so that adding and removing rewrites one page, not the list.

Entries stay in the order in which they came. A page that was filled is never filled again, and one that has become
empty is removed, so a list in which nothing stays for long has few pages, however many entries it has seen.
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
    if pages.end == pages.first or pages.tail == PAGE_ENTRIES:
        pages = replace(pages, end=pages.end + 1, tail=0)
    key = page_key(listing, pages.end - 1)
    page = state.get(key, Page)
    state.put(key, Page((*(page.members if page is not None else ()), member)))
    return replace(pages, tail=pages.tail + 1, entries=pages.entries + 1)


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
    entries, first = pages.entries - len(gone), pages.first
    if not entries:
        return Pages(pages.end, pages.end, 0, 0)
    while state.get(page_key(listing, first), Page) is None:
        first += 1
    # The last page may be gone while others are left: the next entry begins a new one.
    tail = pages.tail if state.get(page_key(listing, pages.end - 1), Page) is not None else PAGE_ENTRIES
    return replace(pages, first=first, tail=tail, entries=entries)


def members(state: WorkingState, listing: bytes, pages: Pages) -> Iterable[bytes]:
    """All members, in the order in which they came."""
    for number in range(pages.first, pages.end):
        page = state.get(page_key(listing, number), Page)
        if page is not None:
            yield from page.members
