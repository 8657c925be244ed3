"""`edge cache` with everything behind it set up: proofs, gates of the services' policies, sessions to the providers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final

from blockcloud.primitives.errors import BadConfiguration
from blockcloud.primitives.keys import SigningKey
from blockcloud.primitives.names import parse_name
from blockcloud.sdk.client import AsyncClient
from blockcloud.sdk.decision_log import DecisionLog
from blockcloud.sdk.home import Home, OwnerKey, Place
from blockcloud.sdk.policy_gate import PolicyGate
from blockcloud.sdk.publishing import authorise_instance
from blockcloud.sdk.resolver import ChainResolver, HttpAnnouncer
from blockcloud.sdk.response_trust import ResponseTrust
from blockcloud.sdk.services import DECISIONS_FOLDER, open_client
from blockcloud.service_access.addresses import HostPort
from blockcloud.service_access.admission import Credentials
from blockcloud.service_access.connector import Connector
from blockcloud.service_access.edge.cache import CACHE_BYTES, OBJECT_BYTES, Cache
from blockcloud.service_access.edge.caching_node import CachingNode, ConsumerGate, Service
from blockcloud.service_access.edge.streams import ByteStream, SessionStream
from blockcloud.service_access.edge.trust import Trust
from blockcloud.service_access.endpoint import ServiceEndpoint
from blockcloud.service_access.listener import DEFAULT_ADDRESS, Listener
from blockcloud.service_access.listener import listen as listen_at

SERVICES: Final = 64


@dataclass(frozen=True)
class RunningEdge:
    """An edge node that serves: plain HTTP at `address`, and sessions where it has a name (`listener`)."""

    node: CachingNode
    endpoint: ServiceEndpoint
    address: HostPort
    listener: Listener | None


@asynccontextmanager
async def edge_cache(
    names: Sequence[str],
    *,
    home: Place = None,
    api: str | None = None,
    address: HostPort = DEFAULT_ADDRESS,
    identity: SigningKey | None = None,
    role: str = "",
    max_bytes: int = CACHE_BYTES,
    name: str = "",
    session_address: HostPort = DEFAULT_ADDRESS,
    key: OwnerKey = None,
) -> AsyncIterator[RunningEdge]:
    """Serve the HTTP services `names` (at most 64) from here until the block is left.

    `identity` is who the edge is towards the providers, and whoever asks over plain HTTP from this machine is it, too;
    `role` it acts in. With `name` it can also be reached by sessions: `key` is that name's owner (see `listen`), and
    consumers count as themselves. Decisions are logged in the home's `decisions` folder, as NAME.edge.jsonl. Raises
    InvalidName, what `proven_rules` raises for a name, Unreachable, BadConfiguration.
    """
    folder = home if isinstance(home, Home) else Home.find(home)
    own = identity or SigningKey.generate()
    served = list(dict.fromkeys(parse_name(text) for text in names))
    if not 1 <= len(served) <= SERVICES:
        raise BadConfiguration("an edge node serves some names, not too many", names=len(served), limit=SERVICES)
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(open_client(folder, api=api))
        endpoint = await stack.enter_async_context(ServiceEndpoint(own))
        resolver = ChainResolver(client)
        connector = Connector(endpoint, resolver, Credentials(role))
        await stack.enter_async_context(_kept_fresh(connector))
        trust = ResponseTrust(resolver)
        services: dict[str, Service] = {}
        for each in served:
            log = DecisionLog(folder.path / DECISIONS_FOLDER / f"{each}.edge.jsonl")
            gate = await stack.enter_async_context(PolicyGate(client, each, decisions=log))
            services[each] = _service(each, connector, trust, gate)
        node = CachingNode(services, Cache(max_bytes, min(OBJECT_BYTES, max_bytes)))
        stack.push_async_callback(node.close)
        place = await node.listen(*address, own.public, (role, b""))
        listener = None
        if name:
            await endpoint.start(*session_address)
            reachable = _reachable(folder, client, node, endpoint, parse_name(name), key)
            listener = await stack.enter_async_context(reachable)
        yield RunningEdge(node, endpoint, place, listener)


@asynccontextmanager
async def _kept_fresh(connector: Connector) -> AsyncIterator[None]:
    """An edge node connects for as long as it runs: it follows where providers are, and probes the sick ones."""
    task = asyncio.get_running_loop().create_task(connector.keep_fresh())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def _service(name: str, connector: Connector, trust: ResponseTrust, gate: PolicyGate) -> Service:
    async def dial() -> ByteStream:
        return SessionStream(await connector.connect(name))

    async def proven() -> Trust:
        return await trust.of(name)

    return Service(name, dial, proven, gate)


@asynccontextmanager
async def _reachable(
    folder: Home, client: AsyncClient, node: CachingNode, endpoint: ServiceEndpoint, name: str, key: OwnerKey
) -> AsyncIterator[Listener]:
    """Take sessions under the edge's own name, each consumer as itself."""

    def load_owner() -> SigningKey:
        return key if isinstance(key, SigningKey) else folder.load_key(key)

    instance = folder.instance_key()
    file_hash = await authorise_instance(client, name, instance.public, load_owner, title=f"edge node {name}")
    decisions = DecisionLog(folder.path / DECISIONS_FOLDER / f"{name}.jsonl")
    async with PolicyGate(client, name, decisions=decisions) as gate:
        consumers = ConsumerGate(gate)
        async with listen_at(
            name,
            instance,
            announcer=HttpAnnouncer(client),
            endpoint=endpoint,
            service_file_hash=file_hash,
            gate=consumers,
        ) as listener:
            task = asyncio.get_running_loop().create_task(_accept(listener, consumers, node))
            try:
                yield listener
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)


async def _accept(listener: Listener, consumers: ConsumerGate, node: CachingNode) -> None:
    async for session in listener:
        node.accept(session, consumers.take(session))
