"""Lists in pages against a plain list: the same members in the same order, and no more pages than they need."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from blockcloud.service_chain.market.keys import page_key
from blockcloud.service_chain.market.listing import PAGE_ENTRIES, add, members, remove
from blockcloud.service_chain.market.records import Page, Pages
from blockcloud.service_chain.working_state import WorkingState

LISTING = b"Ltest"
STEPS = st.lists(st.tuples(st.booleans(), st.integers(1, 2 * PAGE_ENTRIES), st.integers(0, 99)), max_size=12)


@given(STEPS)
def test_a_list_in_pages_is_a_list(steps: list[tuple[bool, int, int]]) -> None:
    state, pages = WorkingState(dict[bytes, bytes]().get), Pages()
    kept: dict[bytes, int] = {}
    number = 0
    for grows, count, place in steps:
        if grows:
            for _ in range(count):
                number += 1
                pages = add(state, LISTING, pages, number.to_bytes(32))
                kept[number.to_bytes(32)] = pages.end - 1
        elif kept:
            at = place % len(kept)
            gone = dict(list(kept.items())[at : at + count])
            pages = remove(state, LISTING, pages, gone)
            kept = {member: page for member, page in kept.items() if member not in gone}
        assert list(members(state, LISTING, pages)) == list(kept)
        assert pages.entries == len(kept)
        there = [page for page in range(number + 1) if state.get(page_key(LISTING, page), Page) is not None]
        assert there == list(dict.fromkeys(kept.values()))
        assert (pages.first, pages.end) == ((there[0], there[-1] + 1) if there else (0, 0))


def test_adding_and_removing_again_and_again_leaves_nothing() -> None:
    state = WorkingState(dict[bytes, bytes]().get)
    pages = add(state, LISTING, Pages(), bytes(32))
    for number in range(1, 10 * PAGE_ENTRIES):
        member = number.to_bytes(32)
        pages = add(state, LISTING, pages, member)
        pages = remove(state, LISTING, pages, {member: pages.end - 1})
    assert pages == Pages(0, 1, 1)
