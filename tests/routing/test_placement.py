"""Placement: who keeps what. Balance, minimal movement, places that cannot be bought, and one answer for everybody."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockcloud.primitives.hashes import sha256, tagged_hash
from blockcloud.routing.placement import Placement, score
from blockcloud.transaction_chain.era import EraPlan, Seat, placement_salt

BEACON = sha256(b"beacon")


def seat(number: int, beacon: bytes = BEACON) -> Seat:
    key = tagged_hash("test-node/v1", number.to_bytes(8))
    return Seat(key, key, 1, 1, "host:1", "http://host", placement_salt(key, beacon))


def keys(count: int, seed: int = 0) -> list[bytes]:
    return [sha256(b"%d %d" % (seed, number)) for number in range(count)]


sizes = st.integers(1, 40)
replica_counts = st.integers(1, 6)


@given(sizes, replica_counts, st.integers(0, 2**32))
def test_a_key_has_so_many_keepers_the_best_scores_whatever_the_order_of_the_seats(
    size: int, replicas: int, seed: int
) -> None:
    seats = [seat(number) for number in range(size)]
    shuffled = Random(seed).sample(seats, size)
    for key in keys(20, seed):
        found = Placement(seats, (), replicas).keepers(key)
        assert found == Placement(shuffled, (), replicas).keepers(key)
        assert len(found) == len(set(found)) == min(size, replicas)
        scores = {item.node_key: score(item.placement_salt, key) for item in seats}
        assert min(scores[node] for node in found) >= max(
            (value for node, value in scores.items() if node not in found), default=b""
        )


@pytest.mark.parametrize(("size", "replicas"), [(4, 3), (10, 3), (40, 3)])
def test_the_load_is_balanced(size: int, replicas: int) -> None:
    """With so many keys that a node has at least 600 at the mean, the fullest has a sixth more; the scatter of a node's
    load is that of independent draws, about 4 % there."""
    placement = Placement([seat(number) for number in range(size)], (), replicas)
    load: dict[bytes, int] = dict.fromkeys(placement.members, 0)
    count = 600 * size // replicas
    for key in keys(count):
        for node in placement.keepers(key):
            load[node] += 1
    mean = sum(load.values()) / size
    assert mean == count * min(replicas, size) / size
    assert max(load.values()) / mean < 1.17
    assert min(load.values()) / mean > 0.83


@given(st.integers(2, 30), replica_counts, st.integers(0, 2**32))
def test_who_joins_takes_its_share_and_nothing_else_moves(size: int, replicas: int, seed: int) -> None:
    small = Placement([seat(number) for number in range(size - 1)], (), replicas)
    joined = seat(size - 1)
    large = Placement([*(seat(number) for number in range(size - 1)), joined], (), replicas)
    for key in keys(60, seed):
        before, after = set(small.keepers(key)), set(large.keepers(key))
        if joined.node_key in after:
            assert after - {joined.node_key} <= before
            assert len(before - after) == (size - 1 >= replicas)
        else:
            assert before == after


def test_about_one_place_in_n_moves() -> None:
    before = Placement([seat(number) for number in range(19)])
    after = Placement([seat(number) for number in range(20)])
    moved = sum(len(set(after.keepers(key)) - set(before.keepers(key))) for key in keys(4_000))
    assert 0.9 < moved / (4_000 * 3 / 20) < 1.1


@given(st.integers(2, 12), st.integers(0, 2**32))
def test_for_one_era_the_old_keepers_hold_too(size: int, seed: int) -> None:
    random = Random(seed)
    eras = [random.sample([seat(number) for number in range(16)], size) for _ in range(3)]
    plans = [EraPlan(era, 1, BEACON, 1, tuple(seats)) for era, seats in enumerate(eras)]
    first, second, third = (Placement.of(plan, plans[plan.era - 1] if plan.era else None) for plan in plans)
    for key in keys(20, seed):
        assert first.holders(key) == first.keepers(key)
        assert set(second.holders(key)) == set(second.keepers(key)) | set(first.keepers(key))
        assert second.holders(key)[: len(second.keepers(key))] == second.keepers(key)
        assert set(third.holders(key)) == set(third.keepers(key)) | set(second.keepers(key))


def test_an_era_with_the_same_members_costs_one_ranking() -> None:
    seats = [seat(number) for number in range(5)]
    assert Placement(seats, list(reversed(seats))).scores_for_a_key == 5
    assert Placement(seats, seats[1:]).scores_for_a_key == 9


@given(st.integers(1, 40), st.integers(1, 5), st.integers(0, 10**6))
def test_the_estimate_of_all_is_the_inverse_of_a_share(size: int, replicas: int, count: int) -> None:
    placement = Placement([seat(number) for number in range(size)], (), replicas)
    assert abs(placement.total(placement.share(count)) - count) <= size


@pytest.mark.parametrize("replicas", [0, -1, 17])
def test_a_number_of_replicas_out_of_range_is_our_own_bug(replicas: int) -> None:
    with pytest.raises(ValueError, match="replicas"):
        Placement([], (), replicas)


def ground_node(wanted: bytes, beacon: bytes, tries: int = 10_000) -> bytes:
    """The one of so many node keys that would stand best for `wanted` under this beacon."""
    tried = (tagged_hash("test-ground/v1", b"%d" % number) for number in range(tries))
    return max(tried, key=lambda node: score(placement_salt(node, beacon), wanted))


def keeps_among_forty(node: bytes, wanted: bytes, beacon: bytes) -> bool:
    """Whether a node that gets its salt from this beacon, as 40 others do, keeps `wanted`."""
    own = Seat(node, node, 1, 1, "", "", placement_salt(node, beacon))
    return node in Placement([*(seat(number, beacon) for number in range(40)), own]).keepers(wanted)


def test_a_ground_node_key_gains_nothing_without_the_beacon() -> None:
    """Somebody wants to keep one key among 40 honest nodes, and tries 10,000 node keys. With the beacon in hand he gets
    there each time. Without it, as often as with a key that he did not choose: 3 places among 41."""
    for attempt in range(3):
        wanted, beacon = sha256(b"wanted %d" % attempt), sha256(b"era %d" % attempt)
        assert keeps_among_forty(ground_node(wanted, beacon), wanted, beacon)
    wanted, later = sha256(b"wanted"), [sha256(b"later %d" % number) for number in range(1_000)]
    chosen = ground_node(wanted, sha256(b"the newest beacon at the time of choice"))
    blind = sum(keeps_among_forty(chosen, wanted, beacon) for beacon in later)
    unchosen = sum(keeps_among_forty(sha256(b"any"), wanted, beacon) for beacon in later)
    # 1,000 draws of 3/41: 73 at the mean, 8 of deviation.
    assert 73 - 33 < blind < 73 + 33
    assert 73 - 33 < unchosen < 73 + 33


def test_a_key_ground_for_a_known_node_is_the_owner_choosing_its_own_file() -> None:
    """The one who writes a file can choose its bytes so that certain nodes keep it. It harms its own file only: for any
    other key these nodes stand as before."""
    seats = [seat(number) for number in range(20)]
    placement = Placement(seats)
    target = seats[7].node_key
    ground = max(keys(2_000), key=lambda key: score(seats[7].placement_salt, key))
    assert target in placement.keepers(ground)
    share = sum(target in placement.keepers(key) for key in keys(4_000, seed=1))
    assert abs(share - 600) < 100
