"""Replication among routing nodes, in a deterministic loop: everybody ends with everything, whatever peers do."""

from collections.abc import Callable, Iterable
from contextlib import suppress
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockcloud.primitives.codec import encode
from blockcloud.primitives.errors import Malformed, PeerFault
from blockcloud.primitives.hashes import sha256
from blockcloud.primitives.keys import SigningKey
from blockcloud.primitives.storage import MemoryStore
from blockcloud.routing import replication
from blockcloud.routing.address_record import AddressRecord, Endpoint, sign_record
from blockcloud.routing.errors import Flooding, Unsolicited
from blockcloud.routing.messages import (
    Ask,
    Delivery,
    Fetch,
    Have,
    Page,
    Summary,
    decode_routing,
    encode_routing,
)
from blockcloud.routing.replication import RoutingCore
from blockcloud.routing.service_file import build_service_file
from blockcloud.routing.store import Entry, RoutingTable, slot_of

START = 1_800_000_000
NAME = "thermo.kitchen.acme"
KEYS = [SigningKey(bytes([number]) * 32) for number in range(8)]
FILES = [build_service_file(NAME, f"Version {number}", description="x" * 2_000) for number in range(60)]
ANNOUNCED = {sha256(data) for data in FILES}

Filter = Callable[[int, int, bytes], Iterable[bytes]]


def record(sequence: int, key: SigningKey = KEYS[0], issued_s: int = START, port: int = 1, lease_s: int = 120) -> bytes:
    endpoints = (Endpoint("tls", "127.0.0.1", port),)
    return sign_record(AddressRecord(NAME, key.public, sequence, issued_s, issued_s + lease_s, b"", endpoints), key)


def new_core(
    store: MemoryStore | None = None, announced: Callable[[bytes], bool] = ANNOUNCED.__contains__
) -> RoutingCore:
    return RoutingCore(RoutingTable(store or MemoryStore()), announced, lambda name: tuple(k.public for k in KEYS))


class Network:
    """Cores that are linked all to all; messages arrive in order, a filter may drop or replace them."""

    def __init__(self, size: int, alter: Filter | None = None) -> None:
        self.now = START
        self.cores = {number: new_core() for number in range(size)}
        self.alter = alter
        self.faults: list[tuple[int, int, PeerFault]] = []
        self.messages = 0
        for number in self.cores:
            self.link(number)

    def link(self, number: int) -> None:
        for other in self.cores:
            if other < number:
                self.cores[number].peer_connected(other)
                self.cores[other].peer_connected(number)

    def kill(self, number: int) -> None:
        del self.cores[number]
        for core in self.cores.values():
            core.peer_lost(number)

    def settle(self) -> None:
        """Deliver until nothing is under way."""
        for _ in range(2_000):
            sent = [(source, *item) for source, core in list(self.cores.items()) for item in core.outgoing()]
            if not sent:
                return
            for source, target, data in sent:
                for altered in self.alter(source, target, data) if self.alter else (data,):
                    self.messages += 1
                    if target in self.cores:
                        try:
                            self.cores[target].receive(source, altered, self.now)
                        except PeerFault as fault:
                            self.faults.append((target, source, fault))
        raise AssertionError("the exchange does not come to rest")

    def run(self, seconds: int) -> None:
        self.settle()
        for _ in range(seconds):
            self.now += 1
            for core in self.cores.values():
                core.tick(self.now)
            self.settle()

    def agreed(self) -> bool:
        return len({(len(core.table), core.table.digest) for core in self.cores.values()}) == 1


def test_news_reach_everybody_at_once() -> None:
    network = Network(4)
    network.settle()
    network.cores[0].put_file(FILES[0])
    network.cores[1].put_record(record(1), network.now)
    network.settle()
    for core in network.cores.values():
        assert core.table.file(sha256(FILES[0])) == FILES[0]
        assert core.table.records(NAME, network.now) == [record(1)]
        assert core.wanted == 0
    network.cores[2].put_record(record(2, port=9), network.now)
    network.settle()
    assert network.cores[3].table.records(NAME, network.now) == [record(2, port=9)]
    assert not network.faults


def test_a_node_that_starts_empty_serves_what_another_since_killed_held() -> None:
    network = Network(3)
    for data in FILES:
        network.cores[0].put_file(data)
    network.cores[0].put_record(record(1), network.now)
    network.settle()
    network.kill(0)
    network.kill(1)
    network.cores[5] = new_core()
    network.link(5)
    network.settle()
    network.kill(2)
    table = network.cores[5].table
    assert [table.file(sha256(data)) for data in FILES] == FILES
    assert table.records(NAME, network.now) == [record(1)]


def test_a_file_survives_the_restart_of_the_only_node() -> None:
    store = MemoryStore()
    new_core(store).put_file(FILES[0])
    assert new_core(store).table.file(sha256(FILES[0])) == FILES[0]


def test_leases_end_everywhere_and_files_stay() -> None:
    network = Network(4)
    network.cores[0].put_record(record(1), network.now)
    network.cores[0].put_file(FILES[0])
    network.run(160)
    assert network.agreed()
    assert [core.table.records(NAME, network.now) for core in network.cores.values()] == [[]] * 4
    assert all(len(core.table) == 1 for core in network.cores.values())


def test_an_idle_network_is_quiet() -> None:
    network = Network(4)
    network.cores[0].put_file(FILES[0])
    network.run(1)
    before = network.messages
    network.run(60)
    assert network.messages - before <= 4 * 3 * 7  # summaries only


@given(st.integers(0, 2**32), st.integers(1, 4))
def test_everybody_ends_with_everything_over_lossy_links(seed: int, lost_of_ten: int) -> None:
    random = Random(seed)
    network = Network(4, lambda source, target, data: () if random.randrange(10) < lost_of_ten else (data,))
    for number, data in enumerate(FILES[:12]):
        network.cores[number % 4].put_file(data)
    for number, key in enumerate(KEYS):
        network.cores[number % 4].put_record(record(number, key, lease_s=3_600), START)
    for _ in range(60):
        network.run(5)
        if network.agreed():
            break
    assert network.agreed()
    assert len(network.cores[0].table) == 20
    assert not network.faults


def test_the_rarest_comes_first() -> None:
    core = new_core()
    for peer in (1, 2, 3):
        core.peer_connected(peer)
    entries = [Entry(sha256(data)) for data in FILES]
    for peer, held in ((1, entries[:50]), (2, entries[:50]), (3, entries[50:])):
        # Held back by more than one peer's room, so that an order shows.
        core.receive(peer, encode_routing(Have(tuple(held))), START)
    core.outgoing()
    core.receive(1, encode_routing(Have(tuple(entries[50:59]))), START)
    fetched = [m for p, m in sent(core) if isinstance(m, Fetch)]
    assert fetched == []  # all of them are on their way already
    core = new_core()
    core.peer_connected(1)
    core.peer_connected(2)
    core._peers[1].in_flight = core._peers[2].in_flight = 32
    core.receive(1, encode_routing(Have(tuple(entries))), START)
    core.receive(2, encode_routing(Have(tuple(entries[:50]))), START)
    core._peers[1].in_flight = 0
    core.tick(START)
    (fetch,) = [m for p, m in sent(core) if isinstance(m, Fetch)]
    assert set(fetch.ids) >= {entry.id for entry in entries[50:]}


def sent(core: RoutingCore) -> list[tuple[int, object]]:
    return [(peer, decode_routing(data)) for peer, data in core.outgoing()]


def test_a_peer_that_offers_and_never_delivers_hinders_nobody() -> None:
    """Node 0 answers every question about inventories and no fetch."""

    def withholding(source: int, target: int, data: bytes) -> Iterable[bytes]:
        return () if source == 0 and isinstance(decode_routing(data), Delivery) else (data,)

    network = Network(3, withholding)
    for core in network.cores.values():
        for data in FILES:
            if core is not network.cores[2]:
                core.table.put_file(data, ANNOUNCED.__contains__)
    network.run(20)
    assert network.agreed()
    assert len(network.cores[2].table) == len(FILES)


def test_a_peer_that_delivers_wrong_data_is_blamed_and_the_next_is_asked() -> None:
    impostor = build_service_file(NAME, "Impostor")

    def forging(source: int, target: int, data: bytes) -> Iterable[bytes]:
        message = decode_routing(data)
        if source == 0 and isinstance(message, Delivery):
            return [encode_routing(Delivery(tuple(impostor for _ in message.files), ()))]
        return [data]

    network = Network(3, forging)
    for number in (0, 1):
        for data in FILES[:10]:
            network.cores[number].table.put_file(data, ANNOUNCED.__contains__)
    network.run(20)
    assert len(network.cores[2].table) == 10
    assert network.cores[2].table.file(sha256(impostor)) is None
    assert {(target, source) for target, source, _ in network.faults} == {(2, 0)}
    assert all(isinstance(fault, Unsolicited) for *_, fault in network.faults)


def test_a_record_that_a_peer_forged_is_blamed_on_it_and_not_kept() -> None:
    core = new_core()
    core.peer_connected(1)
    tampered = record(1)[:-1] + b"\x00"
    slot = slot_of(NAME, KEYS[0].public)
    core.receive(1, encode_routing(Have((Entry(sha256(tampered), slot, 1),))), START)
    with pytest.raises(PeerFault):
        core.receive(1, encode_routing(Delivery((), (tampered,))), START)
    assert len(core.table) == 0
    core.outgoing()
    core.receive(1, encode_routing(Have((Entry(sha256(tampered), slot, 1),))), START)
    assert not sent(core)  # not asked for a second time


def test_a_file_that_is_announced_a_moment_later_is_fetched_then() -> None:
    announced: set[bytes] = set()
    core = new_core(announced=announced.__contains__)
    core.peer_connected(1)
    core.receive(1, encode_routing(Have((Entry(sha256(FILES[0])),))), START)
    core.tick(START + 1)
    assert not [m for _, m in sent(core) if isinstance(m, Fetch)]
    announced.add(sha256(FILES[0]))
    core.tick(START + 2)
    assert [m.ids for _, m in sent(core) if isinstance(m, Fetch)] == [(sha256(FILES[0]),)]


def test_a_record_that_came_before_its_key_was_on_our_ledger_is_fetched_again_soon() -> None:
    network = Network(1)
    network.cores[0].put_record(record(1), network.now)
    keys: list[bytes] = []
    network.cores[1] = RoutingCore(RoutingTable(MemoryStore()), ANNOUNCED.__contains__, lambda name: tuple(keys))
    network.link(1)
    network.run(1)
    assert not network.cores[1].table.records(NAME, network.now)
    keys.append(KEYS[0].public)
    network.run(replication.BEHIND_SECONDS + replication.SUMMARY_SECONDS + 1)
    assert network.cores[1].table.records(NAME, network.now) == [record(1)]
    assert not network.faults


def test_what_is_never_announced_is_forgotten() -> None:
    core = new_core(announced=lambda _: False)
    core.peer_connected(1)
    core.receive(1, encode_routing(Have(tuple(Entry(sha256(data)) for data in FILES))), START)
    assert 0 < core.wanted <= replication.UNANNOUNCED_PER_PEER
    core.tick(START + 31)
    assert core.wanted == 0
    assert core._peers[1].wanted == core._peers[1].unannounced == 0


def flood(start: int, count: int) -> Have:
    return Have(tuple(Entry(sha256(b"i%d" % i), sha256(b"s%d" % i), 1) for i in range(start, start + count)))


def test_a_flood_of_inventories_stays_within_its_quota() -> None:
    core = new_core()
    core.peer_connected(1)
    core.peer_connected(2)
    for part in range(10):
        core.receive(1, encode_routing(flood(part * 1_000, 1_000)), START)
    with pytest.raises(Flooding):
        core.receive(1, encode_routing(flood(10_000, 1)), START)
    assert core.wanted <= replication.WANTED_PER_PEER
    fetches = [m for p, m in sent(core) if isinstance(m, Fetch)]
    assert sum(len(m.ids) for m in fetches) <= 32
    # The honest peer gets through.
    slot = slot_of(NAME, KEYS[0].public)
    core.receive(2, encode_routing(Have((Entry(sha256(record(1)), slot, 1),))), START)
    core.receive(2, encode_routing(Delivery((), (record(1),))), START)
    assert core.table.records(NAME, START) == [record(1)]
    core.peer_lost(1)
    assert core.wanted == 0


def test_a_big_inventory_is_read_in_pages_within_the_quota() -> None:
    """More than a quota of records at one peer; every page is asked for once there is room."""
    keys = [SigningKey(number.to_bytes(32)) for number in range(1, 2_501)]
    listed = tuple(key.public for key in keys)
    cores = [RoutingCore(RoutingTable(MemoryStore()), lambda _: True, lambda name: listed) for _ in range(2)]
    for key in keys:
        cores[0].table.put_record(record(1, key), START, lambda name: listed)
    network = Network(0)
    network.cores = dict(enumerate(cores))
    network.link(1)
    peak = 0
    for _ in range(60):
        network.run(1)
        peak = max(peak, cores[1].wanted)
    assert len(cores[1].table) == 2_500
    assert peak <= replication.WANTED_PER_PEER
    assert not network.faults


def test_serving_is_limited_for_each_peer_and_second() -> None:
    core = new_core()
    core.peer_connected(1)
    for data in FILES:
        core.put_file(data)
    core.outgoing()
    request = encode_routing(Fetch(tuple(sorted(ANNOUNCED))[:32]))
    for _ in range(400):
        core.receive(1, request, START)
    served = sum(len(data) for _, data in core.outgoing())
    assert replication.SERVED_BYTES_PER_SECOND // 2 < served < replication.SERVED_BYTES_PER_SECOND * 1.1
    core.receive(1, request, START + 1)
    assert core.outgoing()


@pytest.mark.parametrize(
    "message",
    [
        Summary(1, b"short"),
        Summary(-1, bytes(32)),
        Ask(b"x"),
        Have((Entry(b"short"),)),
        Have((Entry(bytes(32), b"short"),)),
        Have((Entry(bytes(32), b"", 1),)),
        Have((Entry(bytes(32), bytes(32), -1),)),
        Have((Entry(bytes(32)),) * 1_001),
        Page((Entry(b"\x02" * 32), Entry(b"\x01" * 32)), True),
        Fetch((bytes(32),) * 33),
        Fetch((b"",)),
        Delivery((bytes(20_000),), ()),
        Delivery((), (bytes(2_000),)),
        Delivery((b"unasked",), ()),
    ],
)
def test_messages_that_break_a_limit_are_blamed_on_the_peer(message: object) -> None:
    core = new_core()
    core.peer_connected(1)
    with pytest.raises(PeerFault):
        core.receive(1, encode([message]), START)
    assert core.wanted == 0


def test_unknown_messages_are_malformed_and_strangers_are_ignored() -> None:
    core = new_core()
    with pytest.raises(Malformed):
        decode_routing(encode([[9, 1]]))
    core.receive(7, b"garbage of a link that is gone", START)
    assert core.outgoing() == []


messages = st.one_of(
    st.builds(Summary, st.integers(0, 9), st.binary(min_size=32, max_size=32)),
    st.builds(Ask, st.sampled_from([b"", bytes(33), b"r" + b"\xff" * 32])),
    st.builds(Page, st.lists(st.sampled_from([Entry(sha256(f)) for f in FILES]), max_size=4).map(tuple), st.booleans()),
    st.builds(Have, st.lists(st.sampled_from([Entry(sha256(f)) for f in FILES]), max_size=4).map(tuple)),
    st.builds(Fetch, st.lists(st.sampled_from([sha256(f) for f in FILES]), max_size=4).map(tuple)),
    st.builds(Delivery, st.lists(st.sampled_from(FILES), max_size=3).map(tuple), st.just(())),
)


@given(
    st.lists(
        st.tuples(
            st.integers(1, 3),
            st.binary(max_size=60) | messages.map(encode_routing) | st.sampled_from(["lost", "back"]),
            st.integers(0, 3),
        ),
        max_size=40,
    )
)
def test_any_sequence_of_events_keeps_the_accounts_right(events: list[tuple[int, bytes | str, int]]) -> None:
    core, now = new_core(), START
    for peer in (1, 2, 3):
        core.peer_connected(peer)
    for peer, event, seconds in events:
        if event == "lost":
            core.peer_lost(peer)
        elif event == "back":
            core.peer_connected(peer)
        elif isinstance(event, bytes):
            with suppress(PeerFault):
                core.receive(peer, event, now)
        now += seconds
        core.tick(now)
        for peer, state in core._peers.items():
            mine = [wanted for wanted in core._wanted.values() if wanted.sponsor == peer]
            assert state.wanted == len(mine)
            assert state.in_flight == len([w for w in core._wanted.values() if w.asked == peer]) <= 32
            assert state.unannounced == 0
        assert all(wanted.sponsor in core._peers for wanted in core._wanted.values())
        assert all(data in FILES for data in map(core.table.file, ANNOUNCED) if data)
