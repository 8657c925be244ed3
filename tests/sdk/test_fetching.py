"""`blockcloud.fetch` over a real validator, provider and edge node, and over edges that lie in every way we know."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

import blockcloud
from blockcloud.primitives.addresses import format_address
from blockcloud.primitives.errors import BadConfiguration, BlockCloudError, InvalidName, Oversized, Unreachable
from blockcloud.primitives.hashes import sha256
from blockcloud.primitives.keys import SigningKey
from blockcloud.sdk.edge_caching import edge_cache
from blockcloud.sdk.fetching import FIELDS, Fetcher
from blockcloud.sdk.home import Home
from blockcloud.sdk.publishing import list_content
from blockcloud.sdk.services import listen, open_client
from blockcloud.service_access import connector
from blockcloud.service_access.admission import PolicyDenied
from blockcloud.service_access.edge import errors
from blockcloud.service_access.edge.exchange import ServerSide
from blockcloud.service_access.edge.http_message import Request, Response, combined, values, without
from blockcloud.service_access.edge.http_signature import sign_response
from blockcloud.service_access.edge.signing_proxy import Signer, SigningProxy
from blockcloud.service_access.edge.streams import TcpStream
from blockcloud.service_access.listener import Listener
from blockcloud.service_access.service_table import Origin as RuleOrigin
from blockcloud.service_chain.operations import SetPolicy
from tests.api.api_world import running_api
from tests.node.cluster import USERS
from tests.service_access.edge.edge_world import Origin, ask, origin_server

NAME, EDGE = "files.test", "corner.test"
OWNER, ALICE, BOB = USERS[0], SigningKey.generate(), SigningKey.generate()
FRESH = ("cache-control", "max-age=60")
WAIT_SECONDS = 20.0


@dataclass
class Service:
    """A published service and who owns it."""

    home: Path
    origin: Origin
    key: SigningKey
    signer: Signer
    listener: Listener


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    async with running_api(tmp_path / "node") as api, origin_server() as origin:
        home = tmp_path / "net"
        home.mkdir()
        (home / "genesis.json").write_text(api.net.genesis.to_json(), encoding="utf-8")
        OWNER.save(home / "keys" / "account.pem")
        async with open_client(home) as client:
            for name in (NAME, EDGE):
                receipt = await client.preorder_and_register(OWNER, name)
            await client.name(EDGE, at_least_height=receipt.height)
        key = Home.find(home).instance_key()
        signer = Signer(key, NAME)
        async with listen(NAME, home=home) as listener:
            proxy = SigningProxy(signer, ("127.0.0.1", origin.port))
            serving = asyncio.create_task(proxy.run(listener))
            try:
                yield Service(home, origin, key, signer, listener)
            finally:
                serving.cancel()
                await asyncio.gather(serving, return_exceptions=True)


async def test_an_object_from_the_provider_and_from_an_edge_by_address_and_by_name(service: Service) -> None:
    service.origin.set("/a", b"content", FRESH, ("x-other", "x"))
    url = f"bloc://{NAME}/a?q=1"
    direct = await blockcloud.fetch(url, home=service.home)
    assert (direct.status, direct.body, direct.verified_by, direct.served_by) == (
        200,
        b"content",
        "session",
        "provider",
    )
    async with edge_cache([NAME], home=service.home, name=EDGE) as edge, Fetcher(service.home) as fetcher:
        at = f"{edge.address[0]}:{edge.address[1]}"
        for place in (at, EDGE, at):
            found = await fetcher.fetch(url, edge=place)
            assert (found.status, found.body, found.verified_by, found.served_by) == (
                200,
                b"content",
                "signature",
                "edge",
            )
            assert (found.key, found.is_stale, dict(found.fields).get("x-other")) == (service.key.public, False, None)
        assert service.origin.asked["/a?q=1"] == 2, "the provider was asked directly and by the edge, once each"
        with pytest.raises(Oversized):
            await fetcher.fetch(url, edge=EDGE, limit_bytes=3)
        missing = await fetcher.fetch(f"bloc://{NAME}/missing", edge=EDGE)
        assert (missing.status, missing.verified_by) == (404, "signature")
    with pytest.raises(InvalidName):
        await blockcloud.fetch(f"http://{NAME}/a", home=service.home)
    with pytest.raises(errors.BadMessage):
        await blockcloud.fetch(f"bloc://{NAME}/a b", home=service.home)
    with pytest.raises(Unreachable):
        await blockcloud.fetch(url, edge="127.0.0.1:1", home=service.home)
    with pytest.raises(BadConfiguration):
        async with edge_cache([], home=service.home):
            pass


async def test_content_that_the_owner_has_listed_is_proven_without_a_signature(service: Service) -> None:
    service.origin.set("/logo.png", b"logo")
    async with open_client(service.home) as client:
        first = await list_content(client, NAME, OWNER, {"/logo.png": sha256(b"logo")})
        assert await list_content(client, NAME, OWNER, {"/logo.png": sha256(b"logo")}) == first, "nothing to change"
    service.signer.sign = lambda request, response: response  # type: ignore[method-assign] # signs no more
    async with edge_cache([NAME], home=service.home) as edge:
        at = f"{edge.address[0]}:{edge.address[1]}"
        found = await blockcloud.fetch(f"bloc://{NAME}/logo.png", edge=at, home=service.home)
        assert (found.body, found.verified_by, found.fields) == (b"logo", "digest", ())
        service.origin.set("/logo.png", b"lego")
        again = await blockcloud.fetch(f"bloc://{NAME}/logo.png", edge=at, home=service.home)
        assert again.body == b"logo", "from the cache: the service file says that this is it"
        with pytest.raises(errors.Unsigned):
            await blockcloud.fetch(f"bloc://{NAME}/other", edge=at, home=service.home)


async def test_an_edge_follows_its_providers_without_being_asked(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connector, "FRESHEN_SECONDS", 0.01)
    monkeypatch.setattr(connector, "FOLLOW_SECONDS", 0)
    service.origin.set("/a", b"content", FRESH)
    async with edge_cache([NAME], home=service.home) as edge:
        at = f"{edge.address[0]}:{edge.address[1]}"
        await blockcloud.fetch(f"bloc://{NAME}/a", edge=at, home=service.home)
        (rule,) = [each for each in edge.endpoint.table.rules() if each.origin is RuleOrigin.RECORD]
        moved_to = await service.listener.move("127.0.0.9")
        async with asyncio.timeout(WAIT_SECONDS):
            while rule.addresses != (moved_to,):
                await asyncio.sleep(0.01)


async def test_the_policy_of_the_service_holds_at_the_edge(service: Service, tmp_path: Path) -> None:
    service.origin.set("/a", b"content", FRESH)
    url = f"bloc://{NAME}/a"
    rule = f'permit(principal == Account::"{address_of(ALICE)}", action, resource);'
    own = SigningKey.generate()
    rule += f'permit(principal == Account::"{address_of(own)}", action, resource);'
    async with open_client(service.home) as client:
        receipt = await client.transact(OWNER, SetPolicy(NAME, rule))
        await client.name(NAME, at_least_height=receipt.height)
    async with edge_cache([NAME], home=service.home, name=EDGE, identity=own) as edge:
        plain = f"{edge.address[0]}:{edge.address[1]}"
        assert (await fetch_until_allowed(url, plain, service.home, own)).body == b"content", "as the edge's user"
        found = await blockcloud.fetch(url, edge=EDGE, home=service.home, identity=ALICE)
        assert (found.body, found.served_by) == (b"content", "edge")
        with pytest.raises(errors.Unsigned, match="policy_denied"):
            await blockcloud.fetch(url, edge=EDGE, home=service.home, identity=BOB)
        with pytest.raises(PolicyDenied):
            await blockcloud.fetch(url, edge=EDGE, home=service.home, identity=BOB, fallback=True)
    lines = (service.home / "decisions" / f"{NAME}.edge.jsonl").read_text().splitlines()
    logged = {(entry["principal"], entry["allowed"]) for entry in map(json.loads, lines)}
    assert {(address_of(own), True), (address_of(ALICE), True), (address_of(BOB), False)} <= logged


async def fetch_until_allowed(url: str, place: str, home: Path, identity: SigningKey) -> blockcloud.Fetched:
    """A permission counts when it is proven, which takes until the next checkpoint."""
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            try:
                return await blockcloud.fetch(url, edge=place, home=home, identity=identity)
            except errors.Unsigned:
                await asyncio.sleep(0.1)


def address_of(key: SigningKey) -> str:
    return format_address(key.public)


# --- edges that lie ---------------------------------------------------------------------------------------------------

Lie = Callable[[Request, Callable[[Request], Awaitable[Response]]], Awaitable[Response]]


@asynccontextmanager
async def hostile_edge(honest: int, lie: Lie) -> AsyncIterator[str]:
    """An edge that has whatever the honest one at this port has, and answers what `lie` makes of it."""
    running: set[asyncio.Task[None]] = set()

    async def serve(stream: TcpStream) -> None:
        side = ServerSide(stream)
        try:
            while (head := await side.next_request()) is not None:
                await side.answer(await lie(head.request, lambda request: ask(honest, request)))
        finally:
            stream.abort()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        running.add(asyncio.get_running_loop().create_task(serve(TcpStream(reader, writer))))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


def lies(service: Service) -> list[tuple[str, Lie, type[BlockCloudError]]]:
    """What an edge may try, and how it is found out."""

    def with_fields(change: Callable[[Response], Response]) -> Lie:
        async def lie(request: Request, get: Callable[[Request], Awaitable[Response]]) -> Response:
            return change(without_framing(await get(request)))

        return lie

    def body(change: Callable[[bytes], bytes]) -> Lie:
        return with_fields(lambda response: replace(response, body=change(response.body)))

    def field(name: str, change: Callable[[str], str | None]) -> Lie:
        def altered(response: Response) -> Response:
            value = change(combined(response.fields, name) or "")
            fields = without(response.fields, (name,))
            return replace(response, fields=fields if value is None else (*fields, (name, value)))

        return with_fields(altered)

    async def other_path(_: Request, get: Callable[[Request], Awaitable[Response]]) -> Response:
        return without_framing(await get(Request("GET", "/b", (("host", NAME), *FIELDS))))

    async def other_query(_: Request, get: Callable[[Request], Awaitable[Response]]) -> Response:
        return without_framing(await get(Request("GET", "/a?v=1", (("host", NAME), *FIELDS))))

    def signed(name: str, key: SigningKey, age_s: int) -> Lie:
        async def lie(request: Request, get: Callable[[Request], Awaitable[Response]]) -> Response:
            response = Response(200, (("content-type", "text/plain"), FRESH), b"old")
            return sign_response(key, name, request, response, now_s=int(time.time()) - age_s)

        return lie

    def doubled(name: str) -> Lie:
        return with_fields(lambda each: replace(each, fields=(*each.fields, (name, values(each.fields, name)[0]))))

    return [
        ("tampers", body(lambda content: content.replace(b"t", b"T")), errors.DigestMismatch),
        ("cuts short", body(lambda content: content[:-1]), errors.DigestMismatch),
        ("adds", body(lambda content: content + b"!"), errors.DigestMismatch),
        ("answers another path", other_path, errors.SignatureMismatch),
        ("answers another query", other_query, errors.SignatureMismatch),
        ("answers from another name", signed("other.test", service.key, 0), errors.WrongName),
        ("signs by itself", signed(NAME, SigningKey.generate(), 0), errors.UnknownResponseKey),
        ("replays", signed(NAME, service.key, 3_600), errors.SignatureExpired),
        ("is ahead of time", signed(NAME, service.key, -3_600), errors.SignatureNotYetValid),
        ("strips the signature", field("signature", lambda _: None), errors.Unsigned),
        ("strips what is signed", field("signature-input", lambda _: None), errors.Unsigned),
        ("strips the type", field("content-type", lambda _: None), errors.ComponentsMissing),
        ("strips the digest", field("content-digest", lambda _: None), errors.ComponentsMissing),
        ("changes the type", field("content-type", lambda _: "text/html"), errors.SignatureMismatch),
        ("makes it last", field("cache-control", lambda _: "max-age=9999"), errors.SignatureMismatch),
        ("slips in an encoding", field("content-encoding", lambda _: "gzip"), errors.ComponentsMissing),
        ("covers less", field("signature-input", lambda t: t.replace('"@path";req ', "")), errors.ComponentsMissing),
        (
            "makes it valid",
            field("signature-input", lambda t: t.replace("created=1", "created=0")),
            errors.ResponseRefused,
        ),
        ("downgrades", field("signature-input", lambda t: t + ';alg="hmac-sha256"'), errors.AlgorithmRefused),
        ("downgrades the digest", field("content-digest", lambda _: "md5=:AAAA:"), errors.AlgorithmRefused),
        ("doubles a field", doubled("cache-control"), errors.DuplicateField),
        ("doubles the signature", doubled("signature"), errors.DuplicateField),
        ("says it is gone", with_fields(lambda each: replace(each, status=410)), errors.SignatureMismatch),
        ("says it may not", with_fields(lambda _: Response(403, (), b"no")), errors.Unsigned),
        ("says nothing changed", with_fields(lambda each: Response(304, each.fields)), errors.ResponseRefused),
    ]


def without_framing(response: Response) -> Response:
    return replace(response, fields=without(response.fields, ("content-length", "connection")))


async def test_every_lie_of_an_edge_is_found_out_and_the_provider_has_the_truth(service: Service) -> None:
    service.origin.set("/a", b"content", FRESH)
    service.origin.set("/b", b"another", FRESH)
    url = f"bloc://{NAME}/a"
    async with edge_cache([NAME], home=service.home) as edge, Fetcher(service.home) as fetcher:
        for what, lie, error in lies(service):
            async with hostile_edge(edge.address[1], lie) as place:
                with pytest.raises(error) as caught:
                    await fetcher.fetch(url, edge=place)
                assert isinstance(caught.value, BlockCloudError)
                found = await fetcher.fetch(url, edge=place, fallback=True)
                truth = (found.body, found.verified_by, found.served_by, found.edge_error)
                assert truth == (b"content", "session", "provider", caught.value.code), what

        async def honest(request: Request, get: Callable[[Request], Awaitable[Response]]) -> Response:
            return without_framing(await get(request))

        async with hostile_edge(edge.address[1], honest) as place:
            assert (await fetcher.fetch(url, edge=place)).served_by == "edge", "the harness itself breaks nothing"


async def test_an_edge_that_does_not_speak_http_or_leaves_is_a_typed_error(service: Service) -> None:
    service.origin.set("/a", b"content", FRESH)
    for said in (b"\x00" * 100, b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nx", b""):

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, said: bytes = said) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(said)
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        place = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        with pytest.raises(errors.ServerFailed):
            await blockcloud.fetch(f"bloc://{NAME}/a", edge=place, home=service.home)
        found = await blockcloud.fetch(f"bloc://{NAME}/a", edge=place, home=service.home, fallback=True)
        assert (found.body, found.edge_error) == (b"content", "server_failed")
        server.close()
        await server.wait_closed()
