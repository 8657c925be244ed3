"""`blockcloud.listen` and `blockcloud.connect` over a real validator: five lines for a provider, five for a user."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

import blockcloud
from blockcloud.primitives.errors import BadConfiguration
from blockcloud.primitives.keys import SigningKey
from blockcloud.routing.errors import InvalidPrice
from blockcloud.sdk.publishing import list_content
from blockcloud.sdk.resolver import ChainResolver
from blockcloud.sdk.services import open_client
from blockcloud.service_access.endpoint import ServiceEndpoint
from blockcloud.service_access.errors import OtherPriceUnit, PriceAboveMaximum
from blockcloud.service_access.listener import Listener
from blockcloud.service_access.resolution import NoInstances, UnknownName
from blockcloud.service_chain.rejections import NotNameOwner
from tests.api.api_world import running_api
from tests.node.cluster import USERS

NAME = "thermo.test"
OWNER, OTHER = USERS[0], USERS[1]


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[Path]:
    """A home whose account owns the name."""
    async with running_api(tmp_path / "node") as api:
        path = tmp_path / "net"
        path.mkdir()
        (path / "genesis.json").write_text(api.net.genesis.to_json(), encoding="utf-8")
        OWNER.save(path / "keys" / "account.pem")
        async with open_client(path) as client:
            receipt = await client.preorder_and_register(OWNER, NAME)
            await client.name(NAME, at_least_height=receipt.height)  # proven, or it is nobody's yet
        yield path


@asynccontextmanager
async def answering(listener: Listener) -> AsyncIterator[None]:
    """Answer every session with what it sent, in capitals."""

    async def serve() -> None:
        async for session in listener:
            await session.write((await session.read()).upper())
            await session.close()

    task = asyncio.create_task(serve())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def ask(home: Path, **how: object) -> bytes:
    async with await blockcloud.connect(NAME, home=home, **how) as session:  # type: ignore[arg-type]
        await session.write(b"hello")
        return await session.read()


def endpoint_tasks() -> set[str]:
    """What runs in this loop for sessions of `connect`."""
    return {task.get_coro().__qualname__ for task in asyncio.all_tasks()} & {"_close_after"}  # type: ignore[union-attr]


async def test_a_provider_and_a_user_meet_by_name(home: Path) -> None:
    with pytest.raises(NoInstances):
        await blockcloud.connect(NAME, home=home)
    async with blockcloud.listen(NAME, home=home) as listener, answering(listener):
        assert await ask(home) == b"HELLO"
        assert await ask(home, address=("127.0.0.1", 0), identity=OTHER) == b"HELLO"
        await listener.move("127.0.0.9")
        assert await ask(home) == b"HELLO"
        async with asyncio.timeout(20):
            while endpoint_tasks():
                await asyncio.sleep(0.01)
    with pytest.raises(NoInstances):
        await blockcloud.connect(NAME, home=home)


async def test_the_owner_signs_once_and_is_not_needed_again(home: Path) -> None:
    with pytest.raises(NotNameOwner):
        async with blockcloud.listen(NAME, home=home, key=OTHER):
            pass
    async with blockcloud.listen(NAME, home=home):
        pass
    (home / "keys" / "account.pem").unlink()
    async with blockcloud.listen(NAME, home=home) as listener, answering(listener):
        assert await ask(home) == b"HELLO"


async def test_two_homes_are_two_replicas(home: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "genesis.json").write_bytes((home / "genesis.json").read_bytes())
    async with (
        blockcloud.listen(NAME, home=home) as first,
        blockcloud.listen(NAME, home=other, key=home / "keys" / "account.pem") as second,
        answering(second),
    ):
        assert first.addresses != second.addresses
        first.endpoint.stop_listening()  # one replica is gone; its record is not
        assert await ask(home) == b"HELLO"


async def test_an_endpoint_of_ones_own_is_used_and_left_open(home: Path) -> None:
    async with ServiceEndpoint(SigningKey.generate()) as endpoint:
        await endpoint.start("127.0.0.1", 0)
        async with blockcloud.listen(NAME, home=home, endpoint=endpoint) as listener, answering(listener):
            assert listener.endpoint is endpoint
            assert await ask(home) == b"HELLO"
        assert endpoint.addresses


async def test_nobody_begins_a_session_above_the_price_that_he_pays(home: Path) -> None:
    async with blockcloud.listen(NAME, home=home) as listener, answering(listener):
        assert await ask(home, max_price="0/request") == b"HELLO"  # nothing is posted
    async with blockcloud.listen(NAME, home=home, price="0.002/request") as listener, answering(listener):
        (served,) = listener.endpoint.table.rules()
        for limit, refused in (("0.001999/request", PriceAboveMaximum), ("5/hour", OtherPriceUnit)):
            with pytest.raises(refused, match=r"0\.002/request"):
                await ask(home, max_price=limit)
        with pytest.raises(InvalidPrice):
            await ask(home, max_price="cheap")
        assert served.matches == 0
        assert await ask(home, max_price="0.002/request") == b"HELLO"
        assert await ask(home) == b"HELLO"
        assert served.matches == 2


async def test_a_price_goes_into_the_file_that_is_there_and_needs_the_owner(home: Path) -> None:
    async with blockcloud.listen(NAME, home=home, title="Thermometer", ports=(80,)):
        pass
    async with open_client(home) as client:
        await list_content(client, NAME, OWNER, {"/a": bytes(32)})
    async with blockcloud.listen(NAME, home=home, price="0.002/request"):
        pass
    (home / "keys" / "account.pem").unlink()
    async with blockcloud.listen(NAME, home=home, price="0.002/request"), open_client(home) as client:
        resolver = ChainResolver(client)
        found = await resolver.resolve(NAME)
        assert resolver.known_price(found) is None
        document = await resolver.service_file(found)
        assert [document[term] for term in ("title", "bc:ports", "bc:content", "bc:price", "bc:seq")] == [
            "Thermometer",
            [80],
            {"/a": bytes(32).hex()},
            {"amount": "0.002", "unit": "request"},
            3,
        ]
        assert str(await resolver.price(found)) == str(resolver.known_price(found)) == "0.002/request"
    with pytest.raises(BadConfiguration, match=r"account\.pem"):
        async with blockcloud.listen(NAME, home=home, price="0.003/request"):
            pass


async def test_what_is_not_there_is_said(home: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownName):
        await blockcloud.connect("nobody.test", home=home)
    with pytest.raises(UnknownName):
        async with blockcloud.listen("nobody.test", home=home):
            pass
    with pytest.raises(BadConfiguration, match="no genesis"):
        await blockcloud.connect(NAME, home=tmp_path)
    assert not endpoint_tasks()


def test_the_package_exports_what_it_promises_and_loads_it_late() -> None:
    code = (
        "import sys, blockcloud\n"
        "assert 'blockcloud.sdk' not in sys.modules and 'asyncio' not in sys.modules\n"
        "assert set(blockcloud.__all__) <= set(dir(blockcloud))\n"
        "for name in blockcloud.__all__: getattr(blockcloud, name)\n"
        "from blockcloud import AsyncClient, Client, connect, listen\n"
        "try: blockcloud.nothing\n"
        "except AttributeError as error: print(error)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout == "module 'blockcloud' has no attribute 'nothing'\n"
