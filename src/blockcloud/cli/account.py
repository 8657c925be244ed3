"""`blockcloud account new|show|address|transfer`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any

import typer

from blockcloud.cli.context import command_group, home, load_key, open_client, options
from blockcloud.cli.output import say, show
from blockcloud.primitives.addresses import format_address, parse_address
from blockcloud.primitives.amounts import format_amount, parse_amount

app = command_group("Keys and what they hold.")


@app.command()
def new() -> None:
    """Make a key: at --key, or as this home's own."""
    from blockcloud.primitives.keys import SigningKey

    path = Path(options.key) if options.key else home().account_key_path
    key = SigningKey.generate()
    key.save(path)
    show({"address": format_address(key.public), "key_file": str(path)}, as_json=options.as_json)
    say("keep the key file: whoever has it has the account, and nobody can make it again")


@app.command("show")
def show_account(
    address: Annotated[str, typer.Argument(help="Address; default: the account of the signing key.")] = "",
) -> None:
    """Balance and sequence of an account as a node has it now, and its balance proven at the newest checkpoint."""
    owner = parse_address(address) if address else load_key().public
    show(asyncio.run(_show(owner)), as_json=options.as_json)


async def _show(owner: bytes) -> dict[str, Any]:
    from blockcloud.primitives import codec
    from blockcloud.service_chain.records import Account
    from blockcloud.service_chain.state_keys import account_key

    async with open_client() as client:
        view = await client.account_view(owner)
        proven = await client.proven(account_key(owner))
    certified = codec.decode(proven.value, Account, limit=len(proven.value)).balance if proven.value else 0
    return {
        "address": format_address(owner),
        "balance": view.get("balance"),
        "sequence": view.get("sequence"),
        "proven": {"balance": format_amount(certified), "height": proven.height},
    }


@app.command()
def transfer(
    to: Annotated[str, typer.Option("--to", help="Address of the receiver.")],
    amount: Annotated[str, typer.Option("--amount", help="Amount in BLOC, such as 1.5.")],
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it is committed.")] = True,
) -> None:
    """Pay somebody from the account of the signing key."""
    report = asyncio.run(_transfer(parse_address(to), parse_amount(amount), wait))
    show(report, as_json=options.as_json)


async def _transfer(to: bytes, micro_bloc: int, wait: bool) -> dict[str, Any]:
    from blockcloud.api.views import receipt_view
    from blockcloud.sdk.errors import rejection
    from blockcloud.service_chain.operations import Transfer

    key = load_key()
    async with open_client() as client:
        if wait:
            return {"status": "committed", **receipt_view(await client.transfer(key, to, micro_bloc))}
        raw = await client.signed(key, Transfer(to, micro_bloc))
        (outcome,) = await client.submit([raw], wait="none")
    if outcome.status == "rejected":
        raise rejection(outcome.code)
    return {"status": outcome.status, "id": outcome.id.hex()}


@app.command("address")
def address_of() -> None:
    """Address of the signing key."""
    path = home().key_path(options.key)
    show({"address": format_address(load_key().public), "key_file": str(path)}, as_json=options.as_json)
