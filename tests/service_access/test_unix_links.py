"""Unix links: sessions move to them and away, and nobody but the own user is spoken to."""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
import stat
import tempfile
from pathlib import Path

import pytest

from blockcloud.primitives.errors import BlockCloudError, TimedOut, Unreachable
from blockcloud.service_access.addresses import Address
from blockcloud.service_access.connector import Connector
from blockcloud.service_access.links.link import Link
from blockcloud.service_access.links.unix import GREETING_MAGIC, ForeignUser, NotALink, UnixLinks
from blockcloud.service_access.service_table import Action, Rule
from tests.service_access.access_world import NAME, Moves, World, bounded, digest_of, random_bytes, send_all, until

MEGABYTES = random_bytes(4_000_000)
DIGEST = hashlib.sha256(MEGABYTES).hexdigest()


async def dial(path: Path, timeout_ms: float = 5_000) -> Link:
    return await UnixLinks().dial(Address("unix", str(path), 0), peer=b"", source=None, timeout_ms=timeout_ms)


def kinds_of(world: World) -> list[str]:
    return [each.protocol for instance in world.registry.instances[NAME].values() for each in instance.endpoints]


async def test_a_session_moves_from_tls_to_unix_and_back(world: World, tmp_path: Path) -> None:
    listener, _, provider, consumer = await world.pair()
    endpoint, path = listener.endpoint, tmp_path / "a.sock"
    world.registry.silent = True
    moves = Moves(
        [lambda: endpoint.move(str(path), kind="unix"), lambda: endpoint.move("127.0.0.5")],
        1_000_000,
    )
    sending = asyncio.create_task(send_all(provider, MEGABYTES, moves))
    assert await bounded(digest_of(consumer, moves.at)) == (len(MEGABYTES), DIGEST)
    await bounded(sending)
    assert moves.results() == [Address("unix", str(path), 0), *endpoint.addresses]
    assert endpoint.addresses[0].kind == "tls"
    assert consumer.core.link == provider.core.link > 1
    assert not path.exists()


async def test_all_kinds_are_announced_and_the_first_that_answers_is_taken(world: World, tmp_path: Path) -> None:
    listener = await world.listener()
    path = tmp_path / "a.sock"
    await listener.endpoint.move_to((Address("unix", str(path), 0), *listener.addresses))
    await until(lambda: kinds_of(world) == ["unix", "tls"])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    endpoint = await world.endpoint()
    local = await bounded(Connector(endpoint, world.registry).connect(NAME))
    assert (await bounded(listener.accept())).peer_key == endpoint.key.public
    assert local._link is not None
    assert local._link.peer_host() == ""
    path.rename(tmp_path / "elsewhere")  # as on another machine
    distant = await bounded(Connector(endpoint, world.registry).connect(NAME))
    assert distant._link is not None
    assert distant._link.peer_host() == "127.0.0.1"


async def test_both_ends_of_a_channel_name_it_alike_and_no_two_channels(world: World, tmp_path: Path) -> None:
    found: list[Link] = []
    kind, path = UnixLinks(), tmp_path / "a.sock"

    def incoming(open_link):  # type: ignore[no-untyped-def]
        async def run() -> None:
            found.append(await open_link())

        tasks.append(asyncio.create_task(run()))
        return True

    tasks: list[asyncio.Task[None]] = []
    listener = await kind.listen(Address("unix", str(path), 0), incoming)
    mine = [await dial(path), await dial(path)]
    await bounded(asyncio.gather(*tasks))
    assert {each.binding for each in mine} == {each.binding for each in found}
    assert len({each.binding for each in mine}) == 2
    for link in (*mine, *found):
        link.abort()
    listener.close()


async def test_a_listener_that_goes_leaves_its_successors_socket(tmp_path: Path) -> None:
    kind, path = UnixLinks(), tmp_path / "a.sock"
    first = await kind.listen(Address("unix", str(path), 0), lambda _: False)
    path.unlink()
    second = await kind.listen(Address("unix", str(path), 0), lambda _: False)
    first.close()
    assert path.exists()
    second.close()
    assert not path.exists()


async def test_a_socket_of_another_program_gets_no_byte(tmp_path: Path) -> None:
    path = tmp_path / "other.sock"
    heard: list[bytes] = []
    closed = asyncio.Event()

    async def other(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.read())
        writer.close()
        closed.set()

    async def talkative(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(GREETING_MAGIC[:5] + b"something else")
        await other(reader, writer)

    async with await asyncio.start_unix_server(other, path):
        with pytest.raises(TimedOut):
            await dial(path, 200)
        await bounded(closed.wait())
    path.unlink()
    closed.clear()
    async with await asyncio.start_unix_server(talkative, path):
        with pytest.raises(NotALink):
            await dial(path)
        await bounded(closed.wait())
    assert heard == [b"", b""]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")
async def test_another_user_is_not_spoken_to(world: World) -> None:
    folder = world.stack.enter_context(tempfile.TemporaryDirectory())  # other users cannot get at pytest's
    Path(folder).chmod(0o777)
    path, own = Path(folder) / "theirs.sock", Path(folder) / "own.sock"
    os.seteuid(65_534)
    try:
        squatter = socket.socket(socket.AF_UNIX)
        squatter.bind(str(path))
        squatter.listen()
    finally:
        os.seteuid(0)
    with squatter, pytest.raises(ForeignUser):
        await dial(path)
    listener = await world.listener()
    await listener.endpoint.start(str(own), kind="unix")
    own.chmod(0o666)
    os.seteuid(65_534)
    try:
        # The kernel tells the listener who connects, whatever the mode of the file.
        stranger = socket.socket(socket.AF_UNIX)
        stranger.connect(str(own))
    finally:
        os.seteuid(0)
    with stranger:
        await until(lambda: listener.endpoint.faults["foreign_user"] == 1)
        stranger.settimeout(5)
        assert stranger.recv(1) == b""


async def test_socket_files_left_over_and_in_use(world: World, tmp_path: Path) -> None:
    listener = await world.listener()
    path = tmp_path / "a.sock"
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(path))
    left.close()
    await listener.endpoint.start(str(path), kind="unix")
    second = await world.listener(name="other.acme")
    with pytest.raises(Unreachable, match="cannot listen"):
        await second.endpoint.start(str(path), kind="unix")
    with pytest.raises(Unreachable, match="cannot listen"):
        await second.endpoint.start(str(tmp_path / "no" / "folder"), kind="unix")
    plain = tmp_path / "plain"
    plain.write_text("kept")
    with pytest.raises(Unreachable, match="cannot listen"):
        await second.endpoint.start(str(plain), kind="unix")
    assert plain.read_text() == "kept"
    assert len(second.addresses) == 1


async def test_a_move_that_cannot_bind_all_changes_nothing(world: World, tmp_path: Path) -> None:
    listener, _, provider, consumer = await world.pair()
    before = listener.addresses
    path = tmp_path / "a.sock"
    wanted = (Address("unix", str(path), 0), Address("unix", str(tmp_path / "no" / "folder"), 0))
    with pytest.raises(Unreachable):
        await listener.endpoint.move_to(wanted)
    assert listener.addresses == before
    assert not path.exists()
    await consumer.write(b"unharmed")
    assert await bounded(provider.read()) == b"unharmed"


async def test_a_kind_that_is_not_made_here(world: World) -> None:
    listener = await world.listener()
    with pytest.raises(Unreachable, match="no links of this kind"):
        await listener.endpoint.start("127.0.0.1", kind="pigeon")
    endpoint = await world.endpoint()
    endpoint.table.add(Rule(NAME, Action.FORWARD, (Address("pigeon", "h", 1),)), 0)
    with pytest.raises(BlockCloudError, match="no links of this kind"):
        await Connector(endpoint, world.registry).connect(NAME)
