"""The HTTP proxy over sockets: tunnels, plain requests with bodies, kept connections, broken services, refusals."""

from __future__ import annotations

import asyncio
import base64
import json
from dataclasses import dataclass, field
from typing import Any

import h11
import pytest

from blockcloud.service_access.proxy import http_proxy as module
from blockcloud.service_access.proxy.http_rules import HEAD_BYTES
from tests.service_access.access_world import NAME, World, bounded, random_bytes, until
from tests.service_access.proxy.proxy_world import Program, echo, http_proxy, program, published, tcp_server
from tests.service_access.proxy.test_socks_conversation import TOKEN


@dataclass
class Origin:
    """An HTTP server that says what it was asked, and keeps its connections. Broken ways are by path."""

    connections: int = 0
    requests: list[tuple[bytes, bytes, dict[bytes, bytes], bytes]] = field(default_factory=list)

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        http = h11.Connection(h11.SERVER)
        while True:
            request, body = None, b""
            while True:
                event = http.next_event()
                if event is h11.NEED_DATA:
                    if http.they_are_waiting_for_100_continue:
                        writer.write(http.send(h11.InformationalResponse(status_code=100, headers=[])) or b"")
                    http.receive_data(await reader.read(65_536))
                elif isinstance(event, h11.Request):
                    request = event
                elif isinstance(event, h11.Data):
                    body += event.data
                else:
                    break
            if request is None:
                return
            self.requests.append((request.method, request.target, dict(request.headers), body))
            if not await self.answer(request.target, body, http, writer):
                return
            http.start_next_cycle()

    async def answer(self, path: bytes, body: bytes, http: h11.Connection, writer: asyncio.StreamWriter) -> bool:
        if path == b"/gone":
            return False
        if path == b"/not-http":
            writer.write(b"SSH-2.0-x\r\n\r\n")
            return False
        if path == b"/short":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
            return False
        if path == b"/old":
            writer.write(b"HTTP/1.0 200 OK\r\n\r\nuntil the end")
            return False
        if path == b"/never":
            await asyncio.get_running_loop().create_future()
        headers = [("Connection", "keep-alive, X-Hop"), ("X-Hop", "1")]
        if path != b"/chunked":
            headers.append(("Content-Length", str(len(body) or 2)))
        head = h11.Response(status_code=200, headers=headers)
        for event in (head, h11.Data(data=body or b"ok"), h11.EndOfMessage()):
            if not (isinstance(event, h11.Data) and self.requests[-1][0] == b"HEAD"):
                writer.write(http.send(event) or b"")
        await writer.drain()
        return True


async def ask(one: Program, request: str, body: bytes = b"") -> tuple[int, dict[bytes, bytes], bytes]:
    """One request, and its answer as a client of HTTP/1.1 reads it."""
    await one.say(request.replace("\n", "\r\n").encode() + body)
    method = request.split()[0]
    return await answer_to(one, method if method.isalpha() else "GET")


async def answer_to(one: Program, method: str) -> tuple[int, dict[bytes, bytes], bytes]:
    http = h11.Connection(h11.CLIENT)
    http.send(h11.Request(method=method, target="x:1", headers=[("Host", "x")]))
    if method != "CONNECT":
        http.send(h11.EndOfMessage())
    head, body = None, b""
    while True:
        event = http.next_event()
        if event is h11.NEED_DATA:
            http.receive_data(await bounded(one.reader.read(65_536)))
        elif isinstance(event, h11.Response):
            head = event
            if method == "CONNECT" and event.status_code == 200:
                return 200, dict(head.headers), b""
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage):
            assert head is not None
            return head.status_code, dict(head.headers), body


def get(path: str, host: str = NAME, *lines: str, method: str = "GET") -> str:
    return "\n".join([f"{method} http://{host}{path} HTTP/1.1", f"Host: {host}", *lines, "", ""])


async def test_plain_requests_over_one_kept_session(world: World) -> None:
    origin = Origin()
    await published(world, await tcp_server(world, origin.handle))
    proxy, place = await http_proxy(world)
    one = await program(world, place)
    body = random_bytes(300_000)
    chunked = (
        b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:7], body[7:])) + b"0\r\nX-Trailer: 1\r\n\r\n"
    )
    asked = [
        (get("/a?b=c", NAME, "Accept: */*", "Proxy-Connection: keep-alive"), b"", b"ok"),
        (get("/b", NAME, f"Content-Length: {len(body)}", method="POST"), body, body),
        (get("/chunked", NAME, "Transfer-Encoding: chunked", method="PUT"), chunked, body),
        (get("/d", method="HEAD"), b"", b""),
        (get("/e", NAME, "Expect: 100-continue", "Content-Length: 4", method="POST"), b"body", b"body"),
    ]
    for request, sent, heard in asked:
        status, headers, got = await ask(one, request, sent)
        assert (status, got) == (200, heard)
        assert headers[b"via"] == b"1.1 blockcloud"
        assert b"x-hop" not in headers
    assert [(method, path) for method, path, _, _ in origin.requests] == [
        (b"GET", b"/a?b=c"),
        (b"POST", b"/b"),
        (b"PUT", b"/chunked"),
        (b"HEAD", b"/d"),
        (b"POST", b"/e"),
    ]
    assert origin.requests[0][2] == {b"host": NAME.encode(), b"accept": b"*/*", b"via": b"1.1 blockcloud"}
    assert origin.connections == 1
    one.writer.close()
    await until(lambda: not proxy.open_connections)
    assert not proxy.errors


async def test_each_name_gets_its_own_requests(world: World) -> None:
    here, there = Origin(), Origin()
    await published(world, await tcp_server(world, here.handle))
    await published(world, await tcp_server(world, there.handle), "other.acme")
    _, place = await http_proxy(world, suffixes=("internal",))
    one = await program(world, place)
    # Two at once: the second waits for its turn, and is not passed on with the first.
    await one.say((get("/a", "files.acme.internal") + get("/b", "other.acme.internal")).replace("\n", "\r\n").encode())
    assert (await answer_to(one, "GET"))[0] == 200
    await until(lambda: there.requests)
    assert [request[1] for request in here.requests] == [b"/a"]
    assert [request[1] for request in there.requests] == [b"/b"]
    assert there.requests[0][2][b"host"] == b"other.acme.internal"


async def test_a_tunnel_through_a_move(world: World) -> None:
    listener = await published(world, await tcp_server(world, echo))
    proxy, place = await http_proxy(world)
    one = await program(world, place)
    await one.say(f"CONNECT {NAME}:443 HTTP/1.1\r\nHost: {NAME}:443\r\n\r\nearly".encode())
    assert await bounded(one.reader.readuntil(b"\r\n\r\n")) == b"HTTP/1.1 200 Connection established\r\n\r\n"
    assert await one.hear(5) == b"early"
    await listener.move("127.0.0.32")
    await one.say(b"late")
    one.writer.write_eof()
    assert await one.hear_all() == b"late"
    assert not proxy.errors


async def test_an_answer_without_length_ends_with_the_connection(world: World) -> None:
    await published(world, await tcp_server(world, Origin().handle))
    _, place = await http_proxy(world)
    one = await program(world, place)
    assert (await ask(one, get("/old")))[2] == b"until the end"
    old = await program(world, place)
    await old.say(f"GET http://{NAME}/old HTTP/1.0\r\n\r\n".encode())
    assert (await old.hear_all()).endswith(b"\r\n\r\nuntil the end")


@pytest.mark.parametrize(
    ("request_text", "status", "code"),
    [
        (get("/", "nobody.acme"), 404, "unknown_name"),
        (get("/", "127.0.0.1"), 404, "address_not_name"),
        (get("/", "localhost"), 404, "not_a_service_name"),
        (get("/", "dead.acme"), 502, "session_reset"),
        (get("/gone"), 502, "truncated"),
        (get("/not-http"), 502, "truncated"),
        (get("/", NAME, method="TRACE /"), 400, "bad_request"),
        ("GET / HTTP/1.1\nHost: 127.0.0.1\n\n", 400, "not_a_proxy_request"),
        ("GET http://files.acme/ HTTP/1.1\nHost: other.acme\n\n", 400, "host_mismatch"),
        (get("/", NAME, "Content-Length: 1", "Transfer-Encoding: chunked"), 400, "ambiguous_request"),
        (get("/", NAME, "Content-Length: 1", "Content-Length: 2"), 400, "bad_request"),
        (get("/", NAME, "Transfer-Encoding: gzip, chunked"), 400, "bad_request"),
        (get("/", NAME, "A: b", " folded: c", "Content-Length : 5"), 400, "bad_request"),
        (get("/", NAME, "X: " + "y" * HEAD_BYTES), 431, "oversized_head"),
        ("CONNECT nobody.acme:1 HTTP/1.1\nHost: nobody.acme:1\n\n", 404, "unknown_name"),
        ("\x16\x03\x01\x02\n\n", 400, "bad_request"),
    ],
)
async def test_refusals_are_typed(world: World, request_text: str, status: int, code: str) -> None:
    origin = Origin()
    await published(world, await tcp_server(world, origin.handle))
    await published(world, 1, "dead.acme")  # nothing listens there
    proxy, place = await http_proxy(world)
    one = await program(world, place)
    got_status, headers, body = await ask(one, request_text)
    document: dict[str, Any] = json.loads(body)
    assert (got_status, document["status"], document["code"]) == (status, status, code)
    assert headers[b"connection"] == b"close"
    assert await one.hear_all() == b""
    assert proxy.errors == {code: 1}
    assert len(origin.requests) == (1 if status == 502 and code == "truncated" else 0)


async def test_the_token_is_asked_for(world: World) -> None:
    origin = Origin()
    await published(world, await tcp_server(world, origin.handle))
    _, place = await http_proxy(world, token=TOKEN)
    status, headers, _ = await ask(await program(world, place), get("/"))
    assert (status, headers[b"proxy-authenticate"].split()[0]) == (407, b"Basic")
    shown = base64.b64encode(b"x:" + TOKEN).decode()
    assert (await ask(await program(world, place), get("/", NAME, f"Proxy-Authorization: Basic {shown}")))[0] == 200
    assert b"proxy-authorization" not in origin.requests[0][2]
    assert len(origin.requests) == 1


async def test_half_an_answer_is_never_taken_for_the_whole(world: World) -> None:
    await published(world, await tcp_server(world, Origin().handle))
    proxy, place = await http_proxy(world)
    one = await program(world, place)
    await one.say(get("/short").replace("\n", "\r\n").encode())
    with pytest.raises(ConnectionResetError):
        await one.hear_all()
    assert proxy.errors == {"truncated": 1}


async def test_a_service_that_never_answers_and_a_program_that_leaves(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener = await published(world, await tcp_server(world, Origin().handle))
    proxy, place = await http_proxy(world)
    one = await program(world, place)
    await one.say(get("/never").replace("\n", "\r\n").encode())
    await until(lambda: listener.endpoint.sessions)
    one.writer.transport.abort()
    await until(lambda: not proxy.open_connections and not listener.endpoint.sessions)
    assert not proxy.errors
    monkeypatch.setattr(module, "ANSWER_SECONDS", 0.05)
    status, _, body = await ask(await program(world, place), get("/never"))
    assert (status, json.loads(body)["code"]) == (504, "timed_out")


async def test_a_broken_body_ends_the_request(world: World) -> None:
    origin = Origin()
    listener = await published(world, await tcp_server(world, origin.handle))
    proxy, place = await http_proxy(world)
    one = await program(world, place)
    status, _, body = await ask(one, get("/", NAME, "Transfer-Encoding: chunked", method="POST"), b"zz\r\n")
    assert (status, json.loads(body)["code"]) == (400, "bad_request")
    await until(lambda: not listener.endpoint.sessions and not proxy.open_connections)
    assert not origin.requests


async def test_silence_is_not_waited_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HEAD_SECONDS", 0.05)
    proxy, place = await http_proxy(world)
    one = await program(world, place)
    await one.say(b"GET http://")
    with pytest.raises(ConnectionResetError):
        await one.hear_all()
    assert proxy.errors == {"timed_out": 1}
