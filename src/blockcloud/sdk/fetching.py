"""`blockcloud.fetch("bloc://name/path", edge=...)`: one HTTP object by name, proven to be the provider's.

From the provider it comes in a session with a key that the ledger lists, which proves it. From an edge node, which
nobody need trust, it comes with the provider's signature, or its digest stands in the service file: both are checked
here against the proven state of the name (`service_access.edge.http_signature`). With `fallback`, what an edge cannot
or does not prove is fetched from the provider.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Final, Self

import structlog

from blockcloud.primitives.amounts import parse_amount
from blockcloud.primitives.errors import BlockCloudError, Malformed
from blockcloud.primitives.keys import SigningKey
from blockcloud.primitives.names import split_uri
from blockcloud.sdk.home import OwnerKey, Place
from blockcloud.sdk.paid_sessions import RequestPurse, open_purses
from blockcloud.sdk.resolver import ChainResolver
from blockcloud.sdk.response_trust import ResponseTrust
from blockcloud.sdk.services import open_client
from blockcloud.service_access.addresses import parse_endpoint
from blockcloud.service_access.admission import Credentials
from blockcloud.service_access.connector import Connector
from blockcloud.service_access.edge.cache_control import parse_cache_control
from blockcloud.service_access.edge.errors import Unsigned
from blockcloud.service_access.edge.http_message import Fields, Request, Response, combined, end_to_end, origin_form
from blockcloud.service_access.edge.http_signature import Verified, verify
from blockcloud.service_access.edge.streams import ByteStream, SessionStream, TcpStream
from blockcloud.service_access.edge.upstream import Upstream
from blockcloud.service_access.endpoint import ServiceEndpoint
from blockcloud.service_access.payment.http_door import (
    PAYMENT_REQUIRED,
    SIGNATURE_FIELD,
    read_required,
    refused_for,
)

FETCH_BYTES: Final = 64 * 1024 * 1024
PLACES_KEPT: Final = 64
TOLD_CHARACTERS: Final = 200
# What a session with the provider proves needs no signature; "identity" because digests are of what is sent.
FIELDS: Final = (("accept", "*/*"), ("accept-encoding", "identity"), ("user-agent", "blockcloud"))

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Fetched:
    """An object, and why it is believed: `verified_by` is "signature", "digest" or "session".

    `fields` are the header fields that are proven too (none for a digest, which is of the content only). `age_s` counts
    from when the provider signed; `is_stale`: the provider allows it to be served while nobody reaches him, but it is
    older than it would be otherwise. `edge_error` is the code of what was wrong with the edge, if there was a fallback.
    `paid` micro-BLOC were paid for it.
    """

    url: str
    status: int
    fields: Fields
    body: bytes
    verified_by: str
    served_by: str
    key: bytes
    age_s: int
    is_stale: bool
    edge_error: str = ""
    paid: int = 0


class Fetcher:
    """Fetches over connections that it keeps, within one client of the chain in `home`. Use as a context manager.

    `identity`, `role` and `grant` as in `connect`. With a `budget` (BLOC) requests are paid for where the provider asks
    for money: the first one opens an agreement, signed by `key` (as in `connect`), which is closed at the end.
    """

    def __init__(
        self,
        home: Place = None,
        *,
        api: str | None = None,
        identity: SigningKey | None = None,
        role: str = "",
        grant: bytes = b"",
        budget: str = "",
        key: OwnerKey = None,
    ) -> None:
        self._home, self._api = home, api
        self._budget, self._key = budget, key
        self._purses: dict[tuple[str, bytes], RequestPurse] = {}
        self._identity = identity or SigningKey.generate()
        self._credentials = Credentials(role, grant)
        self._places: OrderedDict[str, Upstream] = OrderedDict()
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        client = await self._stack.enter_async_context(open_client(self._home, api=self._api))
        self._paying = (
            await self._stack.enter_async_context(
                open_purses(client, self._home, parse_amount(self._budget), self._key, self._purses)
            )
            if self._budget
            else None
        )
        endpoint = await self._stack.enter_async_context(ServiceEndpoint(self._identity))
        resolver = ChainResolver(client)
        self._connector = Connector(endpoint, resolver, self._credentials)
        self.trust = ResponseTrust(resolver)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for place in self._places.values():
            place.close()
        await self._stack.aclose()

    async def fetch(
        self, url: str, *, edge: str | None = None, fallback: bool = False, limit_bytes: int = FETCH_BYTES
    ) -> Fetched:
        """The object at `url` (bloc://name/path), from `edge` (a name, or HOST:PORT) or from the provider.

        Raises InvalidName, BadMessage (the path), ResponseRefused's children (which check failed), PolicyDenied,
        Oversized, and what `connect` and the resolver raise.
        """
        name, path = split_uri(url)
        target, _ = origin_form(path or "/")
        request = Request("GET", target, (("host", name), *FIELDS))
        if edge is None:
            return await self._from_provider(url, name, request, limit_bytes)
        try:
            return await self._from_edge(url, name, request, edge, limit_bytes)
        except BlockCloudError as error:
            if not fallback:
                raise
            log.warning("edge_not_believed", edge=edge, url=url, code=error.code, reason=str(error))
            found = await self._from_provider(url, name, request, limit_bytes)
            return replace(found, edge_error=error.code)

    async def _from_provider(self, url: str, name: str, request: Request, limit_bytes: int) -> Fetched:
        response = await self._ask(name, request, limit_bytes)
        paid = 0
        if response.status == PAYMENT_REQUIRED and self._paying is not None:
            purse = await self._paying(name, read_required(response))
            paid = purse.opened.channel.unit_price
            again = replace(request, fields=(*request.fields, (SIGNATURE_FIELD, purse.header())))
            response = await self._ask(name, again, limit_bytes)
            if response.status == PAYMENT_REQUIRED:
                raise refused_for(response)
        fields = end_to_end(response.fields)
        return Fetched(url, response.status, fields, response.body, "session", "provider", b"", 0, False, paid=paid)

    async def _from_edge(self, url: str, name: str, request: Request, edge: str, limit_bytes: int) -> Fetched:
        response = await self._ask(edge, request, limit_bytes)
        trust = await self.trust.of(name)
        now_s = time.time()
        try:
            verified = verify(request, response, name=name, keys=trust.keys, digests=trust.digests, now_s=now_s)
        except Unsigned:
            if response.status < 400:
                raise
            told = response.body[:TOLD_CHARACTERS].decode("utf-8", "replace").strip()
            raise Unsigned(
                f"the edge answers with an error of its own: {told}", status=response.status, edge=edge
            ) from None
        how = "signature" if verified.key else "digest"
        age_s = max(0, int(now_s) - verified.created_s)
        stale = _is_stale(verified, age_s)
        return Fetched(url, response.status, verified.fields, response.body, how, "edge", verified.key, age_s, stale)

    async def _ask(self, place: str, request: Request, limit_bytes: int) -> Response:
        async with self._place(place).asked(request) as (side, head):
            body = await side.whole(limit_bytes)
        return replace(head.response, body=body)

    def _place(self, place: str) -> Upstream:
        """Connections to a name or to HOST:PORT."""
        if place not in self._places:
            while len(self._places) >= PLACES_KEPT:
                self._places.popitem(last=False)[1].close()
            self._places[place] = Upstream(lambda: self._dial(place))
        self._places.move_to_end(place)
        return self._places[place]

    async def _dial(self, place: str) -> ByteStream:
        try:
            address = parse_endpoint(place)
        except Malformed:
            return SessionStream(await self._connector.connect(place))
        return await TcpStream.connect(address)


async def fetch(
    url: str,
    *,
    edge: str | None = None,
    fallback: bool = False,
    home: Place = None,
    api: str | None = None,
    identity: SigningKey | None = None,
    role: str = "",
    grant: bytes = b"",
    budget: str = "",
    key: OwnerKey = None,
    limit_bytes: int = FETCH_BYTES,
) -> Fetched:
    """One object by name, verified; see `Fetcher.fetch`. Who fetches many keeps a `Fetcher`."""
    fetcher = Fetcher(home, api=api, identity=identity, role=role, grant=grant, budget=budget, key=key)
    async with fetcher:
        return await fetcher.fetch(url, edge=edge, fallback=fallback, limit_bytes=limit_bytes)


def _is_stale(verified: Verified, age_s: int) -> bool:
    fresh_s = parse_cache_control(combined(verified.fields, "cache-control")).freshness_s
    return fresh_s is not None and age_s > fresh_s
