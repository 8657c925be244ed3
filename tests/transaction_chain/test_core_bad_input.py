"""The core among others of its kind: what it fetches, what it refuses, and that nobody can fill its memory."""

from __future__ import annotations

import msgspec
import pytest

from blockcloud.primitives.errors import BadConfiguration
from blockcloud.primitives.limits import CLOCK_AHEAD_MS, FETCH_RETRY_MS, HELD_BACK_BLOCKS, SUSPENDED_BLOCKS
from blockcloud.transaction_chain.block import BlockReference, sign_block
from blockcloud.transaction_chain.commit import EraStart
from blockcloud.transaction_chain.core import EVIDENCE_PER_MEMBER, Core
from blockcloud.transaction_chain.mempool import Mempool
from blockcloud.transaction_chain.messages import FetchBlocks, FetchLevels
from blockcloud.transaction_chain.parameters import Parameters
from blockcloud.transaction_chain.suspension import UNDER_WAY_MS
from blockcloud.transaction_chain.threshold_clock import ThresholdClock
from tests.transaction_chain.core_blocks import (
    KEYS,
    NOWHERE,
    full_levels,
    genesis_parents,
    make_block,
    observer,
)
from tests.transaction_chain.core_loop import (
    CHAIN,
    GENESIS,
    PARAMETERS,
    START_MS,
    Loop,
    committee_of,
    make_core,
)

# Fetching


def test_missing_parents_are_asked_of_the_sender_then_of_others() -> None:
    rows = full_levels(2, authors=(1, 2, 3))
    core = observer()
    for peer in (1, 2, 3):
        core.peer_connected(peer, START_MS)
    core.receive_block(rows[1][1], 2, START_MS)
    assert core.ready().send == [], "they may be under way"
    now_ms = START_MS + UNDER_WAY_MS
    assert core.next_timer() == now_ms
    asked = []
    for _ in range(3):
        core.tick(now_ms)
        ((peer, request),) = core.ready().send
        assert request == FetchBlocks(rows[1][1].parents)
        asked.append(peer)
        now_ms += FETCH_RETRY_MS
        assert core.next_timer() == now_ms
    assert asked == [2, 1, 3]
    core.receive_blocks(rows[0], 3, now_ms)
    assert [block.reference for block in core.ready().persist] == [
        *(b.reference for b in rows[0]),
        rows[1][1].reference,
    ]
    assert core.next_timer() is None


def test_a_parent_that_waits_itself_is_not_asked_for() -> None:
    rows = full_levels(3, authors=(1, 2, 3))
    core = observer()
    core.peer_connected(1, START_MS)
    core.receive_block(rows[2][0], 1, START_MS)
    for block in rows[1]:
        core.receive_block(block, 1, START_MS)
    core.tick(START_MS + 1_000)
    ((_, request),) = core.ready().send
    assert request == FetchBlocks(rows[1][0].parents)
    core.receive_blocks(rows[0], 1, START_MS + 1_000)
    assert len(core.ready().persist) == 7


def test_a_parent_that_was_collected_is_missed_no_more() -> None:
    core = make_core(KEYS, None, parameters=Parameters(gc_depth_levels=8))
    rows = full_levels(14, authors=(1, 2, 3))
    for block in (block for row in rows[:9] for block in row):
        core.receive_block(block, block.author, START_MS)
    parents = [*(block.reference for block in rows[8]), BlockReference(2, 0, NOWHERE)]
    child = make_block(1, 10, parents, START_MS + 1)
    core.receive_block(child, 1, START_MS)
    for block in (block for row in rows[9:11] for block in row):
        core.receive_block(block, block.author, START_MS)
    assert child.reference not in core.dag
    for block in (block for row in rows[11:] for block in row):
        core.receive_block(block, block.author, START_MS)
    assert core.dag.gc_level >= 2
    assert child.reference in core.dag


def test_an_older_parent_is_asked_for_at_once() -> None:
    rows = full_levels(4, authors=(1, 2, 3))
    late = make_block(0, 1, genesis_parents())
    core = observer()
    core.peer_connected(1, START_MS)
    for block in (block for row in rows for block in row):
        core.receive_block(block, block.author, START_MS)
    child = make_block(1, 5, [*(block.reference for block in rows[3]), late.reference])
    core.receive_block(child, 1, START_MS)
    assert core.ready().send == [(1, FetchBlocks((late.reference,)))]


def test_a_cut_off_node_gets_what_it_missed() -> None:
    cut = [False]
    loop = Loop(delay_ms=lambda sender, receiver, count: None if cut[0] and 3 in (sender, receiver) else 2)
    loop.run(500)
    cut[0] = True
    loop.run(2_000)
    cut[0] = False
    loop.run_until(lambda: len(loop.nodes[3].records) >= len(loop.nodes[0].records) - 1)
    loop.assert_agreement()


@pytest.mark.parametrize("busy_ms", [2_000, 10_000], ids=["from memory", "from the stores of others"])
def test_a_lagging_node_catches_up_in_ranges(busy_ms: int) -> None:
    loop = Loop()
    loop.crash(3)
    start_ms = loop.now_ms
    number = 0
    while loop.now_ms < start_ms + busy_ms:
        loop.submit(number % 3, b"%d" % number)
        loop.run(20)
        number += 1
    signed = len(loop.signed)
    loop.restart(3)
    loop.run_until(lambda: len(loop.nodes[3].records) >= len(loop.nodes[0].records) - 1)
    assert len([message for _, message in loop.sent if isinstance(message, FetchLevels)]) >= busy_ms // 20 // 64
    assert not loop.nodes[3].core.is_lagging
    loop.run_until(lambda: any(author == 3 for author, _ in list(loop.signed)[signed:]))
    first_level = min(level for author, level in list(loop.signed)[signed:] if author == 3)
    assert first_level >= max(level for author, level in list(loop.signed)[:signed] if author == 0), "no old levels"
    loop.assert_agreement()


def test_one_liar_ahead_does_not_stop_a_node() -> None:
    loop = Loop()
    loop.run(1_000)
    far = make_block(3, 10**6, [BlockReference(10**6 - 1, author, NOWHERE) for author in range(4)], loop.now_ms)
    loop.inject(0, 3, far)
    assert not loop.nodes[0].core.is_lagging
    level = loop.nodes[0].core.level
    loop.run(3_000)
    assert loop.nodes[0].core.level > level + 8


def test_answers_from_memory() -> None:
    core = observer()
    rows = full_levels(5)
    for block in (block for row in rows for block in row):
        core.receive_block(block, block.author, START_MS)
    unknown = BlockReference(3, 0, NOWHERE)
    wanted = FetchBlocks((rows[4][0].reference, unknown, rows[1][2].reference))
    assert core.blocks_for(wanted) == [rows[1][2], rows[4][0]]
    assert core.blocks_for(FetchLevels(2, 3)) == [*rows[1], *rows[2]]
    assert core.blocks_for(FetchLevels(5, 60)) == rows[4]
    assert core.blocks_for(FetchLevels(6, 60)) == []


# Bad input


def test_a_block_before_its_parent_in_time_is_refused() -> None:
    core = observer()
    parents = [make_block(author, 1, genesis_parents(), START_MS + 10 * author) for author in range(4)]
    for block in parents:
        core.receive_block(block, block.author, START_MS)
    core.ready()
    early = make_block(0, 2, [block.reference for block in parents], START_MS + 29)
    core.receive_block(early, 2, START_MS)
    assert not core.ready(), "who passed it on may have collected the parent already"
    core.receive_block(early, 0, START_MS)
    ready = core.ready()
    assert [(peer, fault.code) for peer, fault in ready.complaints] == [(0, "invalid_block")]
    assert ready.persist == []
    core.receive_block(make_block(0, 2, list(early.parents), START_MS + 30), 0, START_MS)
    assert len(core.ready().persist) == 1


def test_what_another_block_links_is_taken_however_early() -> None:
    """Its author collected the parent and could not tell. To refuse would be to refuse all that comes after it."""
    core = observer()
    core.peer_connected(1, START_MS)
    parents = [make_block(author, 1, genesis_parents(), START_MS + 10) for author in range(4)]
    early = make_block(0, 2, [block.reference for block in parents], START_MS)
    good = [make_block(author, 2, [block.reference for block in parents], START_MS + 10) for author in range(1, 4)]
    child = make_block(1, 3, [good[0].reference, early.reference, good[1].reference], START_MS + 10)
    for block in [*parents, early, *good, child]:
        core.receive_block(block, 1, START_MS)
    assert early not in core.ready().persist
    core.tick(START_MS + 100)
    (wanted,) = [message for _, message in core.ready().send if isinstance(message, FetchBlocks)]
    assert wanted.references == (early.reference,)
    core.receive_blocks([early], 1, START_MS + 110)
    ready = core.ready()
    assert ready.persist == [early, child]
    assert not ready.complaints


def test_blocks_of_the_future_are_held_back() -> None:
    core = observer()
    stamp_ms = START_MS + CLOCK_AHEAD_MS + 100
    block = make_block(0, 1, genesis_parents(), stamp_ms)
    core.receive_block(block, 0, START_MS)
    assert not core.ready()
    assert core.next_timer() == START_MS + 100
    core.tick(START_MS + 99)
    assert not core.ready()
    core.tick(START_MS + 100)
    assert core.ready().persist == [block]


def test_room_for_blocks_of_the_future_is_shared() -> None:
    core = observer()
    for stamp_ms in range(START_MS + 10_000, START_MS + 10_000 + HELD_BACK_BLOCKS):
        core.receive_block(make_block(0, 1, genesis_parents(), stamp_ms), 0, START_MS)
    core.receive_block(make_block(1, 1, genesis_parents(), START_MS + 10_000), 1, START_MS)
    assert len(core._held_back) == HELD_BACK_BLOCKS // 4 + 1


def test_room_for_suspended_blocks_is_shared() -> None:
    core = observer()
    parents = [BlockReference(1, author, NOWHERE) for author in range(4)]
    for number in range(SUSPENDED_BLOCKS // 4 + 50):
        core.receive_block(make_block(0, 2, parents, START_MS - number), 0, START_MS)
    core.receive_block(make_block(1, 2, parents), 1, START_MS)
    assert len(core._suspension) == SUSPENDED_BLOCKS // 4 + 1


def test_an_equivocator_fills_no_memory() -> None:
    core = observer()
    twins = [make_block(3, 1, genesis_parents(), START_MS + number) for number in range(50)]
    for twin in twins:
        core.receive_block(twin, 3, START_MS)
    ready = core.ready()
    assert ready.persist == twins[:2]
    assert [(peer, fault.code) for peer, fault in ready.complaints] == [(3, "equivocation")]
    assert [(one.reference, two.reference) for one, two in core.evidence] == [(twins[0].reference, twins[1].reference)]
    row = [make_block(author, 1, genesis_parents()) for author in range(3)]
    for block in row:
        core.receive_block(block, block.author, START_MS)
    child = make_block(0, 2, [*(block.reference for block in row), twins[40].reference], START_MS + 100)
    core.receive_block(child, 0, START_MS)
    core.receive_blocks([twins[41], twins[40]], 0, START_MS)
    assert [block.reference for block in core.ready().persist[-2:]] == [twins[40].reference, child.reference]
    assert core.dag.slot(1, 3) == [twins[0], twins[1], twins[40]]


def test_an_equivocator_with_missing_parents_fills_no_memory() -> None:
    core = observer()
    below = [make_block(author, 1, genesis_parents()) for author in range(4)]
    parents = [block.reference for block in below]
    for number in range(5):
        core.receive_block(make_block(3, 2, parents, START_MS + number), 3, START_MS)
    for block in below:
        core.receive_block(block, block.author, START_MS)
    assert len(core.dag.slot(2, 3)) == 2
    unknown = [*parents[:2], BlockReference(1, 2, NOWHERE), parents[3]]
    core.receive_block(make_block(3, 2, unknown, START_MS + 10), 3, START_MS)
    assert len(core._suspension) == 0, "a third block is not even waited for"


def test_an_equivocator_counts_once_in_the_clock() -> None:
    clock = ThresholdClock(committee_of(KEYS), START_MS)
    assert [clock.add(author, 1, START_MS + 1) for author in (3, 3, 3, 1)] == [False] * 4
    assert clock.add(2, 1, START_MS + 2)
    assert (clock.level, clock.since_ms) == (2, START_MS + 2)
    assert not clock.add(0, 1, START_MS + 3)
    assert [clock.add(author, 7, START_MS + 4) for author in (0, 1, 2)] == [False, False, True]
    assert clock.level == 8


def test_evidence_is_bounded() -> None:
    core = observer()
    below = genesis_parents()
    for level in range(1, EVIDENCE_PER_MEMBER + 4):
        row = [make_block(author, level, below) for author in range(4)]
        twin = make_block(3, level, below, START_MS + 1)
        for block in [*row, twin]:
            core.receive_block(block, block.author, START_MS)
        below = [block.reference for block in row]
    assert len(core.evidence) == EVIDENCE_PER_MEMBER


def test_equivocation_in_a_running_committee() -> None:
    loop = Loop()
    loop.run(1_000)
    for _ in range(20):
        loop.run(100)
        newest = loop._parse(loop.nodes[3].disk[loop.signed[3, loop.nodes[3].core.level]])
        header = msgspec.structs.replace(newest.header, timestamp_ms=newest.header.timestamp_ms + 1)
        loop.inject(1, 3, sign_block(header, newest.payload, KEYS[3]))
    loop.run(2_000)
    assert loop.nodes[1].core.evidence
    assert len(loop.nodes[0].records) > 15
    loop.assert_agreement()


def test_the_key_must_be_the_members() -> None:
    with pytest.raises(BadConfiguration):
        Core(
            chain_id=CHAIN,
            era=0,
            committee=committee_of(KEYS),
            parameters=PARAMETERS,
            start=EraStart.of_chain(GENESIS, START_MS),
            beacon=bytes(32),
            own=0,
            key=KEYS[1],
            mempool=Mempool(),
            recovered=None,
            now_ms=START_MS,
        )
