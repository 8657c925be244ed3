"""`blockcloud validator bond|unbond|withdraw|unjail|show`: the stake behind a seat in the committee.

A candidate is the node key itself: its account pays and gets the bond back. So the key that signs is that of --key, or
in a node's home folder the node's own.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from blockcloud.cli.context import address_argument, command_group, home, open_client, options
from blockcloud.cli.output import say, show
from blockcloud.primitives.addresses import format_address, parse_address
from blockcloud.primitives.amounts import format_amount, parse_amount

if TYPE_CHECKING:
    from blockcloud.primitives.keys import SigningKey
    from blockcloud.sdk import AsyncClient
    from blockcloud.service_chain.operations import Operation
    from blockcloud.service_chain.records import Candidate

app = command_group("The bond behind a validator: put it up, take it back, see it.")

Amount = Annotated[str, typer.Argument(help="Amount in BLOC, such as 1000.")]


@app.command()
def bond(
    amount: Amount,
    link: Annotated[str, typer.Option("--link", help="HOST:PORT at which other validators reach this node.")] = "",
    api_url: Annotated[str, typer.Option("--api-url", help="URL at which clients reach this node's API.")] = "",
) -> None:
    """Put an amount behind the node key. The first time --link and --api-url are needed; later they change them."""
    micro_bloc = parse_amount(amount)
    if link:
        address_argument(link)
    show(asyncio.run(_bond(micro_bloc, link, api_url)), as_json=options.as_json)
    say("the running node does the rest: it sits in the committee from one of the next eras on, if its bond suffices")


async def _bond(micro_bloc: int, link: str, api_url: str) -> dict[str, Any]:
    from blockcloud.node.config import ONION_FILE
    from blockcloud.node.membership import read_onion
    from blockcloud.service_chain.operations import Bond

    path = _node_key_path()
    key = _load(path)
    async with open_client() as client:
        candidate, _ = await _proven(client, key.public)
        tip = b""
        # Only once: a tip that is registered again begins to reveal anew, and everybody knows those layers already.
        if candidate is None or not (candidate.onion or candidate.next_onion):
            onion = read_onion(path.parent / ONION_FILE, client.genesis.staking.onion_length)
            tip = b"" if onion is None else onion.tip
        return await _transact(client, key, Bond(micro_bloc, link, api_url, tip))


@app.command()
def unbond(amount: Amount) -> None:
    """Take an amount out of the bond: it counts no more from the next era on, and waits before it can be withdrawn."""
    from blockcloud.service_chain.operations import Unbond

    _change(Unbond(parse_amount(amount)))


@app.command()
def withdraw() -> None:
    """Move what was unbonded, and has waited out its eras and its time, back to the account."""
    from blockcloud.service_chain.operations import Withdraw

    _change(Withdraw())


@app.command()
def unjail() -> None:
    """Ask back in after having been jailed in an earlier era."""
    from blockcloud.service_chain.operations import Unjail

    _change(Unjail())


@app.command("show")
def show_validator(
    address: Annotated[str, typer.Argument(help="Address of a node key; default: the one that signs.")] = "",
) -> None:
    """Bond, unbonding amounts, eras it is ready for, resources it has put up and their weight in this era: as a node
    has it now, and the bond proven at a checkpoint."""
    node_key = parse_address(address) if address else _load(_node_key_path()).public
    show(asyncio.run(_show(node_key)), as_json=options.as_json)


async def _show(node_key: bytes) -> dict[str, Any]:
    address = format_address(node_key)
    async with open_client() as client:
        view = await client.transport.json(f"/v1/candidates/{address}")
        status = await client.status()
        committee = await client.transport.json(f"/v1/committee/{status['era']}")
        candidate, height = await _proven(client, node_key)
    seats = committee["members"]
    member = next((number for number, seat in enumerate(seats) if seat["address"] == address), None)
    bonded = candidate.bond if candidate is not None else 0
    return {
        **view,
        "era": status["era"],
        "member": member,
        "resource_weight_ppm": None if member is None else seats[member]["resource_weight_ppm"],
        "proven": {"bond": format_amount(bonded), "height": height},
    }


def _change(operation: Operation) -> None:
    """Commit one operation of the node key."""

    async def run() -> dict[str, Any]:
        key = _load(_node_key_path())
        async with open_client() as client:
            return await _transact(client, key, operation)

    show(asyncio.run(run()), as_json=options.as_json)


async def _transact(client: AsyncClient, key: SigningKey, operation: Operation) -> dict[str, Any]:
    from blockcloud.api.views import receipt_view

    receipt = await client.transact(key, operation, sender=key.public)
    return {"status": "committed", "address": format_address(key.public), **receipt_view(receipt)}


async def _proven(client: AsyncClient, node_key: bytes) -> tuple[Candidate | None, int]:
    """The candidate of a node key at the newest proven checkpoint, and the height of that."""
    from blockcloud.primitives import codec
    from blockcloud.service_chain.records import Candidate
    from blockcloud.service_chain.state_keys import candidate_key

    proven = await client.proven(candidate_key(node_key))
    if not proven.value:
        return None, proven.height
    return codec.decode(proven.value, Candidate, limit=len(proven.value)), proven.height


def _node_key_path() -> Path:
    """The file of the key that signs: --key, else that of the node whose home this is, else as everywhere."""
    from blockcloud.node.config import CONFIG_FILE, read_config

    place = home()
    if not options.key and (place.path / CONFIG_FILE).exists():
        return read_config(place.path).key_path
    return place.key_path(options.key)


def _load(path: Path) -> SigningKey:
    from blockcloud.primitives.keys import SigningKey

    return SigningKey.load(path)
