"""The edge node over real sessions and sockets: what it stores, asks again, serves while the provider is away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from blockcloud.primitives.hashes import sha256
from blockcloud.primitives.keys import SigningKey
from blockcloud.service_access.admission import AccessRequest, PolicyDenied
from blockcloud.service_access.edge.cache import OBJECT_BYTES
from blockcloud.service_access.edge.errors import ResponseRefused, SignatureExpired, Unsigned
from blockcloud.service_access.edge.http_message import Response, combined
from blockcloud.service_access.edge.trust import Trust
from blockcloud.service_access.policy import Decision
from tests.service_access.access_world import NAME, World, until
from tests.service_access.edge.edge_world import EdgeWorld, edge_world, fields_of, status

FRESH = ("cache-control", "max-age=10")


@pytest.fixture
async def edge(world: World) -> AsyncIterator[EdgeWorld]:
    async with edge_world(world) as made:
        yield made


async def test_the_second_answer_is_from_the_cache_and_verifies_like_the_first(edge: EdgeWorld) -> None:
    edge.origin.set("/a", b"content", FRESH)
    first, second = await edge.ask("/a?x=1"), await edge.ask("/a?x=1")
    assert [status(each) for each in (first, second)] == ["fwd=miss; fwd-status=200; stored", "hit"]
    assert edge.origin.asked["/a?x=1"] == 1
    assert second.body == b"content"
    assert edge.check("/a?x=1", second) == edge.check("/a?x=1", first)
    edge.clock.now_s += 4
    assert fields_of(await edge.ask("/a?x=1"))["age"] == "4"
    with pytest.raises(ResponseRefused):
        edge.check("/a", second)


async def test_a_stale_answer_is_revalidated_and_signed_anew(edge: EdgeWorld) -> None:
    edge.origin.set("/a", b"content", FRESH, ("etag", '"1"'))
    old = await edge.ask("/a")
    edge.clock.now_s += 65  # the signature has expired, too
    with pytest.raises(SignatureExpired):
        edge.check("/a", old)
    fresh = await edge.ask("/a")
    assert status(fresh) == "fwd=stale; fwd-status=304"
    assert edge.origin.heads[-1][2]["if-none-match"] == '"1"'
    assert edge.check("/a", fresh).created_s == edge.clock.now_s
    assert fresh.body == b"content"
    assert status(await edge.ask("/a")) == "hit"
    edge.origin.set("/a", b"changed", FRESH, ("etag", '"2"'))
    edge.clock.now_s += 11
    changed = await edge.ask("/a")
    assert (status(changed), changed.body) == ("fwd=stale; fwd-status=200; stored", b"changed")


async def test_a_304_that_is_not_signed_refreshes_nothing(edge: EdgeWorld) -> None:
    edge.origin.set("/a", b"content", FRESH, ("etag", '"1"'))
    await edge.ask("/a")
    edge.clock.now_s += 11
    edge.proxy._signer._remembered.clear()  # as after a restart of the provider
    again = await edge.ask("/a")
    assert [head[2].get("if-none-match") for head in edge.origin.heads] == [None, '"1"', None]
    assert status(again) == "fwd=miss; fwd-status=200; stored"
    edge.check("/a", again)


async def test_while_the_provider_fails_a_stale_answer_is_served_if_he_allows_it(edge: EdgeWorld) -> None:
    edge.origin.set("/a", b"content", ("cache-control", "max-age=10, stale-if-error=100"))
    edge.origin.set("/b", b"content", FRESH)
    await asyncio.gather(edge.ask("/a"), edge.ask("/b"))
    edge.clock.now_s += 20
    edge.origin.set("/a", b"broken", status=503)
    stale = await edge.ask("/a")
    assert (status(stale), stale.body, fields_of(stale)["age"]) == ("hit; detail=stale-if-error", b"content", "20")
    edge.check("/a", stale)
    edge.node.services[NAME].upstream.close()
    edge.cut = True
    assert (await edge.ask("/a")).body == b"content"
    refused = await edge.ask("/b")
    assert (refused.status, b"[unreachable]" in refused.body) == (502, True)
    edge.clock.now_s += 100
    assert (await edge.ask("/a")).status == 502


async def test_one_fetch_for_all_who_ask_at_once(edge: EdgeWorld) -> None:
    edge.origin.set("/a", b"content", FRESH)
    edge.origin.gate.clear()
    asking = [asyncio.create_task(edge.ask("/a")) for _ in range(20)]
    await until(lambda: edge.origin.asked["/a"])
    await until(lambda: len(edge.node._running) == 20)
    edge.origin.gate.set()
    answers = await asyncio.gather(*asking)
    assert edge.origin.asked["/a"] == 1
    assert {answer.body for answer in answers} == {b"content"}
    assert sorted(status(answer) for answer in answers)[-1] == "hit"


async def test_what_cannot_be_shared_is_fetched_by_each_and_nobody_waits_for_long(edge: EdgeWorld) -> None:
    edge.origin.set("/a", b"content", ("cache-control", "no-store"))
    answers = await asyncio.gather(*(edge.ask("/a") for _ in range(5)))
    assert edge.origin.asked["/a"] == 5
    assert {status(answer) for answer in answers} == {"fwd=miss; fwd-status=200; detail=no-store"}
    for answer in answers:
        edge.check("/a", answer)  # signed all the same


@pytest.mark.parametrize(
    ("field", "reason"), [(("authorization", "x"), "authorization"), (("range", "bytes=0-1"), "range")]
)
async def test_requests_with_credentials_or_for_a_part_pass_by_the_cache(
    edge: EdgeWorld, field: tuple[str, str], reason: str
) -> None:
    edge.origin.set("/a", b"content", ("cache-control", "public, max-age=10"))
    await edge.ask("/a")
    passed = await edge.ask("/a", field)
    assert status(passed) == f"fwd=bypass; detail={reason}"
    assert edge.origin.heads[-1][2][field[0]] == field[1]
    with pytest.raises(Unsigned):
        edge.check("/a", passed)
    assert edge.origin.asked["/a"] == 2


async def test_other_methods_pass_and_forget_what_they_may_have_changed(edge: EdgeWorld) -> None:
    edge.origin.set("/a", b"content", FRESH)
    await edge.ask("/a")
    head = await edge.ask("/a", method="HEAD")
    assert (head.status, head.body, fields_of(head)["content-length"]) == (200, b"", "7")
    assert status(await edge.ask("/a")) == "hit"
    assert (await edge.ask("/a", method="DELETE")).status == 200
    assert status(await edge.ask("/a")) == "fwd=miss; fwd-status=200; stored"


async def test_variants_are_kept_apart(edge: EdgeWorld) -> None:
    edge.origin.set("/a", b"content", FRESH, ("vary", "accept-language"))
    german, english = ("accept-language", "de"), ("accept-language", "en")
    await edge.ask("/a", german)
    assert status(await edge.ask("/a", english)) == "fwd=miss; fwd-status=200; stored"
    answer = await edge.ask("/a", german)
    assert status(answer) == "hit"
    edge.check("/a", answer, german)
    with pytest.raises(ResponseRefused):
        edge.check("/a", answer, english)


async def test_content_that_the_service_file_lists_is_stored_without_a_signature(world: World) -> None:
    async with edge_world(world, signs=False) as edge:
        edge.origin.set("/a", b"content")
        edge.trust = Trust((edge.key.public,), {"/a": sha256(b"content")})
        assert status(await edge.ask("/a")) == "fwd=miss; fwd-status=200; stored"
        edge.clock.now_s += 10**6
        answer = await edge.ask("/a")
        assert status(answer) == "hit"
        assert edge.check("/a", answer).key == b""
        edge.trust = Trust((edge.key.public,), {"/a": sha256(b"other")})
        assert status(await edge.ask("/a")) == "fwd=miss; fwd-status=200; detail=digest_mismatch"
        edge.trust = Trust((edge.key.public,), {})
        assert status(await edge.ask("/a")) == "fwd=miss; fwd-status=200; detail=unknown_response_key"


async def test_a_key_that_the_ledger_lists_no_more_empties_the_cache(edge: EdgeWorld) -> None:
    edge.origin.set("/a", b"content", FRESH)
    await edge.ask("/a")
    edge.trust = Trust((SigningKey.generate().public,), {})
    assert status(await edge.ask("/a")) == "fwd=miss; fwd-status=200; detail=unknown_response_key"


async def test_large_content_passes_unsigned_and_whole(edge: EdgeWorld) -> None:
    large = bytes(OBJECT_BYTES + 1)
    edge.origin.set("/a", large, FRESH)
    edge.origin.set("/b", large, FRESH, ("transfer-encoding", "chunked"))
    for path in ("/a", "/b"):
        answer = await edge.ask(path)
        assert (status(answer), len(answer.body)) == ("fwd=miss; fwd-status=200; detail=size", len(large))
        with pytest.raises(Unsigned):
            edge.check(path, answer)
    assert edge.proxy.counts == {"unsigned": 2}
    assert len(edge.node.cache) == 0


async def test_chunked_content_of_bounded_size_is_signed(edge: EdgeWorld) -> None:
    edge.origin.set("/a", b"x" * 5_000, FRESH, ("transfer-encoding", "chunked"))
    answer = await edge.ask("/a")
    edge.check("/a", answer)
    assert len(answer.body) == 5_000


async def test_a_client_that_has_it_gets_304_and_can_verify_what_it_has(edge: EdgeWorld) -> None:
    edge.origin.set("/a", b"content", FRESH, ("etag", '"1"'))
    first = await edge.ask("/a")
    edge.clock.now_s += 1
    answer = await edge.ask("/a", ("if-none-match", '"1"'))
    assert (answer.status, answer.body) == (304, b"")
    newer = Response(200, (*answer.fields, ("content-type", combined(first.fields, "content-type") or "")), first.body)
    edge.check("/a", newer)


async def test_only_if_cached_and_unknown_names_and_garbage_get_an_answer(edge: EdgeWorld) -> None:
    edge.origin.set("/a", b"content", FRESH)
    assert (await edge.ask("/a", ("cache-control", "only-if-cached"))).status == 504
    refused = await edge.ask("/a", host="other.acme")
    assert (refused.status, b"[not_served_here]" in refused.body) == (404, True)
    assert (await edge.ask("/a", host=f"{NAME.upper()}:8080")).status == 200
    for garbage, answered in (
        (b"GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n", b" 400 "),
        (b"GET / HTTP/1.1\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n", b" 400 "),
        (b"GET a HTTP/1.1\r\n\r\n", b" 400 "),
        (b"\x16\x03\x01\x00\x00", b" 400 "),
        (b"GET / HTTP/1.1\r\nx: " + b"y" * 40_000 + b"\r\n\r\n", b" 400 "),
        (b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 200 + b"\r\n", b" 400 "),
        (b"GET / HTTP/1.1\r\nhost: " + NAME.encode() + b"\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n", b" 400 "),
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", edge.port)
        writer.write(garbage)
        async with asyncio.timeout(20):
            assert answered in (await reader.readline())
        writer.close()
        await writer.wait_closed()


async def test_a_provider_that_breaks_off_is_an_error_not_a_short_answer(edge: EdgeWorld) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nshort")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    edge.proxy._server = ("127.0.0.1", server.sockets[0].getsockname()[1])
    answer = await edge.ask("/a")
    assert (answer.status, b"server_failed" in answer.body) == (502, True)
    server.close()
    await server.wait_closed()
    edge.proxy._server = ("127.0.0.1", 1)
    assert (await edge.ask("/b")).status == 502


async def test_requests_with_content_pass_to_the_server(edge: EdgeWorld) -> None:
    edge.origin.set("/a", b"done")
    reader, writer = await asyncio.open_connection("127.0.0.1", edge.port)
    head = f"POST /a HTTP/1.1\r\nhost: {NAME}\r\n"
    writer.write(head.encode() + b"content-length: 5\r\nexpect: 100-continue\r\n\r\n")
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(b"hello" + head.encode() + b"transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
    async with asyncio.timeout(20):
        for _ in range(2):
            answer = await reader.readuntil(b"\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 200"), answer
            assert await reader.readexactly(4) == b"done"
    assert [head[3] for head in edge.origin.heads] == [b"hello", b"abc"]
    writer.close()
    await writer.wait_closed()


# --- who may ask ------------------------------------------------------------------------------------------------------


class OneKey:
    """A gate that knows one key, and remembers what it was asked to log."""

    def __init__(self, key: bytes) -> None:
        self.key = key
        self.logged: list[tuple[str, bytes, bool]] = []

    active = True

    def decide(self, request: AccessRequest) -> Decision:
        allowed = request.key == self.key
        return Decision(allowed, "permitted" if allowed else "no_rule", (), b"", "as the test says")

    def admit(self, request: AccessRequest) -> None:
        decision = self.decide(request)
        self.logged.append((request.name, request.key, decision.allowed))
        if not decision.allowed:
            raise PolicyDenied("as the test says")


async def test_whom_the_policy_does_not_permit_gets_nothing_from_the_cache(world: World) -> None:
    gate = OneKey(b"")
    async with edge_world(world, gate=lambda _: gate) as edge:
        gate.key = edge.key.public
        edge.origin.set("/a", b"content", FRESH)
        assert (await edge.ask("/a")).status == 200
        gate.key = SigningKey.generate().public
        refused = await edge.ask("/a")
        assert (refused.status, b"[policy_denied]" in refused.body, b"content" in refused.body) == (403, True, False)
        assert gate.logged == [(NAME, edge.key.public, True), (NAME, edge.key.public, False)]


async def test_a_policy_that_changes_counts_for_connections_that_are_open(world: World) -> None:
    gate = OneKey(b"")
    async with edge_world(world, gate=lambda _: gate) as edge:
        gate.key = edge.key.public
        edge.origin.set("/a", b"content", FRESH)
        reader, writer = await asyncio.open_connection("127.0.0.1", edge.port)
        request = f"GET /a HTTP/1.1\r\nhost: {NAME}\r\n\r\n".encode()
        for _ in range(3):
            writer.write(request)
            assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(7)
        assert len(gate.logged) == 1, "one line for what does not change"
        gate.key = b""
        async with asyncio.timeout(20):
            while True:
                writer.write(request)
                head = await reader.readuntil(b"\r\n\r\n")
                if b" 403 " in head:
                    break
                await reader.readexactly(7)
        writer.close()
        await writer.wait_closed()


async def test_plain_http_from_elsewhere_is_nobody_to_a_policy(world: World, monkeypatch: Any) -> None:
    gate = OneKey(b"")
    async with edge_world(world, gate=lambda _: gate) as edge:
        gate.key = edge.key.public
        edge.origin.set("/a", b"content", FRESH)
        monkeypatch.setattr("blockcloud.service_access.edge.caching_node._is_loopback", lambda host: False)
        refused = await edge.ask("/a")
        assert (refused.status, b"does not say who asks" in refused.body) == (403, True)
