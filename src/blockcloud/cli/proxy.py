"""`blockcloud proxy`: SOCKS5, HTTP and DNS for programs that know nothing of names, in one process."""

from __future__ import annotations

import ipaddress
import os
import secrets
import stat
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from blockcloud.cli.context import address_argument, open_client
from blockcloud.cli.output import say
from blockcloud.cli.service import DEFAULT_ADDRESS, PROXY, Control, listening, ready, serve_until_stopped
from blockcloud.primitives.errors import BadConfiguration
from blockcloud.primitives.names import parse_name

if TYPE_CHECKING:
    from blockcloud.primitives.keys import SigningKey
    from blockcloud.service_access.admission import Credentials
    from blockcloud.service_access.connector import Connector
    from blockcloud.service_access.front import Front
    from blockcloud.service_access.proxy.dns_stub import DnsStub
    from blockcloud.service_access.proxy.local_services import LocalServices

# The ports of `reference/parameters.md`, base + 4 to base + 6: what runs when nothing else is said.
DEFAULT_SOCKS: Final = "127.0.0.1:8704"
DEFAULT_HTTP: Final = "127.0.0.1:8705"
DEFAULT_DNS: Final = "127.0.0.1:8706"
NEW_TOKEN_BYTES: Final = 24


def register(app: typer.Typer) -> None:
    """Add the command to the tree."""
    app.command()(proxy)


@dataclass(frozen=True)
class Faces:
    """What was asked for; an address that is None is not served."""

    socks: tuple[str, int] | None
    http: tuple[str, int] | None
    dns: tuple[str, int] | None
    source: tuple[str, int]
    suffixes: tuple[str, ...]
    token: bytes
    ports: tuple[int, ...]
    addresses: str


@dataclass
class Running:
    """What is served."""

    fronts: dict[str, Front] = field(default_factory=dict)
    services: LocalServices | None = None
    dns: DnsStub | None = None


def proxy(
    socks: Annotated[str, typer.Option("--socks", help="HOST:PORT for SOCKS5 with names (socks5h).")] = "",
    http: Annotated[str, typer.Option("--http", help="HOST:PORT for HTTP: CONNECT, and http:// by name.")] = "",
    dns: Annotated[str, typer.Option("--dns", help="HOST:PORT for DNS; each service gets a loopback address.")] = "",
    suffix: Annotated[
        list[str] | None,
        typer.Option("--suffix", help="Only hosts under it are services, without it (internal: x.internal is x)."),
    ] = None,
    token: Annotated[
        Path | None,
        typer.Option("--token", help="File with the password that programs must show; made if it is not there."),
    ] = None,
    ports: Annotated[str, typer.Option("--ports", help="Where services listen whose file names no ports.")] = "80,443",
    addresses: Annotated[str, typer.Option("--addresses", help="Loopback range for --dns.")] = "127.77.0.0/16",
    source: Annotated[str, typer.Option("--from", help="HOST:PORT of this side's own service-access endpoint.")] = (
        DEFAULT_ADDRESS
    ),
    identity: Annotated[
        Path | None, typer.Option("--as", help="Key file to connect as, where a policy asks who you are.")
    ] = None,
    role: Annotated[str, typer.Option(help="Role to act in.")] = "",
    grant: Annotated[Path | None, typer.Option("--grant", help="File with a grant for the service.")] = None,
) -> None:
    """Lead unmodified programs to services by name, until stopped. Without --socks, --http and --dns: all three."""
    from blockcloud.cli.policy import read_grant
    from blockcloud.primitives.keys import SigningKey
    from blockcloud.service_access.admission import Credentials

    if not (socks or http or dns):
        socks, http, dns = DEFAULT_SOCKS, DEFAULT_HTTP, DEFAULT_DNS
    secret = read_token(token) if token is not None else b""
    faces = Faces(
        _place(socks, secret),
        _place(http, secret),
        address_argument(dns) if dns else None,
        address_argument(source),
        tuple(suffix or ()),
        secret,
        _ports(ports),
        addresses,
    )
    key = SigningKey.load(identity) if identity is not None else SigningKey.generate()
    credentials = Credentials(parse_name(role) if role else "", read_grant(grant) if grant is not None else b"")
    serve_until_stopped(_proxy(faces, key, credentials))


async def _proxy(faces: Faces, key: SigningKey, credentials: Credentials) -> None:
    from blockcloud.sdk import ChainResolver
    from blockcloud.service_access.connector import Connector
    from blockcloud.service_access.endpoint import ServiceEndpoint

    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(open_client())
        endpoint = await stack.enter_async_context(ServiceEndpoint(key))
        await listening(endpoint.start(*faces.source))
        resolver = ChainResolver(client)
        connector = Connector(endpoint, resolver, credentials)
        running = await _start(stack, faces, connector, resolver)

        def status() -> dict[str, Any]:
            return _status(running)

        control = await stack.enter_async_context(Control(endpoint, PROXY, status))
        where = {kind: "{}:{}".format(*front.addresses[0]) for kind, front in running.fronts.items()}
        ready(PROXY, endpoint, control.path, PROXY, **where)
        _say_how(where)
        await connector.keep_fresh()


async def _start(stack: AsyncExitStack, faces: Faces, connector: Connector, resolver: Any) -> Running:
    """Start what was asked for. Raises BadConfiguration."""
    from blockcloud.service_access.front import Room
    from blockcloud.service_access.proxy.dns_stub import DnsStub
    from blockcloud.service_access.proxy.http_proxy import HttpProxy
    from blockcloud.service_access.proxy.local_services import LocalServices
    from blockcloud.service_access.proxy.names import ServiceNames
    from blockcloud.service_access.proxy.socks_proxy import SocksProxy

    names, room, running = ServiceNames(faces.suffixes), Room(), Running()
    kinds = (("socks", SocksProxy, faces.socks), ("http", HttpProxy, faces.http))
    for kind, make, place in kinds:
        if place is not None:
            front = running.fronts[kind] = make(connector, names, token=faces.token, room=room)
            stack.push_async_callback(front.close)
            await listening(front.start(*place))
    if faces.dns is not None:
        services = LocalServices(connector, names, network=faces.addresses, ports=faces.ports, room=room)
        stack.push_async_callback(services.close)
        stub = DnsStub(resolver, names, services, resolver.ports)
        stack.push_async_callback(stub.close)
        await listening(stub.start(*faces.dns))
        running.services, running.dns, running.fronts["dns"] = services, stub, stub.tcp
    return running


def _status(running: Running) -> dict[str, Any]:
    """What `blockcloud move proxy --status` adds to what it shows of the endpoint."""
    faces: dict[str, Any] = {}
    for kind, front in running.fronts.items():
        error = front.last_error
        faces[kind] = {
            "listening": [f"{host}:{port}" for host, port in front.addresses],
            "connections": front.open_connections,
            "errors": dict(front.errors),
            "last_error": str(error) if error is not None else None,
        }
    if running.dns is not None:
        faces["dns"].update(running.dns.status())
    return {"name": PROXY, "faces": faces, "services": running.services.status() if running.services else []}


def _say_how(where: dict[str, str]) -> None:
    """What a person may type next."""
    if "socks" in where:
        say(f"  curl --proxy socks5h://{where['socks']} http://NAME/")
    if "http" in where:
        say(f"  curl --proxy http://{where['http']} http://NAME/")
    if "dns" in where:
        host, _, port = where["dns"].rpartition(":")
        say(f"  dig @{host} -p {port} NAME")


def _place(text: str, token: bytes) -> tuple[str, int] | None:
    """Where to listen. Without a token only this machine's programs are served."""
    if not text:
        return None
    host, port = address_argument(text)
    try:
        local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = host == "localhost"
    if not local and not token:
        raise BadConfiguration("a proxy that other machines can reach needs a --token", address=text)
    return host, port


def _ports(text: str) -> tuple[int, ...]:
    try:
        return tuple(dict.fromkeys(int(each) for each in text.split(",")))
    except ValueError:
        raise typer.BadParameter("--ports is a list of numbers: 80,443") from None


def read_token(path: Path) -> bytes:
    """The token in the file, which nobody else may read. A new one if there is no file. Raises BadConfiguration."""
    from blockcloud.service_access.proxy.token import TOKEN_CHARACTERS_MAX, TOKEN_CHARACTERS_MIN

    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        pass
    except OSError as error:
        raise BadConfiguration(f"cannot make the token file: {error.strerror}", path=str(path)) from None
    else:
        with os.fdopen(descriptor, "w", encoding="ascii") as new:
            new.write(secrets.token_urlsafe(NEW_TOKEN_BYTES) + "\n")
    try:
        with path.open("rb") as file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                raise BadConfiguration("others may read the token file: chmod 600 it", path=str(path))
            token = file.read(TOKEN_CHARACTERS_MAX + 2).strip()
    except OSError as error:
        raise BadConfiguration(f"cannot read the token file: {error.strerror}", path=str(path)) from None
    if not TOKEN_CHARACTERS_MIN <= len(token) <= TOKEN_CHARACTERS_MAX or not token.isascii():
        limits = f"{TOKEN_CHARACTERS_MIN} to {TOKEN_CHARACTERS_MAX}"
        raise BadConfiguration(f"a token has {limits} ASCII characters", path=str(path), characters=len(token))
    return token
