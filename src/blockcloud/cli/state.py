"""`blockcloud state get|changes|export|import`: any value at any height, what a commit changed, the state in a file."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import typer

from blockcloud.cli.context import (
    command_group,
    home_folder,
    load_genesis,
    open_client,
    options,
    proof_view,
    public_key,
)
from blockcloud.cli.output import say, show
from blockcloud.primitives.errors import BadConfiguration, PeerFault
from blockcloud.primitives.names import parse_name

if TYPE_CHECKING:
    from blockcloud.primitives.certificates import Statement
    from blockcloud.service_chain.genesis import Genesis
    from blockcloud.service_chain.snapshot import Manifest

app = command_group("The state of the ledger: at any height, with proofs, in a file.")
NOT_ASKED = "not_asked"  # for a proof

Height = Annotated[int | None, typer.Option("--height", help="As it was after the commit at this height.", min=0)]

Trusted = Annotated[
    Path | None,
    typer.Option(
        "--trusted", help="File of `trust export` from somebody you trust, that the snapshot must agree with."
    ),
]


@app.command()
def get(
    key: Annotated[str, typer.Argument(help="State key in hexadecimal.")] = "",
    name: Annotated[str, typer.Option("--name", help="Instead of a key: this name.")] = "",
    height: Height = None,
    prove: Annotated[bool, typer.Option("--prove", help="Accept only what a quorum vouches for.")] = False,
) -> None:
    """What stands under a key of the state, under a name, or in the account of --account, now or at a height; with
    --prove at a checkpoint, verified here."""
    wanted = _key(key, name, options.account)
    show(asyncio.run(_get(wanted, height, prove)), as_json=options.as_json)


def _key(key: str, name: str, account: str) -> bytes:
    from blockcloud.service_chain.state_keys import account_key, name_key

    if bool(key) == bool(name) and (key or not account):
        raise typer.BadParameter("say which: KEY, --name NAME or --account ADDRESS")
    if name:
        return name_key(parse_name(name))
    if not key:
        return account_key(public_key(account))
    try:
        return bytes.fromhex(key)
    except ValueError:
        raise typer.BadParameter("a state key is a hexadecimal text") from None


async def _get(key: bytes, height: int | None, prove: bool) -> dict[str, Any]:
    from blockcloud.api.state_views import value_view

    async with open_client() as client:
        if not prove:
            value, at = await client.value_view(key, height)
            return {"height": at, **value_view(key, value), "proof": proof_view(None, NOT_ASKED)}
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


@app.command("export")
def export_state(
    file: Annotated[Path, typer.Argument(help="File to write; it must not exist yet.")],
    from_data: Annotated[
        bool, typer.Option("--from-data", help="Out of the folder of a stopped node (--home), not from nodes that run.")
    ] = False,
) -> None:
    """Write the newest snapshot, the whole state at the beginning of an era, with all certificates that lead to it."""
    with new_file(file) as writing:
        report = _export_data(writing) if from_data else asyncio.run(_export(writing))
    show({"file": str(file), **report}, as_json=options.as_json)
    say("whoever has the genesis can verify it: blockcloud node init --genesis GENESIS --snapshot FILE")


def _export_data(file: BinaryIO) -> dict[str, Any]:
    from blockcloud.node.config import read_config
    from blockcloud.node.snapshot_archive import export_from_data

    return snapshot_view(export_from_data(read_config(home_folder().absolute()), load_genesis(), file))


async def _export(file: BinaryIO) -> dict[str, Any]:
    from blockcloud.sdk.snapshots import export_snapshot

    async with open_client() as client:
        return snapshot_view(await export_snapshot(client, file))


@app.command("import")
def import_state(
    file: Annotated[Path, typer.Argument(help="Snapshot that `state export` wrote.")],
    trusted: Trusted = None,
) -> None:
    """Replace the state of a stopped node (--home) by a newer one; it goes on from there. All of the file is verified
    first."""
    from blockcloud.node.config import read_config
    from blockcloud.node.snapshot_archive import import_from_file

    genesis = load_genesis()
    config = read_config(home_folder().absolute())
    manifest = import_from_file(config, genesis, file, trusted_statements(genesis, trusted))
    show({"home": str(config.home), **snapshot_view(manifest)}, as_json=options.as_json)


def trusted_statements(genesis: Genesis, file: Path | None) -> dict[int, Statement]:
    """The hand-overs that a file of `trust export` vouches for; none without a file. Raises BadConfiguration."""
    from blockcloud.sdk.light_client import LightClient
    from blockcloud.sdk.snapshots import trusted_handovers
    from blockcloud.sdk.trust_store import read_trusted_state

    if file is None:
        return {}
    try:
        state = read_trusted_state(file)
        LightClient(genesis, trusted=state)
    except OSError as error:
        raise BadConfiguration(f"cannot read the certificate: {error.strerror}", path=str(file)) from None
    except PeerFault as error:
        raise BadConfiguration(f"this is no certificate of this chain: {error}", path=str(file)) from None
    return trusted_handovers(state)


def snapshot_view(manifest: Manifest) -> dict[str, Any]:
    """What stands in a snapshot."""
    from blockcloud.service_chain.state.snapshot import fold_parts

    return {
        "era": manifest.era,
        "height": manifest.record.height,
        "state_root": fold_parts(manifest.parts).hex(),
        "chunks": len(manifest.parts),
    }


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """A file that is there once all of it is written, and not at all if anything fails. Raises BadConfiguration."""
    partial = path.with_name(f".{path.name}.partial")
    if path.exists():
        raise BadConfiguration("the file exists already; choose another one", path=str(path))
    try:
        with partial.open("w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.rename(path)
    except OSError as error:
        raise BadConfiguration(f"cannot write the file: {error.strerror}", path=str(path)) from None
    finally:
        partial.unlink(missing_ok=True)
