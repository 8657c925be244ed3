"""The core among others of its kind: agreement, progress under faults, restart, fetching, pacing, and limits."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blockcloud.primitives import codec
from blockcloud.primitives.certificates import CHECKPOINT, DOMAIN, SignedStatement, Statement
from blockcloud.transaction_chain.block import Block, BlockReference
from blockcloud.transaction_chain.core import REPEAT_MS, Core, Ready
from blockcloud.transaction_chain.messages import BlockMessage, FetchLevels
from blockcloud.transaction_chain.parameters import Parameters
from tests.transaction_chain.core_blocks import (
    KEYS,
    NOWHERE,
    carried,
    full_levels,
    genesis_parents,
    make_block,
    observer,
    run_until_committed,
)
from tests.transaction_chain.core_loop import (
    CHAIN,
    GENESIS,
    PARAMETERS,
    START_MS,
    Loop,
    make_core,
)

# Agreement and progress


@pytest.mark.parametrize("members", [1, 2, 3, 4, 7])
def test_all_commit_the_same(members: int) -> None:
    loop = Loop(members, parameters=Parameters(leader_slots=min(2, members)))
    for number in range(40):
        loop.submit(number % members, b"payload %d" % number)
        loop.run(15)
    loop.run(1_000)
    loop.assert_agreement()
    for index in range(members):
        assert not any(b"payload %d" % number in loop.nodes[index].mempool for number in range(40))
        assert sorted(carried(loop, index)) == sorted(b"payload %d" % number for number in range(40))
        assert loop.nodes[index].core.leaders_skipped == 0
        assert not loop.nodes[index].core.is_busy


def test_a_commit_chains_the_one_before() -> None:
    loop = Loop()
    loop.run(3_000)
    commits = loop.nodes[0].commits
    assert [commit.height for commit in commits] == list(range(1, len(commits) + 1))
    for before, commit in pairwise(commits):
        assert commit.record.previous == before.digest == before.record.digest()
        assert commit.record.level > before.record.level
        assert commit.record.time_ms >= before.record.time_ms
    assert commits[0].record.previous != GENESIS, "height 0 is the genesis record"


def test_the_same_events_give_the_same_run() -> None:
    runs = []
    for _ in range(2):
        loop = Loop(delay_ms=lambda sender, receiver, count: (sender * 7 + receiver * 3 + count) % 11)
        for number in range(10):
            loop.submit(number % 4, b"%d" % number)
            loop.run(33)
        runs.append([node.records for node in loop.nodes])
    assert runs[0] == runs[1]


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32), loss=st.sampled_from([0, 0, 5, 20]))
def test_delays_and_losses_do_not_split_the_nodes(seed: int, loss: int) -> None:
    chance = random.Random(seed)

    def delay_ms(sender: int, receiver: int, count: int) -> int | None:
        return None if chance.randrange(100) < loss else chance.randrange(1, 60)

    loop = Loop(delay_ms=delay_ms)
    for number in range(20):
        loop.submit(number % 4, b"%d" % number)
        loop.run(50)
    loop.run_until(lambda: all(len(carried(loop, index)) >= 20 for index in range(4)), limit_ms=60_000)
    loop.assert_agreement()


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_any_order_of_arrival_gives_the_same_commits(data: st.DataObject) -> None:
    rows = full_levels(10)
    expected = observer()
    for block in (block for row in rows for block in row):
        expected.receive_block(block, block.author, START_MS)
    core = observer()
    for block in data.draw(st.permutations([block for row in rows for block in row])):
        core.receive_block(block, block.author, START_MS)
    records = [commit.record for commit in core.ready().commits]
    assert records == [commit.record for commit in expected.ready().commits]
    assert records[-1].level == 8


def test_one_of_four_crashed() -> None:
    loop = Loop(down=(3,))
    loop.run(5_000)
    core = loop.nodes[0].core
    assert len(loop.nodes[0].records) > 10
    assert core.leaders_skipped > 0
    loop.assert_agreement()


def test_nobody_waits_long_for_a_crashed_leader() -> None:
    loop = Loop(down=(3,))
    loop.run(5_000)
    level = loop.nodes[0].core.level
    for number in range(100):
        loop.submit(number % 3, b"%d" % number)
        loop.run(10)
    assert loop.nodes[0].core.level - level > 40, "the pace is the busy one although every other level lacks a leader"


def test_two_of_four_crashed_stops_and_goes_on() -> None:
    loop = Loop()
    loop.run(1_000)
    loop.crash(2)
    loop.crash(3)
    loop.run(1_000)
    stopped = len(loop.nodes[0].records)
    loop.run(5_000)
    assert len(loop.nodes[0].records) == stopped
    loop.restart(2)
    loop.run(3_000)
    assert len(loop.nodes[0].records) > stopped + 5
    loop.assert_agreement()


# Pace


def test_idle_makes_about_four_levels_a_second() -> None:
    loop = Loop()
    loop.run(10_000)
    assert all(38 <= node.core.level <= 41 for node in loop.nodes)


def test_busy_makes_no_more_than_its_pace() -> None:
    loop = Loop()
    for number in range(400):
        loop.submit(number % 4, b"%d" % number)
        loop.run(5)
    assert 90 <= loop.nodes[0].core.level <= 102
    assert loop.nodes[0].core.leaders_skipped == 0


def test_a_payload_wakes_everybody() -> None:
    loop = Loop()
    loop.run(1_000)
    waits = []
    for number in range(12):
        loop.run(997)
        start_ms = loop.now_ms
        payload = b"%d" % number
        loop.submit(number % 4, payload)
        run_until_committed(loop, number % 4, payload)
        waits.append(loop.now_ms - start_ms)
    # Three to four busy paces and the messages; the run looks every 10 ms.
    assert sorted(waits)[len(waits) // 2] <= 4 * PARAMETERS.pacing_busy_ms
    assert max(waits) <= 2 * PARAMETERS.pacing_idle_ms


# Restart


def test_restart_from_disk_goes_on_without_equivocation() -> None:
    loop = Loop()
    for number in range(60):
        loop.submit(number % 4, b"%d" % number)
        loop.run(7)
        if number % 13 == 12:
            index = number % 4
            loop.crash(index)
            loop.run(100)
            loop.restart(index)
    loop.run_until(lambda: min(node.core.level for node in loop.nodes) > 50)
    loop.assert_agreement()  # `Loop` itself checks that no level is signed twice
    assert all(not node.core.evidence for node in loop.nodes)
    assert all(node.core.proposing for node in loop.nodes)


def test_all_crash_at_once_and_come_back() -> None:
    loop = Loop()
    loop.submit(0, b"before")
    loop.run(500)
    for index in range(4):
        loop.crash(index)
    for index in range(4):
        loop.restart(index)
    loop.submit(1, b"after")
    loop.run_until(lambda: all(b"after" in carried(loop, index) for index in range(4)))
    assert all(carried(loop, index).count(b"before") == 1 for index in range(4))
    loop.assert_agreement()


def test_a_recovered_core_finds_the_commits_that_were_not_stored() -> None:
    loop = Loop()
    loop.run(5_000)
    node = loop.nodes[0]
    lost = node.records[-5:]
    loop.crash(0)
    del node.records[-5:], node.commits[-5:]
    loop.restart(0)
    assert node.records[-5:] == lost


def test_the_newest_own_block_is_sent_again_after_a_restart() -> None:
    loop = Loop()
    loop.run(2_000)
    loop.crash(2)
    level = loop.nodes[2].core.level
    loop.restart(2)
    core = loop.nodes[2].core
    core.peer_connected(1, loop.now_ms)
    sent = [loop._parse(message.raw) for _, message in core.ready().send if isinstance(message, BlockMessage)]
    assert sent[-1].reference == loop.signed[2, level]
    assert core.level == level


def test_without_its_last_level_a_node_observes() -> None:
    loop = Loop()
    loop.run(1_000)
    loop.crash(1)
    loop.restart(1, forget_own_level=True)
    level = max(level for author, level in loop.signed if author == 1)
    loop.run(3_000)
    assert not loop.nodes[1].core.proposing
    assert max(level for author, level in loop.signed if author == 1) == level
    assert len(loop.nodes[1].records) > 10
    loop.assert_agreement()


def test_a_block_of_our_own_that_we_do_not_know_makes_us_observe() -> None:
    core = make_core(KEYS, 0)
    core.ready()
    core.receive_block(make_block(0, 1, genesis_parents(), START_MS), 1, START_MS)
    core.tick(START_MS + 10_000)
    assert not core.proposing
    assert core.ready().own == []


def test_a_restarted_node_listens_before_it_speaks() -> None:
    loop = Loop()
    loop.run(2_000)
    loop.run_until(lambda: any(node.core._clock.level > node.core.level for node in loop.nodes))
    index = next(node.index for node in loop.nodes if node.core._clock.level > node.core.level)
    for other in range(4):
        loop.crash(other)
    loop.restart(index)
    node = loop.nodes[index]
    level = node.core.level
    assert node.mempool.add(b"payload", 1)
    node.core.submitted(loop.now_ms)
    others = [other for other in range(4) if other != index]
    node.core.receive_blocks([], others[0], loop.now_ms)
    assert node.core.next_timer() != loop.now_ms + PARAMETERS.pacing_idle_ms, "half of them are no quorum"
    node.core.receive_blocks([], others[1], loop.now_ms)
    assert node.core.next_timer() == loop.now_ms + PARAMETERS.pacing_idle_ms
    loop.run(PARAMETERS.pacing_idle_ms)
    assert node.core.level == level + 1


@pytest.mark.parametrize("forgotten", [1, 3, 40])
def test_a_member_whose_disk_forgot_its_blocks_learns_of_them_before_it_signs(forgotten: int) -> None:
    """The disk lost what it said was written. The first links come up long after the quiet time."""
    slow_ms = 3 * PARAMETERS.pacing_idle_ms
    loop = Loop()
    loop.run(60 * PARAMETERS.pacing_idle_ms)
    level = loop.nodes[3].core.level
    assert level > forgotten
    loop.crash(3)
    kept = {ref: raw for ref, raw in loop.nodes[3].disk.items() if ref.level <= level - forgotten}
    loop.nodes[3].disk = kept
    loop.nodes[3].records = [record for record in loop.nodes[3].records if record.level <= level - forgotten]
    loop.run(1_000)
    loop.delay_ms = lambda sender, receiver, count: slow_ms
    loop.restart(3)
    loop.run(20 * slow_ms)
    assert not loop.nodes[3].core.proposing, "it found a block of its own that it did not know"
    assert loop.nodes[3].core.last_commit.height > 0


def test_a_member_that_meets_a_second_block_of_its_own_stops_signing() -> None:
    loop = Loop()
    loop.run(2_000)
    node = loop.nodes[3]
    level = node.core.level
    twin = make_block(3, level, list(node.core.dag.slot(level, 3)[0].parents), loop.now_ms, (b"another",))
    loop.inject(3, 0, twin)
    loop.run(2_000)
    assert node.core.level == level
    assert not node.core.proposing


def test_one_who_lags_does_not_speak_until_it_can_or_nobody_can_help() -> None:
    core = make_core(KEYS, 0)
    core.ready()
    for peer in (1, 2, 3):
        core.peer_connected(peer, START_MS)
    parents = [BlockReference(199, author, NOWHERE) for author in range(4)]
    core.receive_block(make_block(1, 200, parents), 1, START_MS)
    assert core.ready().send == [(1, FetchLevels(1, 64))]
    core.receive_block(make_block(2, 200, parents), 2, START_MS)
    now_ms = START_MS
    asked: list[int] = []
    while core.is_lagging:
        assert core.ready().own == []
        timer_ms = core.next_timer()
        assert timer_ms is not None
        now_ms = timer_ms
        core.tick(now_ms)
        asked += [peer for peer, _ in core._ready.send]
    assert asked == [2, 3, 1]
    assert own_blocks(core, now_ms)


# Own blocks


def own_blocks(core: Core, now_ms: int) -> list[Block]:
    core.tick(now_ms)
    return core.ready().own


def test_statements_ride_along_once() -> None:
    core = make_core(KEYS, 0)
    core.ready()
    statement = Statement(CHECKPOINT, CHAIN, 0, 10, (bytes(32), bytes(32)))
    signed = SignedStatement(statement, KEYS[0].public, KEYS[0].sign(DOMAIN, codec.encode(statement)))
    core.add_statement(signed)
    (first,) = own_blocks(core, START_MS + 1_000)
    assert first.header.statements == (signed,)
    for author in (1, 2, 3):
        core.receive_block(make_block(author, 1, genesis_parents()), author, START_MS + 1_000)
    (second,) = own_blocks(core, START_MS + 3_000)
    assert second.header.statements == ()


def test_observers_never_propose() -> None:
    loop = Loop(observers=1)
    loop.submit(0, b"payload")
    loop.run(2_000)
    node = loop.nodes[4]
    assert node.core.level == 0
    assert carried(loop, 4) == [b"payload"]
    assert all(author < 4 for author, _ in loop.signed)
    loop.assert_agreement()


def test_timestamps_never_run_backwards() -> None:
    core = make_core(KEYS, 0, parameters=Parameters(pacing_idle_ms=90))
    core.ready()
    (first,) = own_blocks(core, START_MS + 1_000)
    ahead = [make_block(author, 1, genesis_parents(), START_MS + 1_400) for author in (1, 2, 3)]
    for block in ahead:
        core.receive_block(block, block.author, START_MS + 1_000)
    (second,) = own_blocks(core, START_MS + 1_300)
    assert first.header.timestamp_ms == START_MS + 1_000
    assert second.header.timestamp_ms == START_MS + 1_400
    assert [parent.author for parent in second.parents] == [0, 1, 2, 3]
    below = [block.reference for block in [first, *ahead]]
    for author in (1, 2, 3):
        core.receive_block(make_block(author, 2, below, START_MS + 1_400), author, START_MS + 1_300)
    (third,) = own_blocks(core, START_MS + 1_399)
    assert third.header.timestamp_ms == START_MS + 1_401


def test_the_operation_cap_of_the_node_holds() -> None:
    loop = Loop()
    for node in loop.nodes:
        node.core.proposal_operations = 2
    for number in range(9):
        assert loop.nodes[1].mempool.add(b"%d" % number, 1)
    loop.submit(1, b"9")
    loop.run(1_000)
    sizes = [len(block.payload) for commit in loop.nodes[0].commits for block in commit.blocks if block.payload]
    assert sizes == [2] * 5
    assert carried(loop, 0) == [b"%d" % number for number in range(10)]


def test_a_late_block_is_linked() -> None:
    """Author 3 is late by a level and nobody else has its block: ours brings it in, and the one after not again."""
    core = make_core(KEYS, 0)
    core.ready()
    now_ms = START_MS + 1_000
    (own,) = own_blocks(core, now_ms)
    late = make_block(3, 1, genesis_parents())
    below = [own.reference]
    blocks = []
    for author in (1, 2):
        block = make_block(author, 1, genesis_parents())
        below.append(block.reference)
        core.receive_block(block, author, now_ms)
    (own,) = own_blocks(core, now_ms + 1_000)
    assert [(parent.author, parent.level) for parent in own.parents] == [(0, 1), (1, 1), (2, 1)]
    core.receive_block(late, 3, now_ms + 1_000)
    for author in (1, 2):
        blocks.append(make_block(author, 2, below, now_ms))
        core.receive_block(blocks[-1], author, now_ms + 1_000)
    (own,) = own_blocks(core, now_ms + 2_000)
    assert [(parent.author, parent.level) for parent in own.parents] == [(0, 2), (1, 2), (2, 2), (3, 1)]
    below = [own.parents[0], *(block.reference for block in blocks)]
    for author in (1, 2):
        core.receive_block(make_block(author, 3, below, now_ms + 1_000), author, now_ms + 2_000)
    (own,) = own_blocks(core, now_ms + 3_000)
    assert [(parent.author, parent.level) for parent in own.parents] == [(0, 3), (1, 3), (2, 3)]


@pytest.mark.parametrize("restarted", [False, True])
def test_a_payload_that_fell_out_is_proposed_again(restarted: bool) -> None:
    cut = [False]
    loop = Loop(
        parameters=Parameters(gc_depth_levels=8),
        delay_ms=lambda sender, receiver, count: None if cut[0] and 3 in (sender, receiver) else 2,
    )
    loop.run(1_000)
    cut[0] = True
    loop.submit(3, b"lost")
    loop.run(100)
    assert len(loop.nodes[3].mempool) == 0, "a block that nobody got carries it"
    if restarted:
        loop.crash(3)
        loop.restart(3)
    for number in range(60):
        loop.submit(number % 3, b"%d" % number)
        loop.run(20)
    cut[0] = False
    loop.run_until(lambda: b"lost" in carried(loop, 0))
    assert carried(loop, 0).count(b"lost") == 1
    loop.assert_agreement()


def test_what_others_carry_is_not_proposed_again() -> None:
    loop = Loop()
    loop.run(1_000)
    assert loop.nodes[1].mempool.add(b"twice", 1)
    loop.submit(0, b"twice")
    loop.run(1_000)
    assert carried(loop, 2) == [b"twice"]


def leaders_of(core: Core, level: int) -> tuple[int, ...]:
    return core._schedule.leaders(level)


def test_absent_leaders_are_waited_for_until_the_timeout() -> None:
    parameters = Parameters(leader_timeout_ms=1_000)
    own = next(member for member in range(4) if member not in leaders_of(observer(), 2))
    core = make_core(KEYS, own, parameters=parameters)
    core.ready()
    now_ms = START_MS + 1_000
    own_blocks(core, now_ms)
    leader = next(member for member in leaders_of(core, 1) if member != core.own)
    for author in range(4):
        if author not in (core.own, leader):
            core.receive_block(make_block(author, 1, genesis_parents()), author, now_ms)
    timeout_ms = parameters.leader_timeout_ms
    core.submitted(now_ms + timeout_ms - 1)
    assert core.level == 1
    assert core.next_timer() == now_ms + timeout_ms
    core.tick(now_ms + timeout_ms)
    assert core.level == 2


def test_no_wait_when_the_leaders_are_there() -> None:
    core = make_core(KEYS, 0, parameters=Parameters(leader_timeout_ms=10_000))
    core.ready()
    own_blocks(core, START_MS + 1_000)
    for author in (1, 2, 3):
        core.receive_block(make_block(author, 1, genesis_parents()), author, START_MS + 1_000)
    assert own_blocks(core, START_MS + 1_300)


def test_a_block_is_sent_again_while_nothing_moves() -> None:
    core = make_core(KEYS, 0)
    core.ready()
    (own,) = own_blocks(core, START_MS + 1_000)
    assert core.next_timer() == START_MS + 1_000 + REPEAT_MS
    core.tick(START_MS + 1_000 + REPEAT_MS)
    ready = core.ready()
    assert (ready.broadcast, ready.persist) == ([own], [])


def test_memory_is_collected() -> None:
    loop = Loop(parameters=Parameters(pacing_idle_ms=20, gc_depth_levels=10))
    loop.run(4_000)
    for node in loop.nodes:
        assert node.core.committed_level > 150
        assert len(node.core.dag) <= 4 * 16
        assert len(node.core._linearised) <= 4 * 16
        assert len(node.core._suspension) == 0


def test_an_empty_ready_is_false() -> None:
    assert not Ready()
    assert Ready(persist=[make_block(0, 1, genesis_parents())])
