"""`blockcloud resolve|publish|forward|move`: services by name, for programs that know nothing of it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from blockcloud.cli.context import api_urls, home_folder, load_genesis, load_key, options
from blockcloud.cli.output import say, show
from blockcloud.primitives.errors import Rejected, Unreachable
from blockcloud.primitives.keys import SigningKey
from blockcloud.primitives.names import parse_name

if TYPE_CHECKING:
    from blockcloud.service_access.endpoint import ServiceEndpoint

INSTANCE_KEY: Final = "keys/instance.pem"
RUN_FOLDER: Final = "run"
DEFAULT_ADDRESS: Final = "127.0.0.1:0"


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
    from blockcloud.sdk import AsyncClient, ChainResolver

    genesis = load_genesis()
    async with AsyncClient(genesis, api_urls(genesis)) as client:
        resolver = ChainResolver(client)
        found = await resolver.resolve(name)
        document = await resolver.service_file(found) if service_file else None
    report: dict[str, Any] = {
        "name": found.name,
        "owner": format_address(found.owner),
        "service_file_hash": found.service_file_hash.hex(),
        "instances": [
            {
                "addresses": [f"{endpoint.host}:{endpoint.port}" for endpoint in instance.endpoints],
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
    to: Annotated[str, typer.Option("--to", help="HOST:PORT of the TCP server to publish.")],
    listen: Annotated[str, typer.Option("--listen", help="HOST:PORT to be reached at; 0 takes a free port.")] = (
        DEFAULT_ADDRESS
    ),
    title: Annotated[str, typer.Option(help="Title for the service file.")] = "",
) -> None:
    """Serve a TCP server under a name until stopped. The key of --key must own the name."""
    _serve_until_stopped(_publish(parse_name(name), to, listen, title))


async def _publish(name: str, to: str, listen: str, title: str) -> None:
    from blockcloud.sdk import AsyncClient, HttpAnnouncer
    from blockcloud.sdk.publishing import authorise_instance
    from blockcloud.service_access.control import parse_endpoint
    from blockcloud.service_access.endpoint import ServiceEndpoint
    from blockcloud.service_access.listener import listen as listen_for
    from blockcloud.service_access.publish import publish as pass_on

    server = parse_endpoint(to)
    genesis, instance = load_genesis(), _instance_key()
    async with AsyncClient(genesis, api_urls(genesis)) as client:
        file_hash = await authorise_instance(client, name, instance.public, load_key, title=title or name)
        async with ServiceEndpoint(instance) as endpoint:
            await endpoint.start(*parse_endpoint(listen))
            async with (
                listen_for(
                    name,
                    instance,
                    announcer=HttpAnnouncer(client),
                    endpoint=endpoint,
                    service_file_hash=file_hash,
                ) as listener,
                _Control(endpoint, f"publish-{name}", lambda: {"name": name, "to": to}) as control,
            ):
                _ready(name, endpoint, control.path, instance=instance.public.hex(), to=to)
                await pass_on(listener, server)


def forward(
    name: str,
    listen: Annotated[str, typer.Option("--listen", help="HOST:PORT for unmodified clients; 0 takes a free port.")],
    source: Annotated[str, typer.Option("--from", help="HOST:PORT of this side's own service-access endpoint.")] = (
        DEFAULT_ADDRESS
    ),
) -> None:
    """Give unmodified TCP clients a local port that leads to a service, until stopped."""
    _serve_until_stopped(_forward(parse_name(name), listen, source))


async def _forward(name: str, listen: str, source: str) -> None:
    from blockcloud.sdk import AsyncClient, ChainResolver
    from blockcloud.service_access.connector import Connector
    from blockcloud.service_access.control import parse_endpoint
    from blockcloud.service_access.endpoint import ServiceEndpoint
    from blockcloud.service_access.forward import Forwarder

    genesis = load_genesis()
    async with AsyncClient(genesis, api_urls(genesis)) as client, ServiceEndpoint(SigningKey.generate()) as endpoint:
        await endpoint.start(*parse_endpoint(source))
        forwarder = Forwarder(name, Connector(endpoint, ChainResolver(client)))
        host, port = await forwarder.start(*parse_endpoint(listen))

        def status() -> dict[str, Any]:
            error = forwarder.last_error
            return {"name": name, "errors": dict(forwarder.errors), "last_error": str(error) if error else None}

        try:
            async with _Control(endpoint, "forward", status) as control:
                _ready(name, endpoint, control.path, listening=f"{host}:{port}")
                await asyncio.get_running_loop().create_future()
        finally:
            await forwarder.close()


def move(
    what: Annotated[str, typer.Argument(help="NAME of a running publish, or `forward`.")],
    to: Annotated[str, typer.Option("--to", help="HOST:PORT of the new service-access endpoint.")] = "",
    status: Annotated[bool, typer.Option("--status", help="Move nothing; show the running sessions.")] = False,
) -> None:
    """Tell a running publish or forward to move its service-access endpoint, live."""
    if bool(to) == status:
        raise typer.BadParameter("say where: --to HOST:PORT (or ask with --status)")
    path = _control_path("forward" if what == "forward" else f"publish-{parse_name(what)}")
    answer = asyncio.run(_ask(path, {"op": "status"} if status else {"op": "move", "to": to}))
    show(answer, as_json=options.as_json)


async def _ask(path: Path, operation: dict[str, str]) -> dict[str, Any]:
    from blockcloud.service_access.control import request

    if not path.exists():
        raise Unreachable("nothing of this name runs with this home folder", control=str(path))
    before = (await request(path, {"op": "status"}))["addresses"]
    answer = await request(path, operation)
    if not answer.pop("ok"):
        raise Rejected(str(answer.get("error")), code=answer.get("code"))
    if operation["op"] == "move":
        return {"from": before[0] if before else None, "to": answer["address"]}
    return answer


class _Control:
    """The control socket of a running publish or forward, in the home's `run` folder."""

    def __init__(self, endpoint: ServiceEndpoint, name: str, status: Callable[[], dict[str, Any]]) -> None:
        from blockcloud.service_access.control import ControlServer, endpoint_operations

        self.path = _control_path(name)
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._server = ControlServer(self.path, endpoint_operations(endpoint, status))

    async def __aenter__(self) -> _Control:
        await self._server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.close()


def _control_path(name: str) -> Path:
    return home_folder().absolute() / RUN_FOLDER / f"{name}.sock"


def _instance_key() -> SigningKey:
    """This home's instance key, made at the first use."""
    path = home_folder() / INSTANCE_KEY
    if not path.exists():
        SigningKey.generate().save(path)
    return SigningKey.load(path)


def _ready(name: str, endpoint: ServiceEndpoint, control: Path, **more: str) -> None:
    """The ready line, and what a person may type next."""
    host, port = endpoint.addresses[0]
    show({"name": name, "listening": f"{host}:{port}", "control": str(control), **more}, as_json=options.as_json)
    target = name if "instance" in more else "forward"
    say(f"ready; Ctrl-C stops it. move it with: blockcloud --home {home_folder()} move {target} --to HOST:PORT")


def _serve_until_stopped(serving: Coroutine[Any, Any, None]) -> None:
    """Run until SIGTERM or Ctrl-C, then end in order: leases are withdrawn, sessions closed."""
    import uvloop

    from blockcloud.node.logging import set_up_logging

    set_up_logging("warning")
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
