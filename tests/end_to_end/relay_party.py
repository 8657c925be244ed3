"""One party of a session through relays, as a process of its own: `relay`, `provider` or `consumer`.

    python -m tests.end_to_end.relay_party ROLE NAME HOST FOLDER [RELAY...]

What the ledger and the routing nodes would say stands in files of FOLDER. Commands come as lines on stdin, answers go
as JSON objects, one a line, to stdout: `move HOST`, `say TEXT` (the consumer's; the provider says it back), `status`.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from blockcloud.node.logging import set_up_logging
from blockcloud.primitives.errors import BlockCloudError
from blockcloud.primitives.keys import SigningKey
from blockcloud.routing.address_record import read_record
from blockcloud.service_access.addresses import Address
from blockcloud.service_access.announce import AddressAnnouncer
from blockcloud.service_access.connector import Connector
from blockcloud.service_access.endpoint import ServiceEndpoint
from blockcloud.service_access.listener import listen
from blockcloud.service_access.relay.registration import RENDEZVOUS
from blockcloud.service_access.relay.server import RelayServer
from blockcloud.service_access.resolution import Instance, Resolution, UnknownName
from blockcloud.service_access.stream import Session

SERVICE = "echo.acme"


class Folder:
    """A resolver and an announcer over files: a key listed for a name, and the newest record of each."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def list_key(self, name: str, key: bytes) -> None:
        (self._path / f"{name}={key.hex()}.key").touch()

    async def announce(self, record: bytes) -> None:
        read = read_record(record)
        path = self._path / f"{read.name}={read.instance_key.hex()}.record"
        beside = path.with_suffix(f".{os.getpid()}")
        beside.write_bytes(record)
        beside.replace(path)

    async def resolve(self, name: str, *, max_age_s: int = 60) -> Resolution:
        keys = tuple(bytes.fromhex(each.stem.partition("=")[2]) for each in self._path.glob(f"{name}=*.key"))
        if not keys:
            raise UnknownName(name=name)
        records = [read_record(each.read_bytes()) for each in self._path.glob(f"{name}=*.record")]
        instances = tuple(
            Instance(each.instance_key, each.endpoints, each.sequence, each.expires_s) for each in records
        )
        return Resolution(name, bytes(32), bytes(32), keys, instances, 1, int(time.time() * 1_000))


def tell(**answer: Any) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


async def commands() -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    return reader


async def run_relay(name: str, host: str, folder: Folder) -> None:
    key = SigningKey.generate()
    folder.list_key(name, key.public)
    async with RelayServer(name, key) as server:
        place = await server.start(host, 0)
        announcer = AddressAnnouncer(name, key, lambda: (Address(RENDEZVOUS, *place),), folder)
        await announcer.start()
        tell(ready=name)
        reader = await commands()
        while await reader.readline():
            tell(**server.status())


async def run_provider(name: str, host: str, folder: Folder, relays: list[str]) -> None:
    key = SigningKey.generate()
    folder.list_key(name, key.public)
    async with ServiceEndpoint(key) as endpoint:
        await endpoint.start(host)
        await endpoint.relays.join(relays, folder)
        async with listen(name, key, announcer=folder, endpoint=endpoint) as listener:
            tell(ready=name, key=key.public.hex())
            serving = asyncio.create_task(say_back(await listener.accept()))
            reader = await commands()
            while line := (await reader.readline()).decode().split():
                moved = await endpoint.move(line[1])
                tell(moved=str(moved), addresses=[str(each) for each in endpoint.addresses])
            serving.cancel()


async def say_back(session: Session) -> None:
    try:
        while heard := await session.read():
            await session.write(heard)
    except BlockCloudError as error:
        tell(error=error.code)


async def run_consumer(name: str, host: str, folder: Folder, relays: list[str]) -> None:
    async with ServiceEndpoint(SigningKey.generate()) as endpoint:
        await endpoint.start(host)
        await endpoint.relays.join(relays, folder)
        session = await Connector(endpoint, folder).connect(name)
        tell(ready=name)
        reader = await commands()
        while line := await reader.readline():
            text = line.removeprefix(b"say ")
            try:
                await session.write(text)
                heard = await session.read_exactly(len(text))
            except BlockCloudError as error:
                tell(error=error.code)
                return
            tell(same=heard == text, resumes=session.statistics.resumes)


def main(role: str, name: str, host: str, folder: str, *relays: str) -> None:
    set_up_logging("warning")  # to stderr
    shared = Folder(Path(folder))
    if role == "relay":
        asyncio.run(run_relay(name, host, shared))
    elif role == "provider":
        asyncio.run(run_provider(name, host, shared, list(relays)))
    else:
        asyncio.run(run_consumer(name, host, shared, list(relays)))


if __name__ == "__main__":
    main(*sys.argv[1:])
