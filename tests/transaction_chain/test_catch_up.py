"""Which ranges of levels a lagging node asks for, of whom, and when it gives up."""

from __future__ import annotations

from blockcloud.primitives.keys import SigningKey
from blockcloud.primitives.limits import COMMIT_RANGE
from blockcloud.primitives.merkle import merkle_root
from blockcloud.transaction_chain.block import Block, BlockReference, Header, sign_block
from blockcloud.transaction_chain.catch_up import CHUNK_RETRY_MS, CatchUp
from blockcloud.transaction_chain.committee import Committee, Member
from blockcloud.transaction_chain.messages import FetchLevels

KEYS = [SigningKey(bytes([1 + index]) * 32) for index in range(4)]
COMMITTEE = Committee(Member(key.public, 1) for key in KEYS)
PEERS = [1, 2, 3]


def make_block(author: int, level: int) -> Block:
    header = Header(bytes(32), 0, author, level, (BlockReference(level - 1, author, bytes(32)),), 0, merkle_root(()))
    return sign_block(header, (), KEYS[author])


def blocks(first: int, last: int) -> list[Block]:
    return [make_block(1, level) for level in range(first, last + 1)]


def behind() -> CatchUp:
    """At level 10, while two members claim to be at 200."""
    catch_up = CatchUp(COMMITTEE)
    catch_up.claim(make_block(2, 200), 2)
    catch_up.claim(make_block(3, 200), 3)
    return catch_up


def test_idle_while_nobody_is_ahead() -> None:
    catch_up = CatchUp(COMMITTEE)
    assert catch_up.request(0, 0, PEERS, 0) is None
    assert catch_up.next_timer() is None
    assert not catch_up.is_lagging(0)


def test_more_than_may_lie_must_say_so() -> None:
    catch_up = CatchUp(COMMITTEE)
    catch_up.claim(make_block(2, 200), 2)
    assert not catch_up.is_lagging(10)
    catch_up.claim(make_block(2, 300), 2)
    assert not catch_up.is_lagging(10)
    catch_up.claim(make_block(3, 150), 3)
    assert catch_up.is_lagging(10)
    assert not catch_up.is_lagging(150)


def test_two_chunks_at_a_time_of_the_first_who_told() -> None:
    catch_up = behind()
    assert catch_up.request(10, 0, PEERS, 0) == (2, FetchLevels(10, 9 + COMMIT_RANGE))
    assert catch_up.request(10, 0, PEERS, 1) == (2, FetchLevels(73, 72 + COMMIT_RANGE))
    assert catch_up.request(10, 0, PEERS, 1) is None
    catch_up.answered(2, blocks(10, 73))
    assert catch_up.request(72, 0, PEERS, 2) is None, "not before the chunk is accepted"
    assert catch_up.request(73, 0, PEERS, 3) == (2, FetchLevels(136, 135 + COMMIT_RANGE))
    catch_up.answered(2, blocks(73, 136))
    assert catch_up.request(136, 0, PEERS, 4) == (2, FetchLevels(199, 200))
    catch_up.answered(2, blocks(136, 199))
    assert catch_up.request(199, 0, PEERS, 5) is None
    catch_up.answered(2, blocks(199, 200))
    assert catch_up.request(200, 0, PEERS, 6) is None
    assert catch_up.next_timer() is None


def test_both_chunks_may_be_accepted_at_once() -> None:
    catch_up = behind()
    catch_up.request(10, 0, PEERS, 0)
    catch_up.request(10, 0, PEERS, 0)
    catch_up.answered(2, blocks(10, 73))
    catch_up.answered(2, blocks(73, 136))
    assert catch_up.request(136, 0, PEERS, 1) == (2, FetchLevels(136, 135 + COMMIT_RANGE))
    assert catch_up.request(136, 0, PEERS, 1) == (2, FetchLevels(199, 200))
    assert catch_up.next_timer() == 1 + CHUNK_RETRY_MS


def test_after_an_answer_that_stopped_early_they_come_one_by_one() -> None:
    catch_up = behind()
    catch_up.request(10, 0, PEERS, 0)
    catch_up.request(10, 0, PEERS, 0)
    catch_up.answered(2, blocks(10, 40))
    assert catch_up.request(40, 0, PEERS, 1) == (2, FetchLevels(40, 39 + COMMIT_RANGE))
    assert catch_up.request(40, 0, PEERS, 1) is None
    catch_up.answered(2, blocks(73, 136))  # what was asked for ahead is of no use any more
    assert catch_up.request(40, 0, PEERS, 2) is None
    catch_up.answered(2, blocks(40, 80))
    assert catch_up.request(80, 0, PEERS, 3) == (2, FetchLevels(80, 79 + COMMIT_RANGE))
    assert catch_up.request(80, 0, PEERS, 3) is None


def test_the_second_chunk_does_not_wait_for_longer_than_the_first() -> None:
    catch_up = behind()
    catch_up.request(10, 0, PEERS, 0)
    catch_up.request(10, 0, PEERS, CHUNK_RETRY_MS - 1)
    assert catch_up.next_timer() == CHUNK_RETRY_MS
    assert catch_up.request(10, 0, PEERS, CHUNK_RETRY_MS) == (3, FetchLevels(10, 9 + COMMIT_RANGE))


def test_a_level_larger_than_an_answer_does_not_stop_it() -> None:
    catch_up = behind()
    catch_up.request(10, 0, PEERS, 0)
    catch_up.answered(2, blocks(10, 10))
    assert catch_up.request(10, 0, PEERS, 1) == (2, FetchLevels(11, 10 + COMMIT_RANGE))


def test_what_was_not_asked_moves_nothing() -> None:
    catch_up = behind()
    catch_up.request(10, 0, PEERS, 0)
    catch_up.request(10, 0, PEERS, 0)
    catch_up.answered(3, blocks(10, 20))
    catch_up.answered(2, blocks(11, 20))
    catch_up.answered(2, blocks(10, 100))
    catch_up.answered(2, [])
    assert catch_up.request(20, 0, PEERS, 1) is None


def test_never_what_was_collected() -> None:
    assert behind().request(10, 30, PEERS, 0) == (2, FetchLevels(31, 30 + COMMIT_RANGE))


def test_silence_means_another_peer() -> None:
    catch_up = behind()
    asked = [catch_up.request(10, 0, PEERS, 0)]
    assert catch_up.next_timer() == CHUNK_RETRY_MS
    asked.append(catch_up.request(10, 0, PEERS, CHUNK_RETRY_MS))
    asked.append(catch_up.request(10, 0, PEERS, 2 * CHUNK_RETRY_MS))
    assert [request[0] for request in asked if request] == [2, 3, 1]


def test_a_lost_link_means_another_peer_at_once() -> None:
    catch_up = behind()
    catch_up.request(10, 0, PEERS, 0)
    catch_up.request(10, 0, PEERS, 0)
    catch_up.lost(1)
    assert catch_up.request(10, 0, PEERS, 1) is None
    catch_up.lost(2)
    assert catch_up.request(10, 0, [1, 3], 1) == (3, FetchLevels(10, 9 + COMMIT_RANGE))


def test_a_link_that_is_lost_takes_what_was_under_way_with_it() -> None:
    catch_up = behind()
    catch_up.request(10, 0, PEERS, 0)
    catch_up.request(10, 0, PEERS, 0)
    catch_up.answered(2, blocks(10, 73))
    catch_up.lost(2)
    assert catch_up.request(73, 0, [1, 3], 1) == (3, FetchLevels(73, 72 + COMMIT_RANGE))


def test_with_nobody_to_ask_the_claims_are_forgotten_too() -> None:
    catch_up = behind()
    assert all(catch_up.request(10, 0, [], now_ms) is None for now_ms in range(0, 2 * CHUNK_RETRY_MS, 500))
    assert not catch_up.is_lagging(10)


def test_claims_that_nobody_can_show_are_forgotten() -> None:
    catch_up = behind()
    now_ms = 0
    requests = 0
    while catch_up.request(10, 0, PEERS, now_ms) is not None:
        requests += 1
        now_ms += CHUNK_RETRY_MS
        assert requests < 10
    assert requests == 1 + len(PEERS)
    assert not catch_up.is_lagging(10)
    assert catch_up.next_timer() is None
