"""`blockcloud account new|show|address|transfer|rotate|share`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from blockcloud.cli.context import (
    Drafted,
    command_group,
    home,
    load_account,
    load_cosigners,
    load_key,
    open_client,
    options,
    public_key,
)
from blockcloud.cli.output import say, show
from blockcloud.primitives.addresses import format_address
from blockcloud.primitives.amounts import format_amount, parse_amount

if TYPE_CHECKING:
    from blockcloud.primitives.keys import SigningKey

app = command_group("Keys and what they hold.")
KeepLanes = Annotated[bool, typer.Option("--keep-lanes", help="Lanes that are open stay open; else they end.")]


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
    address: Annotated[
        str, typer.Argument(help="Address, or a key file; default: the account of the signing key.")
    ] = "",
) -> None:
    """Balance, sequence and keys of an account as a node has it now; balance and keys proven at the newest
    checkpoint, which may be some seconds old."""
    owner = public_key(address) if address else load_account()
    show(asyncio.run(_show(owner)), as_json=options.as_json)


async def _show(owner: bytes) -> dict[str, Any]:
    from blockcloud.primitives import codec
    from blockcloud.service_chain.records import Account
    from blockcloud.service_chain.state_keys import account_key

    async with open_client() as client:
        view = await client.account_view(owner)
        proven = await client.proven(account_key(owner))
        threshold, keys = await client.account_keys(owner, at_least_height=proven.height)
    certified = codec.decode(proven.value, Account, limit=len(proven.value)).balance if proven.value else 0
    return {
        "address": format_address(owner),
        "balance": view.get("balance"),
        "sequence": view.get("sequence"),
        "threshold": view.get("threshold"),
        "keys": view.get("keys"),
        "proven": {
            "balance": format_amount(certified),
            "threshold": threshold,
            "keys": [format_address(key) for key in keys],
            "height": proven.height,
        },
    }


@app.command()
def transfer(
    to: Annotated[str, typer.Option("--to", help="Address (or key file) of the receiver.")],
    amount: Annotated[str, typer.Option("--amount", help="Amount in BLOC, such as 1.5.")],
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it is committed.")] = True,
) -> None:
    """Pay somebody from the account of the signing key."""
    report = asyncio.run(_transfer(public_key(to), parse_amount(amount), wait))
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
    """Address of the account that the signing key acts for."""
    path = home().key_path(options.key)
    show({"address": format_address(load_account()), "key_file": str(path)}, as_json=options.as_json)


@app.command()
def rotate(
    to: Annotated[Path, typer.Option("--to", help="File of the new key (`blockcloud account new --key FILE`).")],
    keep_lanes: KeepLanes = False,
) -> None:
    """Let another key sign for the account, and no other any more. The address stays.

    The account's first key can be put back like any other.
    """
    from blockcloud.primitives.keys import SigningKey
    from blockcloud.sdk.home import leave_note

    new, account = SigningKey.load(to), load_account()
    try:
        _set_keys(1, [new.public], keep_lanes, [new])
    except Drafted:
        leave_note(to, new.public, account)
        raise
    leave_note(to, new.public, account)
    say(f"from now on it takes --key {to} to act for {format_address(account)}; the file beside it says so")


@app.command()
def share(
    threshold: Annotated[int, typer.Option("--threshold", help="How many keys must sign.")],
    others: Annotated[list[str], typer.Option("--with", help="Another key: its address or key file; repeat.")],
    keep_lanes: KeepLanes = False,
) -> None:
    """From now on, so many of these keys must sign for the account: that of --key, and those of --with.

    Every one of them signs the change as well: name their files with --cosign, or write the change to a file with
    --draft, which the others sign with `blockcloud tx sign`.
    """
    keys = [load_key().public, *(public_key(each) for each in others)]
    if len(set(keys)) != len(keys):
        raise typer.BadParameter("each key counts once, that of --key too")
    if not 1 <= threshold <= len(keys):
        raise typer.BadParameter(f"{threshold} of {len(keys)} keys cannot sign")
    _set_keys(threshold, keys, keep_lanes, [])


def _set_keys(threshold: int, keys: list[bytes], keep_lanes: bool, joining: list[SigningKey]) -> None:
    """Commit the change of keys, signed by the files at hand and `joining`, and show what is then."""
    from blockcloud.service_chain.operations import SetKeys

    operation, key = SetKeys(threshold, tuple(sorted(keys)), keep_lanes), load_key()

    async def run() -> dict[str, Any]:
        from blockcloud.api.views import receipt_view

        async with open_client() as client:
            account = client.acts_for(key)
            receipt = await client.transact(key, operation, cosigners=[*load_cosigners(), *joining])
        return {
            "address": format_address(account),
            "threshold": threshold,
            "keys": [format_address(each) for each in operation.keys],
            "receipt": receipt_view(receipt),
        }

    show(asyncio.run(run()), as_json=options.as_json)
