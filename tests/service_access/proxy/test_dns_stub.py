"""The DNS stub over sockets, and the loopback addresses that it tells: they listen, they lead to their service only."""

from __future__ import annotations

import asyncio
import socket

import dns.asyncquery
import dns.message
import dns.rcode
import pytest

from blockcloud.primitives.errors import BadConfiguration
from blockcloud.service_access.addresses import HostPort
from blockcloud.service_access.proxy.dns_stub import DnsStub
from blockcloud.service_access.proxy.local_services import LocalServices
from blockcloud.service_access.proxy.names import ServiceNames
from blockcloud.service_access.resolution import Resolution
from tests.service_access.access_world import World, bounded, until
from tests.service_access.proxy.proxy_world import connector, echo, program, published, tcp_server
from tests.service_access.proxy.test_http_proxy import Origin, ask

DECLARED = "declared.acme"
# Far from what a proxy of somebody who uses this machine has.
RANGE = "127.99.0.0/16"


async def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


async def stub(world: World, ports: tuple[int, ...], services: int = 256) -> tuple[DnsStub, LocalServices, HostPort]:
    names = ServiceNames(("internal",))
    declared = await free_port()

    async def ports_of(resolution: Resolution) -> tuple[int, ...]:
        return (declared,) if resolution.name == DECLARED else ()

    local = LocalServices(await connector(world), names, network=RANGE, ports=ports, services=services)
    world.stack.push_async_callback(local.close)
    made = DnsStub(world.registry, names, local, ports_of)
    world.stack.push_async_callback(made.close)
    return made, local, await made.start("127.0.0.1", 0)


async def asked(place: HostPort, host: str, kind: str = "A", *, tcp: bool = False) -> tuple[dns.rcode.Rcode, list[str]]:
    query = dns.message.make_query(host, kind)
    ask_by = dns.asyncquery.tcp if tcp else dns.asyncquery.udp
    answer = await ask_by(query, place[0], port=place[1], timeout=10)
    return answer.rcode(), [item.to_text() for each in answer.answer for item in each]


async def test_names_lead_to_addresses_that_listen(world: World) -> None:
    await published(world, await tcp_server(world, echo))
    await published(world, await tcp_server(world, Origin().handle), "other.acme")
    port = await free_port()
    made, local, place = await stub(world, (port,))
    rcode, (address,) = await asked(place, "FILES.acme.internal")
    assert (rcode, address.startswith("127.99.")) == (dns.rcode.NOERROR, True)
    assert await asked(place, "files.acme.internal", tcp=True) == (dns.rcode.NOERROR, [address])
    assert await asked(place, "files.acme.internal", "AAAA") == (dns.rcode.NOERROR, [])
    assert await asked(place, "nobody.acme.internal") == (dns.rcode.NXDOMAIN, [])
    assert await asked(place, "nobody.acme.internal", "AAAA") == (dns.rcode.NXDOMAIN, [])
    assert await asked(place, "_sip.acme.internal") == (dns.rcode.NXDOMAIN, [])
    assert await asked(place, "www.example.com") == (dns.rcode.REFUSED, [])
    assert made.counts == {"found": 3, "unknown": 3, "not_ours": 1}
    one = await program(world, (address, port))
    await one.say(b"\x00binary")
    assert await one.hear(7) == b"\x00binary"
    _, (other,) = await asked(place, "other.acme.internal")
    assert other != address
    assert (await ask(await program(world, (other, port)), "GET / HTTP/1.1\nHost: other.acme.internal\n\n"))[0] == 200
    assert [entry["addresses"] for entry in local.status()] == [[f"{address}:{port}"], [f"{other}:{port}"]]


async def test_a_page_of_another_site_does_not_reach_the_service(world: World) -> None:
    origin = Origin()
    await published(world, await tcp_server(world, origin.handle))
    port = await free_port()
    _, local, place = await stub(world, (port,))
    _, (address,) = await asked(place, "files.acme.internal")
    one = await program(world, (address, port))
    status, _, _ = await ask(one, f"GET / HTTP/1.1\nHost: evil.example:{port}\n\n")
    assert status == 421
    assert await one.hear_all() == b""
    await until(lambda: local.status()[0]["connections"] == 0)
    assert local.status()[0]["errors"] == {"misdirected_request": 1}
    assert not origin.requests
    for host in (f"files.acme.internal:{port}", f"{address}:{port}"):
        assert (await ask(await program(world, (address, port)), f"GET / HTTP/1.1\nHost: {host}\n\n"))[0] == 200


async def test_the_service_file_says_at_which_ports(world: World) -> None:
    await published(world, await tcp_server(world, echo), DECLARED)
    port = await free_port()
    _, local, place = await stub(world, (port,))
    await asked(place, f"{DECLARED}.internal")
    (entry,) = local.status()
    assert not any(each.endswith(f":{port}") for each in entry["addresses"])


async def test_no_room_and_no_port_are_failures(world: World) -> None:
    await published(world, await tcp_server(world, echo))
    await published(world, await tcp_server(world, echo), "other.acme")
    made, _, place = await stub(world, (await free_port(),), services=1)
    assert (await asked(place, "files.acme.internal"))[0] == dns.rcode.NOERROR
    assert (await asked(place, "other.acme.internal"))[0] == dns.rcode.SERVFAIL
    assert made.last_error is not None
    assert made.last_error.code == "pool_exhausted"
    everywhere = await asyncio.start_server(lambda _, writer: writer.close(), "0.0.0.0", 0)
    world.stack.callback(everywhere.close)
    made, _, place = await stub(world, (everywhere.sockets[0].getsockname()[1],))
    assert (await asked(place, "files.acme.internal"))[0] == dns.rcode.SERVFAIL
    assert made.last_error is not None
    assert made.last_error.code == "cannot_listen"


async def test_noise_is_counted_and_gets_no_answer(world: World) -> None:
    await published(world, await tcp_server(world, echo))
    made, _, place = await stub(world, (await free_port(),))
    with socket.socket(type=socket.SOCK_DGRAM) as noise:
        for data in (b"", b"x", bytes(2_000), dns.message.make_response(dns.message.make_query("a", "A")).to_wire()):
            noise.sendto(data, place)
    await until(lambda: made.counts["malformed"] + made.counts["oversized"] == 4)
    for said in (b"\xff\xff", b"\x00\x01x", b"\x00\x00"):
        one = await program(world, place)
        await one.say(said)
        assert await one.hear_all() == b""
    assert (await asked(place, "files.acme.internal"))[0] == dns.rcode.NOERROR


async def test_it_is_for_this_machine_only(world: World) -> None:
    made, _, _ = await stub(world, (1,))
    with pytest.raises(BadConfiguration):
        await made.start("0.0.0.0", 0)
    for ports in ((), (0,), (70_000,), tuple(range(1, 18))):
        with pytest.raises(BadConfiguration):
            LocalServices(await connector(world), ServiceNames(), ports=ports)
    await bounded(made.close())
