"""The SOCKS5 proxy over sockets: bytes both ways through a move, refusals, silence, and limits."""

from __future__ import annotations

import pytest

from blockcloud.service_access.front import Room
from blockcloud.service_access.proxy import socks_proxy as module
from blockcloud.service_access.proxy.names import ServiceNames
from blockcloud.service_access.proxy.socks import Reply, reply
from blockcloud.service_access.proxy.socks_proxy import SocksProxy
from tests.service_access.access_world import NAME, World, until
from tests.service_access.proxy.proxy_world import (
    Program,
    connector,
    echo,
    program,
    published,
    socks_proxy,
    started,
    tcp_server,
)
from tests.service_access.proxy.test_socks_conversation import TOKEN, connect, greeting, password

ACCEPTED = b"\x05\x00" + reply(Reply.SUCCEEDED)


async def asked(program: Program, host: str) -> bytes:
    """The reply's code after a greeting and a request."""
    await program.say(greeting(0))
    assert await program.hear(2) == b"\x05\x00"
    await program.say(connect(host.encode()))
    return (await program.hear(10))[1:2]


async def test_a_program_talks_to_a_service_while_it_moves(world: World) -> None:
    listener = await published(world, await tcp_server(world, echo))
    proxy, place = await socks_proxy(world)
    one = await program(world, place)
    # All at once, and the first words to the service behind it.
    await one.say(greeting(0) + connect(NAME.encode()) + b"early")
    assert await one.hear(len(ACCEPTED)) == ACCEPTED
    assert await one.hear(5) == b"early"
    await listener.move("127.0.0.31")
    await one.say(b"late")
    one.writer.write_eof()
    assert await one.hear_all() == b"late"
    assert not proxy.errors
    await until(lambda: not proxy.open_connections)


@pytest.mark.parametrize(
    ("host", "code", "error"),
    [
        ("nobody.acme.internal", Reply.HOST_UNREACHABLE, "unknown_name"),
        ("Files.Acme.Internal.", Reply.SUCCEEDED, None),
        ("files.acme", Reply.NOT_ALLOWED, "not_a_service_name"),
        ("www.example.com", Reply.NOT_ALLOWED, "not_a_service_name"),
        ("internal", Reply.NOT_ALLOWED, "not_a_service_name"),
        ("localhost", Reply.NOT_ALLOWED, "not_a_service_name"),
        ("127.0.0.1", Reply.ADDRESS_TYPE, "address_not_name"),
        ("0x7f.1", Reply.ADDRESS_TYPE, "address_not_name"),
        ("::1", Reply.ADDRESS_TYPE, "address_not_name"),
        ("no_name.internal", Reply.HOST_UNREACHABLE, "invalid_name"),
    ],
)
async def test_only_names_under_the_suffix_are_services(
    world: World, host: str, code: Reply, error: str | None
) -> None:
    await published(world, await tcp_server(world, echo))
    proxy, place = await socks_proxy(world, suffixes=(".internal",))
    one = await program(world, place)
    assert await asked(one, host) == bytes((code,))
    if error is not None:
        assert await one.hear_all() == b""
        assert proxy.errors == {error: 1}


async def test_the_token_is_asked_for(world: World) -> None:
    await published(world, await tcp_server(world, echo))
    proxy, place = await socks_proxy(world, token=TOKEN)
    for said, heard in (
        (greeting(0), b"\x05\xff"),
        (greeting(0, 2) + password(TOKEN[:-1]) + connect(NAME.encode()), b"\x05\x02\x01\x01"),
        (greeting(2) + password(b""), b"\x05\x02\x01\x01"),
    ):
        one = await program(world, place)
        await one.say(said)
        assert (await one.hear_all()) in (heard, heard[-2:])
    assert proxy.errors == {"socks_method": 1, "wrong_token": 2}
    one = await program(world, place)
    await one.say(greeting(0, 2) + password(TOKEN) + connect(NAME.encode()) + b"in")
    assert await one.hear(14 + 2) == b"\x05\x02\x01\x00" + reply(Reply.SUCCEEDED) + b"in"


async def test_silence_is_not_waited_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GREETING_SECONDS", 0.05)
    proxy, place = await socks_proxy(world)
    one = await program(world, place)
    await one.say(greeting(0)[:1])
    with pytest.raises(ConnectionResetError):
        await one.hear_all()
    assert proxy.errors == {"timed_out": 1}


async def test_more_programs_than_there_is_room_for(world: World) -> None:
    await published(world, await tcp_server(world, echo))
    proxy = SocksProxy(await connector(world), ServiceNames(), room=Room(2))
    place = await started(world, proxy)
    programs = [await program(world, place) for _ in range(3)]
    await until(lambda: proxy.errors)
    assert proxy.errors == {"too_many": 1}
    await until(lambda: proxy.open_connections == 2)
    with pytest.raises(ConnectionResetError):
        await programs[2].hear_all()
    programs[0].writer.close()
    await until(lambda: proxy.open_connections == 1)
    assert await asked(await program(world, place), NAME) == b"\x00"


async def test_a_program_that_leaves_while_the_service_is_looked_for(world: World) -> None:
    listener = await published(world, await tcp_server(world, echo))
    proxy, place = await socks_proxy(world)
    one = await program(world, place)
    await one.say(greeting(0) + connect(NAME.encode()))
    one.writer.transport.abort()
    await until(lambda: not proxy.open_connections and not listener.endpoint.sessions)
