"""`blockcloud status|tx|doctor`: what the ledger and this machine are doing."""

from __future__ import annotations

import asyncio
from typing import Any

import typer

from blockcloud.cli.context import api_urls, load_genesis, options
from blockcloud.cli.output import show
from blockcloud.primitives.errors import Malformed

tx = typer.Typer(no_args_is_help=True, help="Transactions.")


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
    if len(transaction_id) != 64 or not transaction_id.isalnum():
        raise Malformed("a transaction id has 64 hexadecimal characters", id=transaction_id[:80])
    show(asyncio.run(_ask(f"/v1/transactions/{transaction_id}")), as_json=options.as_json)


async def _ask(path: str) -> dict[str, Any]:
    from blockcloud.sdk.transport import Transport

    urls = [options.api] if options.api else api_urls(load_genesis())
    transport = Transport(urls)
    try:
        return await transport.json(path)
    finally:
        await transport.close()
