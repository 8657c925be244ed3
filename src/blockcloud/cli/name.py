"""`blockcloud name register|update|transfer|renew|revoke|show|history`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from blockcloud.cli.context import api_urls, load_genesis, load_key, options
from blockcloud.cli.output import show
from blockcloud.primitives.addresses import parse_address
from blockcloud.primitives.errors import BadConfiguration
from blockcloud.primitives.names import parse_name

if TYPE_CHECKING:
    from blockcloud.sdk import AsyncClient
    from blockcloud.service_chain.receipts import Receipt

app = typer.Typer(no_args_is_help=True, help="Names of services: register, change, look up.")

Height = Annotated[int | None, typer.Option("--height", help="As it was at this height.")]


@app.command()
def register(name: str) -> None:
    """Preorder a name, wait for its window, and register it to the account of the signing key."""
    key = load_key()
    _change(name, lambda client: client.preorder_and_register(key, parse_name(name)))


@app.command()
def update(
    name: str,
    service_file: Annotated[Path, typer.Option("--service-file", help="The new service file (JSON).")],
) -> None:
    """Bind another service file to a name and store it."""
    key = load_key()

    async def bind(client: AsyncClient) -> Receipt:
        from blockcloud.routing.service_file import service_file_hash

        data = _read(service_file)
        receipt = await client.update_name(key, name, service_file_hash(data))
        await client.put_service_file(data)
        return receipt

    _change(name, bind)


@app.command()
def transfer(name: str, to: Annotated[str, typer.Option("--to", help="Address of the new owner.")]) -> None:
    """Give a name to another account; its instance keys go."""
    key, receiver = load_key(), parse_address(to)
    _change(name, lambda client: client.transfer_name(key, name, receiver))


@app.command()
def renew(name: str) -> None:
    """Start a name's lifetime anew."""
    key = load_key()
    _change(name, lambda client: client.renew_name(key, name))


@app.command()
def revoke(name: str) -> None:
    """Give a name up: its keys count no more."""
    key = load_key()
    _change(name, lambda client: client.revoke_name(key, name))


@app.command("show")
def show_name(name: str, height: Height = None) -> None:
    """A name as a node has it now, or had it at a height."""
    _show(lambda client: client.name_view(parse_name(name), height))


@app.command()
def history(name: str) -> None:
    """Every state that a name had, oldest first."""
    _show(lambda client: client.name_history(parse_name(name)))


def _change(name: str, change: Callable[[AsyncClient], Awaitable[Receipt]]) -> None:
    """Commit a change and show the name as it is then."""

    async def run() -> dict[str, Any]:
        from blockcloud.api.views import receipt_view

        client = _client()
        async with client:
            receipt = await change(client)
            return {**await client.name_view(parse_name(name)), "receipt": receipt_view(receipt)}

    show(asyncio.run(run()), as_json=options.as_json)


def _show(ask: Callable[[AsyncClient], Awaitable[Any]]) -> None:
    async def run() -> Any:
        async with _client() as client:
            return await ask(client)

    show(asyncio.run(run()), as_json=options.as_json)


def _client() -> AsyncClient:
    from blockcloud.sdk import AsyncClient

    genesis = load_genesis()
    return AsyncClient(genesis, api_urls(genesis))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadConfiguration(f"cannot read the service file: {error.strerror}", path=str(path)) from None
