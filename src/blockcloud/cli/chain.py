"""`blockcloud status` and `blockcloud tx`: what the ledger is doing, and what became of a transaction."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import typer

from blockcloud.cli import drafting
from blockcloud.cli.context import command_group, open_client, open_transport, options
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
    drafting.register(tx)


def status() -> None:
    """Height, level, checkpoint, committee, peers and health of a node."""
    show(asyncio.run(_status()), as_json=options.as_json)


@tx.command("show")
def show_transaction(transaction_id: str) -> None:
    """The receipt of a committed transaction, and its place in the ledger, proven in this process."""
    if len(transaction_id) != TRANSACTION_ID_CHARACTERS or not _is_hex(transaction_id):
        raise typer.BadParameter(f"a transaction id has {TRANSACTION_ID_CHARACTERS} hexadecimal characters")
    show(asyncio.run(_transaction(bytes.fromhex(transaction_id))), as_json=options.as_json)


async def _transaction(identifier: bytes) -> dict[str, Any]:
    from blockcloud.api.views import receipt_view
    from blockcloud.primitives.errors import BadProof
    from blockcloud.sdk.errors import NotFound
    from blockcloud.sdk.inclusion import prove_inclusion

    async with open_client() as client:
        receipt = await client.receipt(identifier)
        if receipt is None:
            raise NotFound("no receipt under this id: not committed, or rejected without a fee")
        place = await prove_inclusion(client, identifier)
    if place.height != receipt.height:
        raise BadProof("the receipt names another height than the proof", receipt=receipt.height, proof=place.height)
    proof = {
        "verified": True,  # what could not be verified was raised
        "certified_height": place.certified_height,
        "commit_digest": place.commit_digest.hex(),
    }
    return {**receipt_view(receipt), "proof": proof}


def _is_hex(text: str) -> bool:
    try:
        return bytes.fromhex(text).hex() == text.lower()
    except ValueError:
        return False


async def _status() -> dict[str, Any]:
    transport = open_transport()
    try:
        return await transport.json("/v1/status")
    finally:
        await transport.close()
