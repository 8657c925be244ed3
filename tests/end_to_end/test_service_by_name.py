"""Unmodified programs at both ends of a name: moves of both sides, a crash, a restart, and every plain mistake."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path

import pytest

from blockcloud.primitives.keys import SigningKey
from blockcloud.sdk.client import AsyncClient
from blockcloud.sdk.resolver import HttpAnnouncer
from blockcloud.service_access.addresses import Address
from blockcloud.service_access.announce import address_record
from tests.end_to_end.ledger_world import World, devnet_world, until
from tests.end_to_end.service_world import (
    NAME,
    SMALL,
    ServiceWorld,
    content_digest,
    digest_of,
    progress_of,
    service_world,
)

pytestmark = pytest.mark.long

MIB = 1024 * 1024
LARGE_BYTES = 128 * MIB  # more than all buffers on the way hold
RATE = MIB  # two minutes, of which the moves take a few seconds; then the client is told to hurry
STOP_SECONDS = 5
# A reader allows clocks to differ by 30 s; this lease ends 5 s after that.
LEASE_SECONDS, ISSUED_AGO_SECONDS = 35, 55


async def test_a_service_by_name_from_first_to_last(tmp_path: Path) -> None:
    async with (
        devnet_world(tmp_path / "net") as world,
        service_world(world, tmp_path, large_bytes=LARGE_BYTES, replicas=2) as service,
    ):
        await resolves_with(service, 2)
        await a_download_survives_moves_of_both_sides(service)
        await mistakes_are_named(service)
        await a_crash_ends_its_session_and_no_other(service)
        await a_stopped_service_is_gone(world, service)


async def resolves_with(service: ServiceWorld, instances: int) -> None:
    code, found, messages = await service.run(service.consumer, "resolve", NAME, "--service-file")
    assert code == 0, messages
    assert found["verified"] is True
    assert len(found["instances"]) == instances
    assert found["service_file"]["bc:name"] == NAME


async def a_download_survives_moves_of_both_sides(service: ServiceWorld) -> None:
    client = service.client("/large.bin", RATE)
    await progress_of(client, MIB)
    home = await serving(service)
    old = (await service.run(home, "move", NAME, "--status"))[1]["addresses"]
    code, moved, messages = await service.run(home, "move", NAME, "--to", "127.0.0.7:0")
    assert code == 0, messages
    assert [moved["from"]] == old
    assert moved["to"].startswith("127.0.0.7:")
    with pytest.raises(OSError, match=r"refused|Connect"):
        await asyncio.open_connection(*old[0].rsplit(":", 1))
    await progress_of(client, 4 * MIB)
    code, moved, messages = await service.run(service.consumer, "move", "forward", "--to", "127.0.0.8:0")
    assert code == 0, messages
    (session,) = (await service.status("forward"))["sessions"]
    assert session["resumes"] >= 2
    assert client.poll() is None, "the download ended before the moves did"
    client.send_signal(signal.SIGUSR1)
    code, digest = await digest_of(client)
    assert code == 0
    assert digest == content_digest(service, "large.bin")
    assert (await service.fetch("/small.txt")) == SMALL


async def serving(service: ServiceWorld) -> Path:
    """The home of the replica that has the forward's newest session."""
    newest = (await service.status("forward"))["sessions"][-1]["peer"]
    homes = [service.folder / home for home in service.replicas]
    keys = {SigningKey.load(home / "keys" / "instance.pem").public.hex(): home for home in homes}
    return keys[newest]


async def mistakes_are_named(service: ServiceWorld) -> None:
    """Exit codes and messages of what people get wrong."""
    home = service.folder / service.published["home"]
    mistakes = (
        (service.consumer, ("move", "no.such.name", "--to", "127.0.0.1:0"), 3, "nothing of this name runs"),
        (service.consumer, ("move", "forward"), 2, "--to HOST:PORT"),
        (home, ("move", NAME, "--to", "127.0.0.1:notaport"), 2, "host:port"),
        (home, ("move", NAME, "--to", "192.0.2.1:0"), 1, "cannot listen"),
        (service.consumer, ("resolve", "no.such.name"), 1, "unknown_name"),
        (service.consumer, ("resolve", "NOT A NAME"), 2, "invalid_name"),
        (service.consumer, ("publish", "unregistered.name", "--to", "127.0.0.1:1"), 1, "register the name first"),
        (service.consumer, ("resolve", NAME, "--api", "http://127.0.0.1:1"), 3, "unreachable"),
    )
    outcomes = await asyncio.gather(*(service.run(where, *arguments) for where, arguments, _, _ in mistakes))
    wrong = [
        (arguments, code, messages)
        for (_, arguments, expected, text), (code, report, messages) in zip(mistakes, outcomes, strict=True)
        if code != expected or report is not None or text not in messages
    ]
    assert not wrong
    # The service has not noticed.
    assert (await service.fetch("/small.txt")) == SMALL


async def a_crash_ends_its_session_and_no_other(service: ServiceWorld) -> None:
    client = service.client("/large.bin", RATE)
    await progress_of(client, MIB)
    home = await serving(service)
    publish, _ = service.replicas[home.name]
    publish.send_signal(signal.SIGKILL)
    assert await service.fetch("/small.txt") == SMALL
    code, _ = await digest_of(client)
    assert code != 0
    assert (await service.status("forward"))["last_error"]
    await asyncio.to_thread(publish.wait, STOP_SECONDS)


async def a_stopped_service_is_gone(world: World, service: ServiceWorld) -> None:
    """The crashed replica comes back without the owner's key; then both stop in order, and the name has no instance."""
    survivor = next(home for home, (publish, _) in service.replicas.items() if publish.poll() is None)
    crashed = next(home for home in service.replicas if home != survivor)
    publish, ready = await service.serve(
        service.folder / crashed, "publish", NAME, "--to", "127.0.0.1:1", "--key", "no-such-key.pem"
    )
    assert ready["name"] == NAME
    for process in (publish, service.replicas[survivor][0]):
        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait, STOP_SECONDS) == 0
    assert await is_without_instances(service)
    await a_lease_ends_by_itself(world, service, SigningKey.load(service.folder / crashed / "keys" / "instance.pem"))


async def is_without_instances(service: ServiceWorld) -> bool:
    code, _, messages = await service.run(service.consumer, "resolve", NAME)
    return code == 1 and "no_instances" in messages


async def a_lease_ends_by_itself(world: World, service: ServiceWorld, instance: SigningKey) -> None:
    """An instance that announced itself and fell silent. That its lease still ran is what let the registry take it."""
    now_s = int(time.time())
    record = address_record(
        NAME,
        instance,
        (Address("tls", "127.0.0.1", 4_000),),
        sequence=2**42,
        now_s=now_s - ISSUED_AGO_SECONDS,
        lease_s=LEASE_SECONDS,
    )
    async with AsyncClient(world.genesis) as client:
        await HttpAnnouncer(client).announce(record)

    async def gone() -> bool:
        return await is_without_instances(service)

    await until(gone, "the lease to end", seconds=30)
