"""`blockcloud state get|changes|export|import`: any value at any height, what a commit changed, and the whole state in a
file."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from blockcloud.cli.context import command_group, home_folder, load_genesis, open_client, options, proof_view
from blockcloud.cli.output import say, show
from blockcloud.primitives.addresses import parse_address
from blockcloud.primitives.names import parse_name

if TYPE_CHECKING:
    from blockcloud.sdk import AsyncClient

app = command_group("The state of the ledger: at any height, with proofs, in a file.")
NODES_WORD = "node_s_word"

Height = Annotated[int | None, typer.Option("--height", help="As it was after the commit at this height.", min=0)]


@app.command()
def get(
    key: Annotated[str, typer.Argument(help="State key in hexadecimal.")] = "",
    account: Annotated[str, typer.Option("--account", help="Instead of a key: the account of this address.")] = "",
    name: Annotated[str, typer.Option("--name", help="Instead of a key: this name.")] = "",
    height: Height = None,
    prove: Annotated[bool, typer.Option("--prove", help="Accept only what a quorum vouches for.")] = False,
) -> None:
    """What stands under a key of the state, now or at a height; with --prove at a checkpoint, verified here."""
    wanted = _key(key, account, name)
    show(asyncio.run(_get(wanted, height, prove)), as_json=options.as_json)


def _key(key: str, account: str, name: str) -> bytes:
    from blockcloud.service_chain.state_keys import account_key, name_key

    if sum(map(bool, (key, account, name))) != 1:
        raise typer.BadParameter("say which: KEY, --account ADDRESS or --name NAME")
    if account:
        return account_key(parse_address(account))
    if name:
        return name_key(parse_name(name))
    try:
        return bytes.fromhex(key)
    except ValueError:
        raise typer.BadParameter("a state key is a hexadecimal text") from None


async def _get(key: bytes, height: int | None, prove: bool) -> dict[str, Any]:
    from blockcloud.api.state_views import value_view

    async with open_client() as client:
        if not prove:
            value, at = await client.value_view(key, height)
            return {"height": at, **value_view(key, value), "proof": proof_view(None, NODES_WORD)}
        proven = await client.proven(key, height=height)
    proof = {**proof_view(proven.height), "fresh": proven.fresh}
    return {"height": proven.height, **value_view(key, proven.value), "proof": proof}


@app.command()
def changes(
    height: Annotated[int, typer.Argument(help="Of the commit.", min=0)],
    after: Annotated[str, typer.Option("--after", help="Only keys behind this one: `next` of the page before.")] = "",
    limit: Annotated[int | None, typer.Option("--limit", help="Entries at most.", min=1, max=256)] = None,
) -> None:
    """What the commit at a height changed, as one node has it, by key, a page at a time."""
    try:
        behind = bytes.fromhex(after) or None
    except ValueError:
        raise typer.BadParameter("a state key is a hexadecimal text") from None
    show(asyncio.run(_changes(height, behind, limit)), as_json=options.as_json)


async def _changes(height: int, after: bytes | None, limit: int | None) -> dict[str, Any]:
    async with open_client() as client:
        return await client.changes(height, after=after, limit=limit)
