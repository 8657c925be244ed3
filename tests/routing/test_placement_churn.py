"""Placed nodes under churn and load: nothing acknowledged is ever out of reach, and each node ends with its share."""

from random import Random

import pytest

from blockcloud.primitives.hashes import sha256
from blockcloud.primitives.keys import SigningKey
from blockcloud.routing import holding, replication
from blockcloud.routing.address_record import AddressRecord, Endpoint, sign_record
from blockcloud.routing.holding import Limits
from blockcloud.routing.messages import Ask, Check, Have, Page, Summary, decode_routing, encode_routing
from blockcloud.routing.placement import Placement
from blockcloud.routing.shedding import CHECK_SECONDS
from blockcloud.routing.store import slot_of
from tests.routing.placed_network import START, Entry, PlacedNetwork, file_number

MEMBERS, FAULTY = 7, 2
ERA_SECONDS = 20


def assert_all_found(network: PlacedNetwork, acknowledged: list[bytes]) -> None:
    lost = [data for data in acknowledged if network.find(sha256(data)) != data]
    assert not lost, f"{len(lost)} of {len(acknowledged)} files are out of reach in era {network.plan.era}"


def one_era(network: PlacedNetwork, acknowledged: list[bytes], random: Random) -> None:
    """Files come in while one member crashes or turns liar; at the end it, and one that leaves, lose their seats."""
    honest = [node for node in network.members() if not node.lies]
    victim, leaver = random.sample(honest, 2)
    when, crashes = random.randrange(ERA_SECONDS), random.random() < 0.5
    for second in range(ERA_SECONDS):
        if second == when:
            victim.lies = True
            if crashes:
                network.end(victim)
        for _ in range(2):
            data = file_number(len(network.announced))
            if network.put(data):
                acknowledged.append(data)
        network.second()
        assert_all_found(network, acknowledged)
    staying = [node for node in network.members() if not node.lies and node is not leaver]
    gone = [node for node in network.nodes.values() if node.lies or node not in network.members()]
    network.begin_era([*staying, *(network.join() for _ in range(MEMBERS - len(staying)))])
    for node in gone:  # who lost the seat an era ago, or lied
        if node.number in network.nodes:
            network.end(node)


@pytest.mark.parametrize("seed", range(3))
def test_no_acknowledged_file_is_ever_out_of_reach(seed: int) -> None:
    """Of seven nodes one crashes or lies in each era, one leaves, and as many come with nothing; a twentieth of all
    messages is lost. Three replicas; at no time are more than two nodes at fault."""
    network = PlacedNetwork(seed, MEMBERS, FAULTY + 1, lost_of_hundred=5)
    acknowledged: list[bytes] = []
    random = Random(seed)
    for _ in range(5):
        one_era(network, acknowledged, random)
    assert len(acknowledged) > 150
    network.lost_of_hundred = 0
    for _ in range(2):  # eras in which nobody comes or goes
        network.begin_era(network.members())
        for _ in range(replication.REREAD_SECONDS + 3 * CHECK_SECONDS):
            network.second()
        assert_all_found(network, acknowledged)
    assert not network.misplaced()
    assert not network.faults


@pytest.mark.parametrize("seed", range(2))
def test_with_as_many_liars_as_may_be_all_is_found_and_honest_nodes_hold_their_share(seed: int) -> None:
    network = PlacedNetwork(seed, MEMBERS, FAULTY + 1)
    for node in network.members()[:FAULTY]:
        node.lies = True
    files = [file_number(number) for number in range(60)]
    acknowledged = [data for data in files if network.put(data)]
    assert len(acknowledged) == 60
    for _ in range(30):
        network.second()
    assert_all_found(network, acknowledged)
    assert not network.misplaced()


def test_where_all_keepers_lie_a_full_copy_is_found() -> None:
    """One replica is too few against a liar; a node that keeps everything makes up for it."""
    network = PlacedNetwork(0, 4, 1)
    library = network.nodes[3]
    library.holding.limits = Limits()
    library.core.table.set_placed(False)
    network.nodes[0].lies = True
    files = [file_number(number) for number in range(20)]
    for data in files:
        network.announced.add(sha256(data))
        library.core.put_file(data)
    for _ in range(20):
        network.second()
    at_the_liar = [data for data in files if network.nodes[0].key in network.placement().holders(sha256(data))]
    assert at_the_liar
    assert_all_found(network, files)
    assert library.holding.full


def test_beyond_its_limit_a_node_goes_over_to_its_share_and_back_when_little_is_left() -> None:
    network = PlacedNetwork(0, 6, 3, Limits(full_files=20))
    files = [file_number(number) for number in range(60)]
    for data in files[:20]:
        network.put(data)
    for _ in range(5):
        network.second()
    assert all(node.holding.full and node.core.table.files == 20 for node in network.nodes.values())
    for data in files[20:]:
        network.put(data)
    for _ in range(30):
        network.second()
        assert_all_found(network, files)
    assert not any(node.holding.full for node in network.nodes.values())
    assert not network.misplaced()
    assert sum(node.core.shedding.dropped for node in network.nodes.values()) > 0
    network.announced -= {sha256(data) for data in files[8:]}
    for _ in range(replication.PRUNE_SECONDS + 5):
        network.second()
    for _ in range(replication.REREAD_SECONDS + replication.SUMMARY_SECONDS):
        network.second()
    assert all(node.holding.full and node.core.table.files == 8 for node in network.nodes.values())


def test_nothing_is_given_away_while_one_of_its_keepers_is_down() -> None:
    network = PlacedNetwork(0, 6, 3)
    data = file_number(0)
    network.announced.add(sha256(data))
    keepers = network.placement().keepers(sha256(data))
    by_key = {node.key: node for node in network.nodes.values()}
    network.end(by_key[keepers[1]])
    stranger = next(node for node in network.nodes.values() if node.key not in keepers)
    stranger.core.put_file(data)
    for _ in range(3 * CHECK_SECONDS):
        network.second()
    assert stranger.core.table.file(sha256(data)) == data
    assert by_key[keepers[0]].core.table.file(sha256(data)) == data  # those that are there have fetched it meanwhile


def test_a_restarted_node_remembers_that_it_keeps_its_share() -> None:
    network = PlacedNetwork(0, 4, 1)
    network.put(file_number(0))
    for _ in range(2 * CHECK_SECONDS):
        network.second()
    node = next(node for node in network.nodes.values() if node.core.table.files)
    assert not node.holding.full
    again = holding.RoutingTable(node.core.table._store)
    assert again.placed
    again.set_placed(False)
    assert not holding.RoutingTable(node.core.table._store).placed


# Address records


def record(key: SigningKey, sequence: int, now_s: int = START) -> bytes:
    place = (Endpoint("tls", "127.0.0.1", sequence + 1),)
    return sign_record(AddressRecord("thermo", key.public, sequence, now_s, now_s + 600, b"", place), key)


def test_the_highest_sequence_wins_at_all_holders_and_strangers_let_go() -> None:
    """Each holder, and one that is none, hears of another version first."""
    network = PlacedNetwork(0, 6, 3)
    key = SigningKey(b"\x07" * 32)
    network.instance_keys = (key.public,)
    slot = slot_of("thermo", key.public)
    holders = network.placement().holders(slot)
    chosen = [node for node in network.nodes.values() if node.key in holders]
    stranger = next(node for node in network.nodes.values() if node.key not in holders)
    for sequence, node in enumerate([*chosen, stranger], 1):
        node.core.put_record(record(key, sequence), network.now)
    for _ in range(3 * CHECK_SECONDS):
        network.second()
    newest = record(key, 4)
    for node in network.nodes.values():
        assert node.core.table.records("thermo", network.now) == ([newest] if node in chosen else [])
    chosen[0].core.put_record(record(key, 9), network.now)
    network.second()
    assert all(node.core.table.records("thermo", network.now) == [record(key, 9)] for node in chosen)


# Bad input


def test_a_peer_that_announces_thousands_of_records_gets_no_more_time_than_its_allowance(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where a record belongs has to be computed for each claim; a flood of them is not looked at beyond a limit."""
    network = PlacedNetwork(0, 4, 1)
    node = network.nodes[0]
    node.core.table.set_placed(True)
    asked = []
    original = Placement.holders
    monkeypatch.setattr(Placement, "holders", lambda self, key: asked.append(key) or original(self, key))
    monkeypatch.setattr(holding, "SCORES_PER_STEP", 4 * 50)
    for part in range(8):
        numbers = range(part * 1_000, part * 1_000 + 1_000)
        entries = tuple(Entry(sha256(b"%d" % n), sha256(b"s%d" % n), 1) for n in numbers)
        node.core.receive(1, encode_routing(Have(entries)), START)
    assert len(asked) <= replication.CLAIM_STEPS_PER_SECOND * 50
    assert node.core.wanted <= len(asked)


def test_a_peer_that_turns_empty_pages_without_end_is_blamed_or_waited_out() -> None:
    network = PlacedNetwork(0, 4, 1)
    core = network.nodes[0].core
    core.table.set_placed(True)
    core.outgoing()
    core.receive(1, encode_routing(Summary(9, b"\x01" * 32, full=False)), START)
    asked = 0
    for number in range(1, 1_000):
        pages = [m for _, data in core.outgoing() if isinstance(m := decode_routing(data), Ask)]
        if not pages:
            break
        asked += 1
        assert pages[0].mine
        core.receive(1, encode_routing(Page((), last=False, reached=b"f" + number.to_bytes(32))), START)
    assert asked <= replication.ENTRIES_PER_SECOND // 2 // replication.PAGE_COST_ENTRIES + 2
    core.receive(1, encode_routing(Summary(9, b"\x01" * 32, full=False)), START + 5)
    core.tick(START + 5)
    with pytest.raises(replication.Malformed):
        core.receive(1, encode_routing(Page((), last=False, reached=b"f" + bytes(32))), START + 5)


def test_a_check_is_answered_with_what_is_held_and_what_lacks_is_fetched() -> None:
    network = PlacedNetwork(0, 4, 4)
    data, lacking = file_number(0), file_number(1)
    network.announced |= {sha256(data), sha256(lacking)}
    core = network.nodes[0].core
    core.put_file(data)
    core.outgoing()
    core.receive(1, encode_routing(Check((Entry(sha256(data)), Entry(sha256(lacking))))), START)
    answers = [decode_routing(answer) for _, answer in core.outgoing()]
    assert [answer.ids for answer in answers if isinstance(answer, replication.Held)] == [(sha256(data),)]
    assert [answer.ids for answer in answers if isinstance(answer, replication.Fetch)] == [(sha256(lacking),)]
