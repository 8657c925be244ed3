"""`blockcloud edge cache|status|pin`: HTTP services from nearby, out of a cache that nobody need trust."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final
from urllib.parse import quote

import typer

from blockcloud.cli.context import address_argument, home, load_key, open_client, options
from blockcloud.cli.output import say, show
from blockcloud.cli.service import DEFAULT_ADDRESS, Control, serve_until_stopped
from blockcloud.cli.table import ask
from blockcloud.primitives.errors import BadConfiguration, Oversized, Unreachable
from blockcloud.primitives.names import parse_name
from blockcloud.routing.service_file import CONTENT_PATHS

if TYPE_CHECKING:
    from blockcloud.primitives.keys import SigningKey

MEBIBYTE: Final = 1024 * 1024
CONTROL: Final = "edge-cache"


def register(app: typer.Typer) -> None:
    """Add the commands to the group."""
    app.command()(cache)
    app.command()(pin)
    app.command()(status)


def cache(
    names: Annotated[list[str], typer.Argument(help="Names of the HTTP services.", metavar="NAME...")],
    listen: Annotated[
        str, typer.Option("--listen", help="HOST:PORT for plain HTTP; the Host field names the service.")
    ] = DEFAULT_ADDRESS,
    identity: Annotated[
        Path | None, typer.Option("--as", help="Key file to connect as, where a policy asks who you are.")
    ] = None,
    role: Annotated[str, typer.Option(help="Role to act in.")] = "",
    max_bytes: Annotated[int, typer.Option("--max-bytes", min=1, help="What the cache may hold.")] = 64 * MEBIBYTE,
    name: Annotated[
        str, typer.Option("--name", help="A name of yours, under which the edge itself is reached by sessions.")
    ] = "",
    sessions: Annotated[
        str, typer.Option("--sessions", help="With --name: HOST:PORT to be reached at by sessions.")
    ] = DEFAULT_ADDRESS,
) -> None:
    """Serve HTTP services from nearby, until stopped. What is stored is signed by its provider, and stays so."""
    from blockcloud.primitives.keys import SigningKey

    place, session_place = address_argument(listen), address_argument(sessions)
    key = SigningKey.load(identity) if identity is not None else SigningKey.generate()
    own_name = parse_name(name) if name else ""
    served = [parse_name(each) for each in names]
    serve_until_stopped(
        _cache(served, place, session_place, key, parse_name(role) if role else "", max_bytes, own_name)
    )


async def _cache(
    names: list[str],
    place: tuple[str, int],
    session_place: tuple[str, int],
    key: SigningKey,
    role: str,
    max_bytes: int,
    name: str,
) -> None:
    from blockcloud.sdk.edge_caching import edge_cache

    serving = edge_cache(
        names,
        home=home(),
        api=options.api,
        address=place,
        identity=key,
        role=role,
        max_bytes=max_bytes,
        name=name,
        session_address=session_place,
        key=options.key,
    )
    async with serving as edge:
        host, port = edge.address

        def status() -> dict[str, Any]:
            stored = edge.node.cache
            return {"names": names, "answers": dict(edge.node.counts), "objects": len(stored), "bytes": stored.bytes}

        async with Control(edge.endpoint, CONTROL, status) as control:
            report = {
                "names": names,
                "listening": f"{host}:{port}",
                "identity": key.public.hex(),
                "name": name,
                "sessions": [str(each) for each in edge.endpoint.addresses],
                "control": str(control.path),
            }
            show(report, as_json=options.as_json)
            say(f"ready; Ctrl-C stops it. try: curl -i -H 'Host: {names[0]}' http://{host}:{port}/")
            await asyncio.get_running_loop().create_future()


def status() -> None:
    """What a running edge cache of this home holds, and what it did."""
    path = home().control_path(CONTROL)
    if not path.exists():
        raise Unreachable("no edge cache runs with this home folder", control=str(path))
    show(asyncio.run(ask(path, {"op": "status"})), as_json=options.as_json)


def pin(
    name: str,
    folder: Annotated[Path, typer.Argument(help="Folder with the files, as the server has them below its root.")],
) -> None:
    """List the digests of files in the name's service file, so that they are believed without a signature.

    What was listed before and is not in the folder is listed no more.
    """
    digests = _digests(folder)
    key = load_key()

    async def run() -> dict[str, Any]:
        from blockcloud.sdk.publishing import list_content

        async with open_client() as client:
            file_hash = await list_content(client, parse_name(name), key, digests)
        listed = {path: digest.hex() for path, digest in sorted(digests.items())}
        return {"name": name, "service_file_hash": file_hash.hex(), "content": listed}

    show(asyncio.run(run()), as_json=options.as_json)


def _digests(folder: Path) -> dict[str, bytes]:
    """SHA-256 by the path under which a file is asked for. Raises BadConfiguration, Oversized."""
    if not folder.is_dir():
        raise BadConfiguration("there is no such folder", path=str(folder))
    digests: dict[str, bytes] = {}
    for path in sorted(folder.rglob("*")):
        if not path.is_file():
            continue
        if len(digests) >= CONTENT_PATHS:
            raise Oversized("a service file lists so many files and no more", limit=CONTENT_PATHS)
        with path.open("rb") as file:
            digests["/" + quote(path.relative_to(folder).as_posix())] = hashlib.file_digest(file, "sha256").digest()
    return digests
