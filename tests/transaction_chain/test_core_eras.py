"""The end of an era, and the leader table, as cores see them: deterministic loops of whole committees."""

from __future__ import annotations

import pytest

from blockcloud.transaction_chain.parameters import Parameters
from tests.transaction_chain.core_loop import Loop, make_core

LAST = 40
PERIOD = 10
TABLES = Parameters(leader_table_period=PERIOD)


def busy(loop: Loop, duration_ms: int, *submitters: int) -> list[bytes]:
    """Let `submitters` hand in a payload every 20 ms."""
    payloads = []
    for number in range(duration_ms // 20):
        payloads.append(b"%d at %d" % (number, loop.now_ms))
        loop.submit(submitters[number % len(submitters)], payloads[-1])
        loop.run(20)
    return payloads


def test_everybody_ends_with_the_same_last_commit_and_makes_no_more_blocks() -> None:
    loop = Loop(last_height=LAST)
    loop.run_until(lambda: all(node.core.ended for node in loop.nodes))
    for node in loop.nodes:
        assert [record.height for record in node.records] == list(range(1, LAST + 1))
    loop.assert_agreement()
    signed, height = len(loop.signed), len(loop.nodes[0].records)
    loop.run(3_000)
    assert len(loop.signed) == signed
    assert len(loop.nodes[0].records) == height


def test_what_others_go_on_to_decide_is_discarded() -> None:
    """Liars may go on in an era that is over: whoever has its last commit outputs nothing more."""
    loop = Loop(observers=1)
    loop.nodes[4].core._last_height = LAST
    loop.run_until(lambda: len(loop.nodes[0].records) > LAST + 10)
    loop.run(500)
    assert [record.height for record in loop.nodes[4].records] == list(range(1, LAST + 1))
    assert loop.nodes[4].core.ended


def test_what_was_caught_in_the_last_blocks_is_proposed_again() -> None:
    """Every payload is in a commit of this era, or its owner's mempool has it again; none is in both."""
    loop = Loop(last_height=LAST)
    payloads: list[bytes] = []
    while not all(node.core.ended for node in loop.nodes):
        payloads += busy(loop, 20, len(payloads) % 4)
    committed = {item for commit in loop.nodes[0].commits for block in commit.blocks for item in block.payload}
    for number, payload in enumerate(payloads):
        pending = payload in loop.nodes[number % 4].mempool.take(10**6, 10**6) if payload not in committed else None
        assert pending is not False, payload
        if pending:
            loop.nodes[number % 4].mempool.era_ended()
    assert len(committed) < len(payloads), "something was meant to be caught in between"


def test_a_member_left_behind_gets_the_rest_from_one_that_is_beyond() -> None:
    """It has nobody to make blocks with any more, and needs nobody: what decides the era exists."""
    cut = [False]
    loop = Loop(
        delay_ms=lambda sender, receiver, count: None if cut[0] and 3 in (sender, receiver) else 2, last_height=LAST
    )
    loop.run(500)
    cut[0] = True
    loop.run_until(lambda: all(node.core.ended for node in loop.nodes[:3]))
    assert not loop.nodes[3].core.ended
    cut[0] = False
    loop.nodes[3].core.peer_is_beyond(1, loop.now_ms)
    loop._work(loop.nodes[3])
    loop.run_until(lambda: loop.nodes[3].core.ended)
    loop.assert_agreement()


def test_blocks_are_empty_until_the_hand_over_is_certified() -> None:
    loop = Loop()
    for node in loop.nodes:
        node.core.carrying = False
    payloads = busy(loop, 1_000, 0, 1, 2, 3)
    assert loop.nodes[0].commits
    assert not any(block.payload for commit in loop.nodes[0].commits for block in commit.blocks)
    for node in loop.nodes:
        node.core.carrying = True
    loop.run(1_000)
    committed = [item for commit in loop.nodes[0].commits for block in commit.blocks for item in block.payload]
    assert sorted(committed) == sorted(payloads)


def test_a_dead_member_leads_no_more_after_a_period_and_again_when_it_is_back() -> None:
    loop = Loop(parameters=TABLES)
    loop.crash(3)
    loop.run_until(lambda: len(loop.nodes[0].records) > PERIOD)
    schedule = loop.nodes[0].core._schedule
    level = loop.nodes[0].core.committed_level
    assert all(3 not in schedule.leaders(level + ahead) for ahead in range(1, 60))
    loop.restart(3)
    loop.run_until(lambda: any(author == 3 for author, _ in loop.signed))
    height = len(loop.nodes[0].records)
    loop.run_until(lambda: len(loop.nodes[0].records) > height + 3 * PERIOD)
    level = loop.nodes[0].core.committed_level
    assert any(3 in schedule.leaders(level + ahead) for ahead in range(1, 60))
    loop.assert_agreement()


@pytest.mark.parametrize("restarted", [0, 2])
def test_a_restart_computes_the_same_leader_table(restarted: int) -> None:
    loop = Loop(parameters=TABLES)
    loop.crash(3)
    loop.run_until(lambda: len(loop.nodes[0].records) > 2 * PERIOD + 3)
    loop.crash(restarted)
    loop.restart(restarted)
    loop.run(2_000)
    tables = [node.core._schedule._tables for node in loop.nodes[:3]]
    assert tables[0] == tables[1] == tables[2]
    assert len(tables[0]) > 1
    loop.assert_agreement()


def test_the_table_changes_at_the_same_place_for_whoever_decides_later() -> None:
    """One node sees everything late and in bulk, so that it decides many levels at once across a change."""
    slow = [False]
    loop = Loop(
        observers=1,
        delay_ms=lambda sender, receiver, count: 900 if slow[0] and receiver == 4 else 2,
        parameters=TABLES,
        down=(3,),
    )
    loop.run(200)
    slow[0] = True
    busy(loop, 4_000, 0, 1, 2)
    slow[0] = False
    loop.run(4_000)
    assert len(loop.nodes[0].core._schedule._tables) > 1
    assert loop.nodes[4].core._schedule._tables == loop.nodes[0].core._schedule._tables
    loop.assert_agreement()


def test_an_observer_has_no_key_and_signs_nothing() -> None:
    core = make_core(Loop().keys, None, last_height=LAST)
    assert not core.proposing
