"""`blockcloud resolve|publish|forward|move`: services by name, for programs that know nothing of it."""

from __future__ import annotations

import asyncio
import shlex
import signal
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

import typer

from blockcloud.cli.context import (
    address_argument,
    chosen_account,
    home,
    home_folder,
    link_address_argument,
    load_cosigners,
    load_key,
    open_client,
    options,
)
from blockcloud.cli.output import say, show
from blockcloud.cli.table import ask
from blockcloud.primitives.amounts import format_amount, parse_amount
from blockcloud.primitives.errors import BadConfiguration, BlockCloudError, Busy, Unreachable
from blockcloud.primitives.names import parse_name
from blockcloud.routing.posted_price import parse_price

if TYPE_CHECKING:
    from blockcloud.primitives.keys import SigningKey
    from blockcloud.routing.posted_price import PostedPrice
    from blockcloud.service_access.addresses import Address
    from blockcloud.service_access.admission import Credentials
    from blockcloud.service_access.control import Handler
    from blockcloud.service_access.edge.signing_proxy import SigningProxy
    from blockcloud.service_access.endpoint import ServiceEndpoint
    from blockcloud.service_access.listener import Listener
    from blockcloud.service_access.payment.purse import Wallet
    from blockcloud.service_access.payment.till import Till

DEFAULT_ADDRESS: Final = "127.0.0.1:0"
DEFAULT_CAPACITY: Final = 1_024  # load.CAPACITY_SESSIONS, which is imported late
FORWARD: Final = "forward"
PROXY: Final = "proxy"

T = TypeVar("T")


def register(app: typer.Typer) -> None:
    """Add the commands to the tree."""
    for command in (resolve, publish, forward, move):
        app.command()(command)


def resolve(
    name: str,
    service_file: Annotated[bool, typer.Option("--service-file", help="Fetch and check the service file too.")] = False,
) -> None:
    """What a name means: owner, keys and instances, proven against a certified checkpoint in this process."""
    show(asyncio.run(_resolve(parse_name(name), service_file)), as_json=options.as_json)


async def _resolve(name: str, service_file: bool) -> dict[str, Any]:
    from blockcloud.primitives.addresses import format_address
    from blockcloud.sdk import ChainResolver
    from blockcloud.service_access.addresses import Address

    async with open_client() as client:
        resolver = ChainResolver(client)
        found = await resolver.resolve(name)
        document = await resolver.service_file(found) if service_file else None
    report: dict[str, Any] = {
        "name": found.name,
        "owner": format_address(found.owner),
        "service_file_hash": found.service_file_hash.hex(),
        "instances": [
            {
                "addresses": [str(Address(each.protocol, each.host, each.port)) for each in instance.endpoints],
                "key": instance.key.hex(),
                "lease_until": instance.lease_until_s,
            }
            for instance in found.instances
        ],
        "verified": True,  # the resolver raises rather than return what it could not verify
        "height": found.height,
    }
    if document is not None:
        report["service_file"] = document
    return report


def publish(
    name: str,
    to: Annotated[str, typer.Option("--to", help="HOST:PORT of the server to publish.")],
    listen: Annotated[str, typer.Option("--listen", help="HOST:PORT to be reached at; 0 takes a free port.")] = (
        DEFAULT_ADDRESS
    ),
    title: Annotated[str, typer.Option(help="Title for the service file.")] = "",
    port: Annotated[
        list[int] | None,
        typer.Option("--port", help="Where programs expect it (80, 5432), for the service file; repeat.", min=1),
    ] = None,
    capacity: Annotated[int, typer.Option(help="Sessions with which this instance says that it is full.", min=1)] = (
        DEFAULT_CAPACITY
    ),
    http: Annotated[
        bool, typer.Option("--http", help="The server speaks HTTP: sign what it answers, so that edge nodes can cache.")
    ] = False,
    cache_control: Annotated[
        str, typer.Option("--cache-control", help="With --http: for answers without one, such as max-age=60.")
    ] = "",
    relay: Annotated[
        list[str] | None, typer.Option("--relay", help="Name of a relay to be reached through; repeat.")
    ] = None,
    udp: Annotated[bool, typer.Option("--udp", help="The server is one for UDP.")] = False,
    quic: Annotated[bool, typer.Option("--quic", help="Be reached by QUIC, too, at the same host.")] = False,
    unix: Annotated[
        list[str] | None, typer.Option("--unix", help="Path of a Unix socket to be reached at, too; repeat.")
    ] = None,
    price: Annotated[
        str, typer.Option("--price", help="BLOC for a unit, as in 0.001/request, for the service file.")
    ] = "",
    paid: Annotated[
        bool,
        typer.Option("--paid", help="Serve who pays what `offer post` says: by kib, mib, gib, or request (--http)."),
    ] = False,
) -> None:
    """Serve a TCP or UDP server under a name until stopped. The key of --key must own the name, the first time."""
    server, place = address_argument(to), address_argument(listen)
    if cache_control and not http:
        raise typer.BadParameter("--cache-control goes with --http")
    if http and udp:
        raise typer.BadParameter("HTTP is served over TCP: --http or --udp")
    if price and options.draft:
        raise typer.BadParameter("a draft has no place for the file with the price; post it without --draft")
    if paid and udp:
        raise typer.BadParameter("--paid counts bytes of a TCP service, or requests with --http, but no datagrams")
    signed = cache_control if http else None
    asked = str(parse_price(price)) if price else ""
    places = publish_places(place, quic=quic, paths=unix or (), datagrams=udp)
    publishing = _publish(
        parse_name(name),
        server,
        places,
        title,
        tuple(port or ()),
        signed,
        relay_names(relay),
        udp,
        capacity,
        asked,
        paid,
    )
    serve_until_stopped(publishing)


def publish_places(place: tuple[str, int], *, quic: bool, paths: Sequence[str], datagrams: bool) -> tuple[Address, ...]:
    """Where to listen, in the order in which consumers shall try: this machine's sockets are the quickest, TLS over TCP
    passes more bytes than QUIC, and QUIC loses a datagram where TCP would hold up all that follow."""
    from blockcloud.service_access.addresses import QUIC, TLS, UNIX, Address

    local = [Address(UNIX, str(Path(path).absolute()), 0) for path in paths]
    networked = [Address(TLS, *place), *([Address(QUIC, *place)] if quic else [])]
    return (*local, *(reversed(networked) if datagrams else networked))


def relay_names(given: list[str] | None) -> tuple[str, ...]:
    """The names of relays that a person typed. Raises InvalidName."""
    return tuple(dict.fromkeys(parse_name(each) for each in given or ()))


def _counted(answers: Counter[str] | None, datagrams_lost: Counter[str] | None) -> dict[str, Any]:
    """What is shown of the counters that this kind of publish has."""
    counters = {"answers": answers, "datagrams_lost": datagrams_lost}
    return {name: dict(counts) for name, counts in counters.items() if counts is not None}


async def _pass_on(
    listener: Listener, server: tuple[str, int], datagrams_lost: Counter[str] | None, till: Till | None
) -> None:
    """Pass sessions on to a server: one for UDP if lost datagrams are to be counted."""
    from blockcloud.service_access.publish import publish
    from blockcloud.service_access.udp_publish import publish_udp

    if datagrams_lost is None:
        await publish(listener, server, till)
    else:
        await publish_udp(listener, server, datagrams_lost)


async def _publish(
    name: str,
    server: tuple[str, int],
    places: tuple[Address, ...],
    title: str,
    ports: tuple[int, ...],
    cache_control: str | None,
    relays: tuple[str, ...],
    udp: bool,
    capacity: int,
    price: str,
    paid: bool,
) -> None:
    """`cache_control` None: the server's bytes pass as they are, whatever they are."""
    from blockcloud.sdk.services import listen
    from blockcloud.service_access.edge.signing_proxy import Signer, SigningProxy
    from blockcloud.service_access.endpoint import ServiceEndpoint

    here, to = home(), f"{server[0]}:{server[1]}"
    instance = here.instance_key()
    served: list[Listener] = []
    lost: Counter[str] = Counter()
    proxy: SigningProxy | None = None
    if cache_control is not None:
        proxy = SigningProxy(Signer(instance, name, default_cache_control=cache_control), server)

    def status() -> dict[str, Any]:
        decisions = served[0].decisions if served else {}
        report = {"name": name, "to": to, "decisions": dict(decisions), "draining": name in endpoint.draining}
        return report | _counted(proxy.counts if proxy is not None else None, lost if udp else None)

    async def drain(request: dict[str, Any]) -> dict[str, Any]:
        if not served:
            raise Busy("the service is not announced yet", retry_after_ms=1_000)
        served[0].drain(request.get("undo") is not True)
        return {"draining": name in endpoint.draining, "sessions": served[0].session_count}

    if options.draft:
        await draft_instance(name, instance.public, title, ports)
    async with ServiceEndpoint(instance) as endpoint:
        for place in places:
            await listening(endpoint.start(place.host, place.port, kind=place.kind))
        # The control socket first: a second publish of the name from this home is refused before it announces.
        async with (
            Control(endpoint, f"publish-{name}", status, {"drain": drain}) as control,
            listen(
                name,
                home=here,
                key=options.key,
                account=chosen_account(),
                cosigners=load_cosigners(),
                api=options.api,
                endpoint=endpoint,
                title=title,
                ports=ports,
                relays=relays,
                capacity=capacity,
                price=price,
            ) as listener,
            _till(name, instance.public, paid, proxy) as till,
            asyncio.TaskGroup() as group,
        ):
            served.append(listener)
            ready(name, endpoint, control.path, name, instance=instance.public.hex(), to=to)
            passing = proxy.run(listener) if proxy else _pass_on(listener, server, lost if udp else None, till)
            serving = group.create_task(passing)
            await listener.drained()
            serving.cancel()
            say("drained: the last session has ended")


@asynccontextmanager
async def _till(name: str, instance: bytes, paid: bool, proxy: SigningProxy | None) -> AsyncIterator[Till | None]:
    """A till for a publish of this home, if it is to be paid; the door of `proxy` leads to it."""
    from blockcloud.sdk.agreements import offering
    from blockcloud.sdk.paid_sessions import open_till
    from blockcloud.service_access.payment.http_door import HttpDoor

    if not paid:
        yield None
        return
    by_request = proxy is not None
    async with (
        open_client() as client,
        open_till(client, home(), name, instance, load_key, by_request=by_request) as till,
    ):
        if proxy is not None:
            proxy.door = HttpDoor(till, name, instance, (await offering(client, name)).provider)
        yield till


async def draft_instance(name: str, instance: bytes, title: str, ports: tuple[int, ...] = ()) -> None:
    """Write what the name's owner has to sign to a draft, which ends the command. Raises BadConfiguration if there is
    nothing to sign."""
    from blockcloud.sdk.publishing import authorise_instance

    async with open_client() as client:
        await authorise_instance(client, name, instance, load_key, title=title or name, ports=ports)
    raise BadConfiguration("the ledger lets this home serve the name already: publish it without --draft")


def forward(
    name: str,
    listen: Annotated[str, typer.Option("--listen", help="HOST:PORT for unmodified clients; 0 takes a free port.")],
    source: Annotated[str, typer.Option("--from", help="HOST:PORT of this side's own service-access endpoint.")] = (
        DEFAULT_ADDRESS
    ),
    identity: Annotated[
        Path | None, typer.Option("--as", help="Key file to connect as, where a policy asks who you are.")
    ] = None,
    role: Annotated[str, typer.Option(help="Role to act in.")] = "",
    grant: Annotated[Path | None, typer.Option("--grant", help="File with a grant for the service.")] = None,
    relay: Annotated[
        list[str] | None, typer.Option("--relay", help="Name of a relay where providers that move find us; repeat.")
    ] = None,
    udp: Annotated[bool, typer.Option("--udp", help="The clients are ones for UDP.")] = False,
    sticky: Annotated[bool, typer.Option("--sticky", help="Stay with one instance as long as it is healthy.")] = False,
    max_price: Annotated[
        str, typer.Option("--max-price", help="Begin no session if the service posts more, as in 0.002/request.")
    ] = "",
    budget: Annotated[
        str, typer.Option("--budget", help="BLOC to pay at most for a service that wants to be paid.")
    ] = "",
) -> None:
    """Give unmodified TCP or UDP clients a local port that leads to a service, until stopped."""
    from blockcloud.cli.policy import read_grant
    from blockcloud.primitives.keys import SigningKey
    from blockcloud.service_access.admission import Credentials

    place, own = address_argument(listen), address_argument(source)
    key = SigningKey.load(identity) if identity is not None else SigningKey.generate()
    credentials = Credentials(parse_name(role) if role else "", read_grant(grant) if grant is not None else b"")
    relays = relay_names(relay)
    limit = parse_price(max_price) if max_price else None
    money = parse_amount(budget) if budget else 0
    if money and udp:
        raise typer.BadParameter("--budget pays for bytes of TCP services: leave --udp out")
    serve_until_stopped(_forward(parse_name(name), place, own, key, credentials, relays, udp, sticky, limit, money))


async def _forward(
    name: str,
    place: tuple[str, int],
    own: tuple[str, int],
    key: SigningKey,
    credentials: Credentials,
    relays: tuple[str, ...],
    udp: bool,
    sticky: bool,
    max_price: PostedPrice | None,
    budget: int,
) -> None:
    from blockcloud.sdk import ChainResolver
    from blockcloud.sdk.paid_sessions import open_wallet
    from blockcloud.service_access.connector import Connector
    from blockcloud.service_access.endpoint import ServiceEndpoint
    from blockcloud.service_access.forward import Forwarder
    from blockcloud.service_access.prices import Prices
    from blockcloud.service_access.udp_forward import UdpForwarder

    async with open_client() as client, AsyncExitStack() as stack, ServiceEndpoint(key) as endpoint:
        endpoint.moved.append(client.transport.renew)
        await listening(endpoint.start(*own))
        resolver = ChainResolver(client)
        await endpoint.relays.join(relays, resolver)
        asker, prices = key.public if sticky else b"", Prices(resolver, max_price)
        connector = Connector(endpoint, resolver, credentials, sticky=asker, prices=prices)
        wallet: Wallet | None = None
        if budget:
            load_key()  # a person hears now that there is none, not when it has to sign
            wallet = await stack.enter_async_context(open_wallet(client, home(), name, budget, load_key, unpaid))
        forwarder = UdpForwarder(name, connector) if udp else Forwarder(name, connector, wallet=wallet)
        host, port = await listening(forwarder.start(*place))

        def status() -> dict[str, Any]:
            error = forwarder.last_error
            report = {"name": name, "errors": dict(forwarder.errors), "last_error": str(error) if error else None}
            if isinstance(forwarder, UdpForwarder):
                report["datagrams_lost"] = dict(forwarder.lost)
            if wallet is not None:
                report |= {"spent": format_amount(wallet.spent), "budget": format_amount(budget)}
            return report

        try:
            async with Control(endpoint, FORWARD, status) as control:
                ready(name, endpoint, control.path, FORWARD, listening=f"{host}:{port}")
                await connector.keep_fresh()
        finally:
            await forwarder.close()
            if wallet is not None:
                say(f"paid {format_amount(wallet.spent)} BLOC of {format_amount(budget)}; the rest comes back with")
                say("  blockcloud agreement settle")


def unpaid(error: BlockCloudError) -> None:
    """A session could not be paid for."""
    say(f"not paid: {error} [{error.code}]")


def move(
    what: Annotated[str, typer.Argument(help="NAME of a running publish, or `forward`, or `proxy`.")],
    to: Annotated[
        list[str] | None,
        typer.Option("--to", help="HOST:PORT (TLS), quic:HOST:PORT or unix:PATH to be at from now on; repeat."),
    ] = None,
    status: Annotated[bool, typer.Option("--status", help="Move nothing; show the running sessions.")] = False,
    drain: Annotated[
        bool, typer.Option("--drain", help="Take no new sessions; the publish ends when the last one has ended.")
    ] = False,
    undo: Annotated[bool, typer.Option("--undo-drain", help="Take new sessions again.")] = False,
) -> None:
    """Tell a running publish, forward or proxy to move its service-access endpoint, live; or a publish to drain."""
    if [bool(to), status, drain, undo].count(True) != 1:
        raise typer.BadParameter("say where: --to HOST:PORT (or ask with --status, or --drain a publish)")
    for each in to or ():
        link_address_argument(each)
    path = home().control_path(what if what in (FORWARD, PROXY) else f"publish-{parse_name(what)}")
    if drain or undo:
        show(asyncio.run(ask(path, {"op": "drain", "undo": undo})), as_json=options.as_json)
        return
    show(asyncio.run(_move(path, to or [])), as_json=options.as_json)


async def _move(path: Path, to: list[str]) -> dict[str, Any]:
    if not path.exists():
        raise Unreachable("nothing of this name runs with this home folder", control=str(path))
    status = await ask(path, {"op": "status"})
    if not to:
        return status
    answer = await ask(path, {"op": "move", "to": to})
    before = status["addresses"]
    return {"from": next(iter(before), None), "to": answer["address"], "addresses": answer["addresses"]}


class Control:
    """The control socket of a running publish or forward, in the home's `run` folder; `more` operations of its own."""

    def __init__(
        self,
        endpoint: ServiceEndpoint,
        name: str,
        status: Callable[[], dict[str, Any]],
        more: Mapping[str, Handler] | None = None,
    ) -> None:
        from blockcloud.service_access.control import ControlServer, endpoint_operations
        from blockcloud.service_access.control_table import table_operations

        self.path = home().control_path(name)
        operations = {**endpoint_operations(endpoint, status), **table_operations(endpoint), **(more or {})}
        self._server = ControlServer(self.path, operations)

    async def __aenter__(self) -> Control:
        await self._server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.close()


async def listening(start: Awaitable[T]) -> T:
    """The address. One that cannot be had is a mistake here, not somebody who does not answer."""
    try:
        return await start
    except Unreachable as error:
        raise BadConfiguration(error.message, **error.values) from None


def ready(name: str, endpoint: ServiceEndpoint, control: Path, target: str, **more: str) -> None:
    """The ready line, and what a person may type next."""
    show(
        {"name": name, "listening": str(endpoint.addresses[0]), "control": str(control), **more},
        as_json=options.as_json,
    )
    folder = shlex.quote(str(home_folder()))
    say(f"ready; Ctrl-C stops it. move it with: blockcloud --home {folder} move {target} --to HOST:PORT")


def serve_until_stopped(serving: Coroutine[Any, Any, None]) -> None:
    """Run until SIGTERM or Ctrl-C, then end in order: leases are withdrawn, sessions closed. With as many open files as
    the system allows."""
    import uvloop

    from blockcloud.node.logging import set_up_logging
    from blockcloud.node.open_files import allow_open_files

    try:
        set_up_logging("warning")
    except BadConfiguration:
        serving.close()
        raise
    allow_open_files()
    uvloop.run(_cancelled_by_signals(serving))


async def _cancelled_by_signals(serving: Awaitable[None]) -> None:
    task = asyncio.ensure_future(serving)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        if not task.cancelled():
            raise
