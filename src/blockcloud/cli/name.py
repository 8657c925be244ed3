"""`blockcloud name register|update|transfer|renew|revoke|delegate|show|history` and `name instance add|remove`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from blockcloud.cli.context import command_group, load_key, open_client, options, proof_view, public_key
from blockcloud.cli.output import show
from blockcloud.primitives.addresses import format_address, parse_address
from blockcloud.primitives.amounts import parse_amount
from blockcloud.primitives.errors import BadConfiguration
from blockcloud.primitives.limits import SERVICE_FILE_BYTES
from blockcloud.primitives.names import parse_name

if TYPE_CHECKING:
    from blockcloud.sdk import AsyncClient
    from blockcloud.service_chain.receipts import Receipt

app = command_group("Names of services: register, change, look up.")
instance = command_group("The keys of instances that may serve under a name.")
app.add_typer(instance, name="instance")
SETTLE_SECONDS: Final = 10.0
POLL_SECONDS: Final = 0.05

Height = Annotated[int | None, typer.Option("--height", help="As it was at this height.")]
PriceLimit = Annotated[
    str, typer.Option("--price-limit", help="Pay at most so many BLOC; default: what the namespace is proven to ask.")
]


@app.command()
def register(name: str, price_limit: PriceLimit = "") -> None:
    """Preorder a name, wait for its window, and register it to the account of the signing key."""
    key = load_key()

    async def take(client: AsyncClient) -> Receipt:
        return await client.preorder_and_register(
            key, parse_name(name), price_limit=await _limit(client, name, price_limit)
        )

    _change(name, take)


@app.command()
def update(
    name: str,
    service_file: Annotated[Path, typer.Option("--service-file", help="The new service file (JSON).")],
) -> None:
    """Bind another service file to a name and store it."""
    key = load_key()

    async def bind(client: AsyncClient) -> Receipt:
        from blockcloud.routing.service_file import parse_service_file, service_file_hash

        data = _read(service_file, SERVICE_FILE_BYTES)
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
def renew(name: str, price_limit: PriceLimit = "") -> None:
    """Start a name's lifetime anew."""
    key = load_key()

    async def extend(client: AsyncClient) -> Receipt:
        return await client.renew_name(key, name, price_limit=await _limit(client, name, price_limit))

    _change(name, extend)


@app.command()
def revoke(name: str) -> None:
    """Give a name up: its keys count no more."""
    key = load_key()
    _change(name, lambda client: client.revoke_name(key, name))


@app.command()
def delegate(
    parent: str,
    file: Annotated[Path, typer.Option("--file", help="The names (JSON): label, and if wanted owner, keys, file.")],
) -> None:
    """Register many names directly below one of yours, or in your namespace before it is ready. All or none."""
    key = load_key()

    async def run() -> dict[str, Any]:
        from blockcloud.api.views import receipt_view
        from blockcloud.sdk import namespaces

        entries = namespaces.read_batch(_read(file, namespaces.BATCH_BYTES), key.public)
        async with open_client() as client:
            receipt = await namespaces.delegate(client, key, parent, entries)
        names = [{"name": f"{each.label}.{parent}", "owner": format_address(each.owner)} for each in entries]
        return {"parent": parent, "names": names, "receipt": receipt_view(receipt)}

    show(asyncio.run(run()), as_json=options.as_json)


InstanceKey = Annotated[str, typer.Argument(help="Address of the instance's key, or its key file.")]


@instance.command("add")
def add_instance(name: str, instance_key: InstanceKey) -> None:
    """Let an instance serve under a name."""
    key, served = load_key(), public_key(instance_key)
    _change(name, lambda client: client.add_instance(key, name, served))


@instance.command("remove")
def remove_instance(name: str, instance_key: InstanceKey) -> None:
    """Take that right away."""
    key, served = load_key(), public_key(instance_key)
    _change(name, lambda client: client.remove_instance(key, name, served))


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
    from blockcloud.sdk.errors import NotFound
    from blockcloud.service_chain.kinds import name_view

    found = await client.name_at(name, height)
    if found.record is None:
        how = "one node's word" if found.proven_height is None else f"proven at {found.proven_height}"
        raise NotFound(f"no such name at this height ({how})", name=name, height=height)
    return {**name_view(found.record), "proof": proof_view(found.proven_height, found.unproven)}


async def _limit(client: AsyncClient, name: str, price_limit: str) -> int:
    """Micro-BLOC that may be paid for a name."""
    from blockcloud.sdk.namespaces import terms

    return parse_amount(price_limit) if price_limit else (await terms(client, name)).price


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


def _read(path: Path, limit: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(limit + 1)  # one more than allowed is refused by whoever checks it
    except OSError as error:
        raise BadConfiguration(f"cannot read the file: {error.strerror}", path=str(path)) from None
