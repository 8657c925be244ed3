"""Sessions on networks that change and fail: real programs in namespaces, a real ledger, and cables that are pulled.

The consumer sends numbered messages and the provider echoes them; each must come back once, unchanged and in order
(`bench/roaming.py` says so itself, and ends otherwise), whatever happens below the session.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from blockcloud.bench.flaky_road import Weather
from blockcloud.bench.private_network import ip
from blockcloud.bench.roaming import CABLES, CONSUMER, PROVIDER, Ends, ends, ledger_at
from blockcloud.service_access.addresses import QUIC
from tests.end_to_end.private_network import private_network

pytestmark = pytest.mark.long

LARGE_MESSAGE_BYTES = 16 * 1024
SMALLEST_MTU = 576  # what every IPv4 host must take (RFC 791)
SMALLEST_QUIC_MTU = 1_280  # a first packet of QUIC fills 1,200 bytes and may not be cut up (RFC 9000)
FLAPS = 6
CUT_SECONDS = 1.5  # how long a fault lasts
THERE_AND_BACK = [(PROVIDER, CONSUMER), (CONSUMER, PROVIDER)]


async def test_sessions_outlive_what_networks_do(tmp_path: Path) -> None:
    with private_network(2, seed=5, cables=CABLES) as place:
        async with ledger_at(tmp_path, place.maker_address) as homes:
            for listens in (True, False):
                async with ends(place, homes, listens=listens) as both:
                    await each_end_and_both_at_once_change_their_networks(both)
            async with ends(place, homes) as both:
                await a_cable_comes_and_goes(both)
                await ways_are_cut_in_one_direction(both)
            async with ends(place, homes, message_bytes=LARGE_MESSAGE_BYTES) as both:
                await moves_on_a_bad_line_with_small_packets(both, SMALLEST_MTU)


@pytest.mark.timeout(240)  # the programs start slowly beside other work
async def test_sessions_over_quic_outlive_it_too(tmp_path: Path) -> None:
    with private_network(2, seed=6, cables=CABLES) as place:
        async with ledger_at(tmp_path, place.maker_address) as homes:
            async with ends(place, homes, kind=QUIC) as both:
                await each_end_and_both_at_once_change_their_networks(both)
                await a_cable_comes_and_goes(both)
                await ways_are_cut_in_one_direction(both)
            async with ends(place, homes, kind=QUIC, message_bytes=LARGE_MESSAGE_BYTES) as both:
                await moves_on_a_bad_line_with_small_packets(both, SMALLEST_QUIC_MTU)


async def each_end_and_both_at_once_change_their_networks(both: Ends) -> None:
    for movers in ([both.provider], [both.consumer], [both.provider, both.consumer]) * 2:
        await both.note()
        await asyncio.gather(*(mover.move() for mover in movers))
        await both.settled()


async def a_cable_comes_and_goes(both: Ends) -> None:
    for number in range(FLAPS):
        await both.note()
        host, cut = (PROVIDER, CONSUMER)[number % 2], (both.place.unplug, both.place.take_down)[number // 2 % 2]
        cut(host)
        both.place.heal()
        await both.settled(moved=False)


async def ways_are_cut_in_one_direction(both: Ends) -> None:
    """For longer than a silent link is trusted, and for less than a session lasts without one."""
    for direction in THERE_AND_BACK:
        for how in ("blackhole", "unreachable"):
            await both.note()
            both.place.drop([direction], how)
            found_dead = asyncio.create_task(both.settled())
            await asyncio.sleep(CUT_SECONDS)
            both.place.heal()
            await found_dead


async def moves_on_a_bad_line_with_small_packets(both: Ends, mtu: int) -> None:
    for host in (PROVIDER, CONSUMER):
        for cable in ("cable", "cable1"):
            ip(f"link set {cable} mtu {mtu}", inside=both.place.namespace(host))
    await both.settled(moved=False)
    both.place.spoil(THERE_AND_BACK, Weather(lost=0.02, doubled=0.02, delay_s=0.01, jitter_s=0.005))
    await both.settled(moved=False)
    for mover in (both.provider, both.consumer) * 2:
        await both.note()
        await mover.move()
        await both.settled()
