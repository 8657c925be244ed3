"""The control socket and the announcer of addresses."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from blockcloud.primitives.errors import BadConfiguration, Unreachable
from blockcloud.primitives.keys import SigningKey
from blockcloud.routing.address_record import verify_record
from blockcloud.service_access.addresses import SOCKET_PATH_BYTES, Address, parse_endpoint
from blockcloud.service_access.announce import AddressAnnouncer, address_record
from blockcloud.service_access.control import (
    ControlServer,
    endpoint_operations,
    request,
)
from blockcloud.service_access.control import Malformed as BadEndpoint
from tests.service_access.access_world import World, bounded, until


async def served(world: World, path: Path) -> ControlServer:
    listener = await world.listener()
    server = ControlServer(path, endpoint_operations(listener.endpoint, lambda: {"name": listener.name}))
    await server.start()
    world.stack.push_async_callback(server.close)
    return server


async def test_move_and_status(world: World, tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    await served(world, path)
    assert path.stat().st_mode & 0o777 == 0o600
    answer = await request(path, {"op": "move", "to": "127.0.0.30:0"})
    assert answer["ok"]
    assert answer["address"].startswith("127.0.0.30:")
    status = await request(path, {"op": "status"})
    assert status["addresses"] == [answer["address"]]
    assert status["name"] == "files.acme"
    assert status["sessions"] == []


async def test_a_path_longer_than_an_address_of_a_socket(world: World, tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    path = folder / "control.sock"
    assert len(bytes(path)) > SOCKET_PATH_BYTES
    server = await served(world, path)
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(BadConfiguration, match="another process"):
        await served(world, path)
    assert (await request(path, {"op": "status"}))["ok"]
    await server.close()
    assert not path.exists()
    with pytest.raises(Unreachable):
        await request(path, {"op": "status"})


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"junk", "malformed"),
        (b"[]", "malformed"),
        (b"{}", "unknown_operation"),
        (b'{"op": "move"}', "malformed"),
        (b'{"op": "move", "to": "127.0.0.1"}', "malformed"),
        (b'{"op": "move", "to": "127.0.0.1:99999"}', "malformed"),
        (b'{"op": "move", "to": "192.0.2.1:0"}', "unreachable"),
    ],
)
async def test_bad_requests(world: World, tmp_path: Path, line: bytes, code: str) -> None:
    path = tmp_path / "control.sock"
    await served(world, path)
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(line + b"\n")
    answer = json.loads(await bounded(reader.readline()))
    assert (answer["ok"], answer["code"]) == (False, code)
    writer.write(b'{"op": "status"}\n')  # the connection goes on
    assert json.loads(await bounded(reader.readline()))["ok"]
    writer.write(b"x" * 100_000 + b"\n")  # a line beyond the limit ends it
    assert await bounded(reader.read()) == b""
    writer.close()


async def test_socket_file_is_taken_over_only_if_nobody_serves_it(world: World, tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    await served(world, path)
    with pytest.raises(BadConfiguration):
        await ControlServer(path, {}).start()
    other = tmp_path / "file"
    other.write_text("precious")
    with pytest.raises(BadConfiguration):
        await ControlServer(other, {}).start()
    assert other.read_text() == "precious"
    with pytest.raises(Unreachable):
        await request(tmp_path / "nobody", {"op": "status"})


def test_endpoints_in_text() -> None:
    assert parse_endpoint("127.0.0.1:80") == ("127.0.0.1", 80)
    assert parse_endpoint("[::1]:0") == ("::1", 0)
    for text in ("", ":1", "host", "host:", "host:-1", "host:65536", 5, None):
        with pytest.raises(BadEndpoint):
            parse_endpoint(text)


class Collector:
    """An announcer that keeps what it is given, or refuses."""

    def __init__(self) -> None:
        self.records: list[bytes] = []
        self.refusals = 0
        self.down = False

    async def announce(self, record: bytes) -> None:
        if self.down:
            self.refusals += 1
            raise Unreachable
        self.records.append(record)


async def test_announces_refreshes_and_withdraws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blockcloud.service_access.announce.RETRY_SECONDS", 0.01)
    key, collector = SigningKey.generate(), Collector()
    addresses = [Address("tls", "127.0.0.1", 1_000)]
    announcer = AddressAnnouncer("a.b", key, lambda: tuple(addresses), collector, lease_s=60)
    await announcer.start()
    addresses[0] = Address("tls", "127.0.0.2", 2_000)
    collector.down = True
    announcer.announce_now()
    await until(lambda: collector.refusals >= 2)
    collector.down = False
    await until(lambda: len(collector.records) == 2)
    await announcer.close()
    first, second, last = [verify_record(each, _issued(each)) for each in collector.records]
    assert [each.host for each in (*first.endpoints, *second.endpoints)] == ["127.0.0.1", "127.0.0.2"]
    assert last.endpoints == ()
    assert first.sequence < second.sequence < last.sequence
    assert first.expires_s - first.issued_s == 60


def _issued(record: bytes) -> int:
    from blockcloud.routing.address_record import read_record

    return read_record(record).issued_s


async def test_refreshes_at_half_the_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    timeout = asyncio.timeout

    def faster(seconds: float) -> asyncio.Timeout:
        waited.append(seconds)
        return timeout(0.001)

    collector = Collector()
    announcer = AddressAnnouncer(
        "a.b", SigningKey.generate(), lambda: (Address("tls", "h", 1),), collector, lease_s=120
    )
    await announcer.start()
    monkeypatch.setattr(asyncio, "timeout", faster)
    await asyncio.sleep(0)
    announcer.announce_now()
    async with timeout(20):
        while len(collector.records) < 5:
            await asyncio.sleep(0.001)
    monkeypatch.undo()
    await announcer.close()
    assert set(waited) == {60.0}


def test_record_needs_its_own_key() -> None:
    key = SigningKey.generate()
    record = verify_record(
        address_record("a.b", key, (Address("tls", "h", 1),), sequence=7, now_s=100, lease_s=50, load=10), 120
    )
    assert (record.instance_key, record.sequence, record.load) == (key.public, 7, 10)
