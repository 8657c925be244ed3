"""`blockcloud.listen(name)` and `blockcloud.connect(name)`: services by name, with everything behind them set up.

    async with blockcloud.listen("thermo", home="net", key="net/accounts/provider.pem") as listener:
        async for session in listener:
            await session.write(b"21.5")
            await session.close()

    async with await blockcloud.connect("thermo", home="net") as session:
        print(await session.read())

`service_access.listener` has the same two without ledger and home folder: they take an announcer and a resolver. Here
the home says which chain it is and whom to ask (`home`), the ledger is told once that this home's instance may serve
the name (`publishing`), and the consumer believes only what is proven to it (`resolver`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

from blockcloud.primitives.amounts import parse_amount
from blockcloud.primitives.hashes import sha256
from blockcloud.primitives.keys import SigningKey
from blockcloud.primitives.names import parse_name
from blockcloud.routing.posted_price import parse_price
from blockcloud.sdk.client import AsyncClient
from blockcloud.sdk.decision_log import DecisionLog
from blockcloud.sdk.home import Home, OwnerKey, Place
from blockcloud.sdk.paid_sessions import Budget, open_wallet
from blockcloud.sdk.policy_gate import PolicyGate
from blockcloud.sdk.publishing import authorise_instance
from blockcloud.sdk.resolver import ChainResolver, HttpAnnouncer
from blockcloud.sdk.trust_store import TrustStore
from blockcloud.service_access.addresses import HostPort
from blockcloud.service_access.admission import Credentials
from blockcloud.service_access.announce import DEFAULT_LEASE_S
from blockcloud.service_access.connector import CONNECT_TIMEOUT_MS, Connector
from blockcloud.service_access.endpoint import ServiceEndpoint
from blockcloud.service_access.listener import DEFAULT_ADDRESS, Listener
from blockcloud.service_access.listener import listen as listen_at
from blockcloud.service_access.load import CAPACITY_SESSIONS
from blockcloud.service_access.prices import Prices
from blockcloud.service_access.session import SessionParameters
from blockcloud.service_access.stream import Session

DECISIONS_FOLDER: Final = "decisions"


def open_client(
    home: Place = None, *, api: str | None = None, kind: type[AsyncClient] = AsyncClient, **how: Any
) -> AsyncClient:
    """A client of the chain in `home` (default: see `Home.find`), at the node `api` or all that the genesis lists.

    It goes on from what was verified with this home before, and keeps there what it verifies (`sdk.trust_store`). Close
    it, or use it as an async context manager. `how` and `kind`: other keywords of `AsyncClient`, and what to make in
    its place. Raises BadConfiguration.
    """
    folder = home if isinstance(home, Home) else Home.find(home)
    genesis = folder.genesis()
    store = TrustStore.under(folder, genesis.chain_id())
    return kind(genesis, folder.endpoints(genesis, api), trust_store=store, **how)


@asynccontextmanager
async def listen(
    name: str,
    *,
    home: Place = None,
    key: OwnerKey = None,
    account: bytes | None = None,
    cosigners: Sequence[SigningKey] = (),
    api: str | None = None,
    address: HostPort = DEFAULT_ADDRESS,
    endpoint: ServiceEndpoint | None = None,
    title: str = "",
    ports: tuple[int, ...] = (),
    lease_s: int = DEFAULT_LEASE_S,
    parameters: SessionParameters | None = None,
    relays: Sequence[str] = (),
    capacity: int = CAPACITY_SESSIONS,
    price: str = "",
) -> AsyncIterator[Listener]:
    """Serve `name` from the instance of `home` at `address`; leaving the block withdraws it.

    Who may connect is what the policy bound to the name says; each decision is logged in the home's `decisions` folder.
    The first time, the name's owner must say so to the ledger: `key` (a file or a key, default: see `Home.key_path`)
    signs, for `account` where that is not the key's own (see `Home.acts_for`), and `cosigners` with it; `title` and
    `ports` (where programs expect the service) go into the service file if the name has none yet. Later, no owner's key
    is needed, but for a `price` (BLOC for a unit, as in "0.001/request") other than the one that the service file posts
    already; empty leaves that as it is. `endpoint` is one that listens already, for those who have a use for it beside
    this; with `capacity` sessions the instance says that it is full. With `relays` (names, at most three) consumers
    that cannot reach `address` come through one of these. Raises BadConfiguration, UnknownName, what the ledger rejects
    with, Unreachable, TimedOut, TooManyRelays, InvalidPrice.
    """
    asked = parse_price(price) if price else None
    folder = home if isinstance(home, Home) else Home.find(home)
    name, instance = parse_name(name), folder.instance_key()

    def load_owner() -> SigningKey:
        return folder.own_key(key)

    if account is None and not isinstance(key, SigningKey):
        account = folder.acts_for(key)
    async with open_client(folder, api=api, account=account, cosigners=cosigners) as client:
        file_hash = await authorise_instance(
            client, name, instance.public, load_owner, title=title or name, ports=ports, price=asked
        )
        decisions = DecisionLog(folder.path / DECISIONS_FOLDER / f"{name}.jsonl")
        gate = PolicyGate(client, name, decisions=decisions)
        async with AsyncExitStack() as stack:
            if endpoint is None:
                endpoint = await stack.enter_async_context(ServiceEndpoint(instance, parameters=parameters))
                await endpoint.start(*address)
            stack.push_async_callback(endpoint.relays.close)
            await endpoint.relays.join(relays, ChainResolver(client))
            await stack.enter_async_context(gate)
            serving = listen_at(
                name,
                instance,
                announcer=HttpAnnouncer(client),
                endpoint=endpoint,
                lease_s=lease_s,
                service_file_hash=file_hash,
                gate=gate,
                capacity=capacity,
            )
            listener = await stack.enter_async_context(serving)
            listener.decisions = decisions.counts
            renew = client.transport.renew
            listener.endpoint.moved.insert(0, renew)  # before the new address is announced over it
            try:
                yield listener
            finally:
                listener.endpoint.moved.remove(renew)


async def connect(
    name: str,
    *,
    home: Place = None,
    api: str | None = None,
    identity: SigningKey | None = None,
    address: HostPort | None = None,
    timeout_ms: float = CONNECT_TIMEOUT_MS,
    parameters: SessionParameters | None = None,
    role: str = "",
    grant: bytes = b"",
    relays: Sequence[str] = (),
    sticky: bool = False,
    max_price: str = "",
    budget: str | Budget = "",
    key: OwnerKey = None,
) -> Session:
    """A session with the best instance of `name` that proves to be one, within `timeout_ms`.

    `identity` is the key that this side shows (default: a new one), which a policy may ask for, as for a
    `role` to act in and a `grant` (`grants.parse_grant`). With `address` this side listens there, so that a
    provider that moves can dial it, which is quicker than being told; without, it is told over the session. With
    `relays` (names) a provider that moves can dial it through one of these. What the session needs goes when the
    session ends. `sticky`: the same identity, or without one the same home, gets the same instance as long as that one
    is healthy, though another may be nearer. With `max_price` ("0.002/request") no session begins with a service that
    posts a higher price; one that posts none asks for nothing. With a `budget` (BLOC, or a `Budget`, which says what
    was spent) a service that wants to be paid is: an agreement is opened when it asks, signed by `key` (a file or a
    key, default: see `Home.key_path`), vouchers pay while the session goes on, and the agreement is closed when it
    ends; a session that cannot be paid for ends with the reason. Raises as `Connector.connect`, BadConfiguration,
    InvalidPrice, and why no relay takes us.
    """
    name = parse_name(name)
    limit = parse_price(max_price) if max_price else None
    async with AsyncExitStack() as stack:
        folder = home if isinstance(home, Home) else Home.find(home)
        client = await stack.enter_async_context(open_client(folder, api=api))
        endpoint = _OwnEndpoint(identity or SigningKey.generate(), parameters=parameters)
        stack.push_async_callback(endpoint.close)
        endpoint.moved.append(client.transport.renew)
        if address is not None:
            await endpoint.start(*address)
        resolver = ChainResolver(client)
        await endpoint.relays.join(relays, resolver)
        asker = (identity.public if identity is not None else sha256(bytes(folder.path.resolve()))) if sticky else b""
        connector = Connector(
            endpoint, resolver, Credentials(role, grant), sticky=asker, prices=Prices(resolver, limit)
        )
        wallet = None
        if budget:
            wanted = budget if isinstance(budget, Budget) else Budget(budget)
            wallet = wanted.wallet = await stack.enter_async_context(
                open_wallet(
                    client,
                    folder,
                    name,
                    parse_amount(wanted.limit),
                    lambda: folder.own_key(key),
                )
            )
        session = await connector.connect(name, timeout_ms=timeout_ms)
        if wallet is not None:
            wallet.pays_for(session)
        endpoint.follow(session, stack.pop_all())
        return session


class _OwnEndpoint(ServiceEndpoint):
    """The endpoint of one session, which goes with it."""

    _following: asyncio.Task[None] | None = None

    def follow(self, session: Session, resources: AsyncExitStack) -> None:
        """Close `resources` when `session` has ended, or when the program's loop does."""
        self._following = asyncio.get_running_loop().create_task(_close_after(session, resources))


async def _close_after(session: Session, resources: AsyncExitStack) -> None:
    async with resources:
        await session.ended()
