"""`blockcloud name register|update|transfer|renew|revoke|show|history`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from blockcloud.cli.context import command_group, load_key, open_client, options, proof_view
from blockcloud.cli.output import show
from blockcloud.primitives.addresses import parse_address
from blockcloud.primitives.errors import BadConfiguration
from blockcloud.primitives.limits import SERVICE_FILE_BYTES
from blockcloud.primitives.names import parse_name

if TYPE_CHECKING:
    from blockcloud.sdk import AsyncClient
    from blockcloud.service_chain.receipts import Receipt

app = command_group("Names of services: register, change, look up.")
SETTLE_SECONDS: Final = 10.0
POLL_SECONDS: Final = 0.05

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
        from blockcloud.routing.service_file import parse_service_file, service_file_hash

        data = _read(service_file)
        parse_service_file(data)  # before the ledger binds what no routing node would keep
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
    """A name as a node has it now, or as it was at a height, proven where it can be (`proof`)."""
    if height is None:
        _show(lambda client: client.name_view(parse_name(name)))
    else:
        _show(lambda client: _name_at(client, parse_name(name), height))


@app.command()
def history(
    name: str,
    before: Annotated[int | None, typer.Option("--before", help="Only changes below this height.", min=1)] = None,
    limit: Annotated[int | None, typer.Option("--limit", help="So many changes at most.", min=1, max=1_000)] = None,
    prove: Annotated[bool, typer.Option("--prove", help="Verify each entry that can be proven.")] = False,
) -> None:
    """Every state that a name had, oldest first, from its first operation on."""
    _show(lambda client: client.name_history(parse_name(name), before=before, limit=limit, prove=prove))


async def _name_at(client: AsyncClient, name: str, height: int) -> dict[str, Any]:
    from blockcloud.api.views import name_view
    from blockcloud.sdk.errors import NotFound

    found = await client.name_at(name, height)
    if found.record is None:
        how = "one node's word" if found.proven_height is None else f"proven at {found.proven_height}"
        raise NotFound(f"no such name at this height ({how})", name=name, height=height)
    return {**name_view(found.record), "proof": proof_view(found.proven_height, found.unproven)}


def _change(name: str, change: Callable[[AsyncClient], Awaitable[Receipt]]) -> None:
    """Commit a change and show the name as it is then."""

    async def run() -> dict[str, Any]:
        from blockcloud.api.views import receipt_view

        async with open_client() as client:
            receipt = await change(client)
            return {**await _view_from(client, name, receipt.height), "receipt": receipt_view(receipt)}

    show(asyncio.run(run()), as_json=options.as_json)


async def _view_from(client: AsyncClient, name: str, height: int) -> dict[str, Any]:
    """The name as a node has it that has reached `height`; the first one asked may be a little behind."""
    from blockcloud.primitives.errors import TimedOut
    from blockcloud.sdk.errors import NotFound

    try:
        async with asyncio.timeout(SETTLE_SECONDS):
            while True:
                with suppress(NotFound):
                    view = await client.name_view(name)
                    if view["changed_height"] >= height:
                        return view
                await asyncio.sleep(POLL_SECONDS)
    except TimeoutError:
        raise TimedOut("the change is committed, but the node that was asked does not show it yet", name=name) from None


def _show(ask: Callable[[AsyncClient], Awaitable[Any]]) -> None:
    async def run() -> Any:
        async with open_client() as client:
            return await ask(client)

    show(asyncio.run(run()), as_json=options.as_json)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(SERVICE_FILE_BYTES + 1)  # one more than allowed is refused by whoever checks it
    except OSError as error:
        raise BadConfiguration(f"cannot read the service file: {error.strerror}", path=str(path)) from None
