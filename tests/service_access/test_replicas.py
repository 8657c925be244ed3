"""Instances on loopback: load that they tell, drain, health and probes, stickiness, round trips of running sessions."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockcloud.primitives.errors import Unreachable
from blockcloud.primitives.keys import SigningKey
from blockcloud.routing.address_record import AddressRecord, Endpoint, read_record, sign_record
from blockcloud.routing.cose import sign1
from blockcloud.routing.errors import InvalidAddressRecord
from blockcloud.service_access import announce, connector
from blockcloud.service_access.announce import AddressAnnouncer
from blockcloud.service_access.connector import Connector
from blockcloud.service_access.errors import SessionReset
from blockcloud.service_access.listener import Listener
from blockcloud.service_access.load import TELL_INTERVAL_MS, LoadMeter
from blockcloud.service_access.replica_choice import UNHEALTHY_AFTER
from blockcloud.service_access.service_table import Origin
from blockcloud.service_access.session import SessionParameters
from tests.service_access.access_world import NAME, World, bounded, until


@given(samples=st.lists(st.tuples(st.integers(0, 400), st.floats(0, 10_000)), min_size=1), capacity=st.integers(1, 300))
def test_load_is_a_share_of_capacity_or_of_lag(samples: list[tuple[int, float]], capacity: int) -> None:
    meter = LoadMeter(capacity)
    for sessions, lag_ms in samples:
        load = meter.sample(sessions, lag_ms)
        assert min(1_000, round(1_000 * sessions / capacity)) <= load <= 1_000
    if not any(lag_ms for _, lag_ms in samples):
        assert meter.load == min(1_000, round(1_000 * samples[-1][0] / capacity))


def test_a_change_is_told_when_it_is_large_and_not_too_often() -> None:
    meter = LoadMeter(10)
    assert not meter.is_worth_telling(0)
    meter.sample(2, 0)
    assert meter.is_worth_telling(0)
    meter.told(0)
    meter.sample(9, 0)
    assert not meter.is_worth_telling(TELL_INTERVAL_MS - 1)
    assert meter.is_worth_telling(TELL_INTERVAL_MS)
    meter.sample(2, 0)
    assert not meter.is_worth_telling(TELL_INTERVAL_MS)


async def test_a_provider_tells_its_load_when_it_has_changed_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(announce, "SAMPLE_MS", 5)
    sessions = 0

    class Records:
        """Keeps the loads that it is told."""

        loads: list[int] = []  # noqa: RUF012  one instance

        async def announce(self, record: bytes) -> None:
            self.loads.append(read_record(record).load)

    announcer = AddressAnnouncer(
        "a.b", SigningKey.generate(), lambda: (), Records(), sessions=lambda: sessions, meter=LoadMeter(10)
    )
    monkeypatch.setattr("blockcloud.service_access.load.TELL_INTERVAL_MS", 0.0)
    await announcer.start()
    sessions = 8
    await until(lambda: max(Records.loads) >= 800)
    await announcer.close()


async def test_the_load_of_a_real_listener_is_its_sessions(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(announce, "SAMPLE_MS", 5)
    monkeypatch.setattr("blockcloud.service_access.load.TELL_INTERVAL_MS", 0.0)
    await world.listener(capacity=4)
    endpoint = await world.endpoint()
    for _ in range(3):
        await Connector(endpoint, world.registry).connect(NAME)
    await until(lambda: [each.load >= 750 for each in world.registry.instances[NAME].values()] == [True])


def test_the_claim_that_an_instance_drains() -> None:
    key = SigningKey.generate()
    record = AddressRecord("a.b", key.public, 1, 10, 20, b"", (Endpoint("tls", "h", 1),), 0, True)
    assert read_record(sign_record(record, key)) == record
    claims = {2: "a.b", 4: 20, 6: 10, -65537: 1, -65538: b"", -65539: [], -65540: 0}
    for bad in (False, 1, None):
        with pytest.raises(InvalidAddressRecord):
            read_record(sign1({**claims, -65541: bad}, "application/bc-addr+cwt", key))


async def test_a_draining_instance_keeps_its_sessions_and_gets_no_new_ones(world: World) -> None:
    first = await world.listener()
    endpoint = await world.endpoint()
    connector_ = Connector(endpoint, world.registry)
    kept = await bounded(connector_.connect(NAME))
    provider = await bounded(first.accept())
    drained = asyncio.create_task(first.drained())
    first.drain()
    await until(lambda: any(each.draining for each in world.registry.instances[NAME].values()))
    with pytest.raises(SessionReset) as refused:
        await bounded(connector_.connect(NAME))  # there is no other
    assert refused.value.reset_code == "draining"
    second = await world.listener()
    for _ in range(5):
        session = await bounded(connector_.connect(NAME))
        assert session.peer_key == next(iter(second_key(world, second)))
        await bounded(second.accept())
    await kept.write(b"still here")
    assert await bounded(provider.read()) == b"still here"
    await first.move("127.0.0.12")
    await kept.write(b"and moved")
    assert await bounded(provider.read()) == b"and moved"
    assert not drained.done()
    await asyncio.gather(kept.close(), provider.close())
    await bounded(drained)


def second_key(world: World, listener: Listener) -> set[bytes]:
    """The key of the instance at the listener's address."""
    return {
        each.key for each in world.registry.instances[NAME].values() if each.addresses() == list(listener.addresses)
    }


async def test_a_drain_that_is_taken_back(world: World) -> None:
    listener = await world.listener()
    endpoint = await world.endpoint()
    listener.drain()
    listener.drain(False)
    drained = asyncio.create_task(listener.drained())
    await bounded(Connector(endpoint, world.registry).connect(NAME))
    await bounded(listener.accept())
    assert not drained.done()
    drained.cancel()


async def test_a_sick_instance_is_left_alone_and_comes_back_by_a_probe(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connector, "FRESHEN_SECONDS", 0.01)
    good, bad = await world.listener(), await world.listener()
    (bad_key,) = second_key(world, bad)
    (good_key,) = second_key(world, good)
    endpoint = await world.endpoint()
    connecting = Connector(endpoint, world.registry)
    (address,) = bad.addresses
    bad.endpoint.stop_listening()
    while endpoint.choice.standing(bad_key).failures < UNHEALTHY_AFTER:
        session = await bounded(connecting.connect(NAME))  # the race hides the failure
        assert session.peer_key == good_key
    fresh = asyncio.create_task(connecting.keep_fresh())
    before = endpoint.choice.standing(bad_key).failures
    await until(lambda: endpoint.choice.standing(bad_key).failures > before)  # asked, and found sick again
    await bad.endpoint.start(address.host, address.port)
    await until(lambda: endpoint.choice.standing(bad_key).failures == 0)
    assert bad.session_count == 0  # a probe begins no session
    fresh.cancel()
    chosen: Counter[bytes] = Counter()
    while len(chosen) < 2:
        chosen[(await bounded(connecting.connect(NAME))).peer_key] += 1


async def test_a_sticky_consumer_gets_the_same_instance(world: World) -> None:
    listeners = [await world.listener() for _ in range(4)]
    chosen = set()
    for _ in range(6):
        endpoint = await world.endpoint()  # as if each were a process of its own
        chosen.add((await bounded(Connector(endpoint, world.registry, sticky=b"me").connect(NAME))).peer_key)
    assert len(chosen) == 1
    (gone,) = [each for each in listeners if second_key(world, each) == chosen]
    gone.endpoint.stop_listening()
    sticky = Connector(endpoint, world.registry, sticky=b"me")
    others = {(await bounded(sticky.connect(NAME))).peer_key for _ in range(4)}
    assert len(others) == 1
    assert others != chosen


async def test_running_sessions_measure_the_round_trip(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connector, "OBSERVE_MS", 0.0)
    parameters = SessionParameters(heartbeat_ms=10, dead_after_ms=5_000)
    _, endpoint, _, consumer = await world.pair(parameters=parameters)
    handshake_ms = consumer.statistics.round_trip_ms  # 0 if it took no turn of uvloop, whose clock counts by turns
    await until(lambda: consumer.statistics.round_trip_at_ms)
    standing = endpoint.choice.standing(consumer.peer_key)
    assert (standing.in_flight, standing.round_trip_ms) == (1, handshake_ms)
    measured_ms = standing.measured_ms
    Connector(endpoint, world.registry)._ranked(await world.registry.resolve(NAME))  # what a connect begins with
    assert standing.measured_ms > measured_ms
    consumer.abort("closed", "enough")
    assert standing.in_flight == 0


async def test_the_table_follows_new_records_and_the_ledger(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connector, "FRESHEN_SECONDS", 0.01)
    listener = await world.listener()
    endpoint = await world.endpoint()
    connecting = Connector(endpoint, world.registry)
    await bounded(connecting.connect(NAME))
    fresh = asyncio.create_task(connecting.keep_fresh())
    (rule,) = [each for each in endpoint.table.rules() if each.origin is Origin.RECORD]
    address = await listener.move("127.0.0.13")
    await until(lambda: rule.addresses == (address,))
    await world.listener()
    await until(lambda: len(endpoint.table) == 2)
    world.registry.keys[NAME].remove(rule.key)  # revoked
    await until(lambda: rule not in endpoint.table.rules())
    del world.registry.keys[NAME]
    await until(lambda: len(endpoint.table) == 0)
    fresh.cancel()


async def test_where_the_user_forwards_to_is_all_that_is_tried(world: World) -> None:
    from blockcloud.service_access.addresses import Address
    from blockcloud.service_access.service_table import Action, Rule

    await world.listener()
    endpoint = await world.endpoint()
    endpoint.table.add(Rule(NAME, Action.FORWARD, (Address("tls", "127.0.0.1", 1),)), 0)
    with pytest.raises(Unreachable):
        await bounded(Connector(endpoint, world.registry).connect(NAME))
