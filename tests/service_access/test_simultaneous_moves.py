"""Both ends move at once: over what is left of the old link if there is one, through the registry if not."""

from __future__ import annotations

import asyncio
import hashlib
from functools import partial
from pathlib import Path

import pytest

from blockcloud.primitives.errors import Unreachable
from blockcloud.service_access.addresses import Address
from blockcloud.service_access.endpoint import ServiceEndpoint
from blockcloud.service_access.errors import SessionLost
from blockcloud.service_access.resolution import Resolution
from blockcloud.service_access.session import SessionParameters
from tests.service_access.access_world import Moves, World, bounded, digest_of, random_bytes, send_all, until

QUICK = SessionParameters(give_up_ms=800, dead_after_ms=400, heartbeat_ms=100, linger_ms=300)
PATIENT = SessionParameters(give_up_ms=15_000)
MEGABYTES = random_bytes(3_000_000)
DIGEST = hashlib.sha256(MEGABYTES).hexdigest()


class Silence:
    """A registry that gives no answer until it is told to."""

    def __init__(self, world: World) -> None:
        self.asked = 0
        self.answers = False
        self._resolve = world.registry.resolve
        world.registry.resolve = self.resolve  # type: ignore[method-assign]

    async def resolve(self, name: str, *, max_age_s: int = 60) -> Resolution:
        self.asked += 1
        if not self.answers:
            raise Unreachable("the registry is not to be reached")
        return await self._resolve(name, max_age_s=max_age_s)


def place(kind: str, host: str, folder: Path) -> Address:
    return Address(kind, str(folder / f"{host}.sock") if kind == "unix" else host, 0)


async def vanish(endpoint: ServiceEndpoint, host: str) -> None:
    """As when a cable is pulled and another plugged in: no word can be said over the links that were there."""
    await endpoint._switch_listeners([Address("tls", host, 0)])
    for callback in endpoint.moved:
        callback()


@pytest.mark.parametrize(
    ("provider_kinds", "consumer_kinds"),
    [(("tls", "tls"), ("tls", "tls")), (("quic", "unix"), ("tls", "quic")), (("unix", "tls"), ("quic", "tls"))],
    ids=["tls", "unlike", "unlike too"],
)
async def test_without_a_registry_the_old_link_is_enough(
    world: World, tmp_path: Path, provider_kinds: tuple[str, str], consumer_kinds: tuple[str, str]
) -> None:
    listener, endpoint, provider, consumer = await world.pair(consumer_host="127.0.0.40")
    Silence(world)

    async def both(step: int) -> None:
        await asyncio.gather(
            listener.endpoint.move_to([place(provider_kinds[step], f"127.0.0.{50 + step}", tmp_path)]),
            endpoint.move_to([place(consumer_kinds[step], f"127.0.0.{70 + step}", tmp_path)]),
        )

    moves = Moves([partial(both, step) for step in range(2)], 1_000_000)
    sending = [asyncio.create_task(send_all(each, MEGABYTES, moves)) for each in (provider, consumer)]
    results = await bounded(asyncio.gather(digest_of(consumer, moves.at), digest_of(provider)))
    assert results == [(len(MEGABYTES), DIGEST)] * 2
    await bounded(asyncio.gather(*sending))
    moves.results()
    assert consumer.statistics.resumes >= 2


async def test_without_a_word_the_registry_brings_them_together(world: World) -> None:
    listener, endpoint, provider, consumer = await world.pair(consumer_host="127.0.0.41", parameters=PATIENT)
    await asyncio.gather(vanish(listener.endpoint, "127.0.0.52"), vanish(endpoint, "127.0.0.72"))
    await until(lambda: world.registry.announced == 2)
    for session in (provider, consumer):
        session.drop_link()
    await provider.write(b"found")
    assert await bounded(consumer.read()) == b"found"
    assert world.registry.resolved >= 2
    assert provider.core.peer_addresses == endpoint.addresses
    assert consumer.core.peer_addresses == listener.addresses


async def test_a_registry_that_answers_late_is_in_time(world: World) -> None:
    listener, endpoint, provider, consumer = await world.pair(consumer_host="127.0.0.42", parameters=PATIENT)
    registry = Silence(world)
    await asyncio.gather(vanish(listener.endpoint, "127.0.0.53"), vanish(endpoint, "127.0.0.73"))
    for session in (provider, consumer):
        session.drop_link()
    await until(lambda: registry.asked >= 3)
    assert not consumer.linked
    registry.answers = True
    await consumer.write(b"found late")
    assert await bounded(provider.read()) == b"found late"


async def test_with_neither_both_programs_are_told(world: World) -> None:
    listener, endpoint, provider, consumer = await world.pair(consumer_host="127.0.0.43", parameters=QUICK)
    Silence(world)
    await asyncio.gather(vanish(listener.endpoint, "127.0.0.54"), vanish(endpoint, "127.0.0.74"))
    for session in (provider, consumer):
        session.drop_link()
    for session in (provider, consumer):
        with pytest.raises(SessionLost):
            await bounded(session.read())
