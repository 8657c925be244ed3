"""`blockcloud status` and `blockcloud tx`: what the ledger is doing, and what became of a transaction."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import typer

from blockcloud.cli.context import command_group, open_transport, options
from blockcloud.cli.output import show

TRANSACTION_ID_CHARACTERS: Final = 64
tx = command_group("Transactions.")


@tx.callback()
def transactions() -> None:
    """Transactions."""


def register(app: typer.Typer) -> None:
    """Add the commands to the tree."""
    app.command()(status)
    app.add_typer(tx, name="tx")


def status() -> None:
    """Height, level, checkpoint, committee, peers and health of a node."""
    show(asyncio.run(_ask("/v1/status")), as_json=options.as_json)


@tx.command("show")
def show_transaction(transaction_id: str) -> None:
    """The receipt of a committed transaction."""
    if len(transaction_id) != TRANSACTION_ID_CHARACTERS or not _is_hex(transaction_id):
        raise typer.BadParameter(f"a transaction id has {TRANSACTION_ID_CHARACTERS} hexadecimal characters")
    show(asyncio.run(_ask(f"/v1/transactions/{transaction_id}")), as_json=options.as_json)


def _is_hex(text: str) -> bool:
    try:
        return bytes.fromhex(text).hex() == text.lower()
    except ValueError:
        return False


async def _ask(path: str) -> dict[str, Any]:
    transport = open_transport()
    try:
        return await transport.json(path)
    finally:
        await transport.close()
