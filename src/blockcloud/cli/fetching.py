"""`blockcloud fetch NAME/path`: one HTTP object by name, from its provider or an edge node, and proven either way."""

from __future__ import annotations

import asyncio
import hashlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from blockcloud.cli.context import home, options
from blockcloud.cli.output import EXIT_FAILURE, say, show
from blockcloud.primitives.amounts import format_amount
from blockcloud.primitives.names import URI_SCHEME, parse_name

if TYPE_CHECKING:
    from blockcloud.sdk.fetching import Fetched

ERROR_STATUS: Final = 400


def register(app: typer.Typer) -> None:
    """Add the command to the tree."""
    app.command()(fetch)


def fetch(
    url: Annotated[str, typer.Argument(help="NAME/path, or bloc://NAME/path.")],
    edge: Annotated[str, typer.Option("--edge", help="An edge node: its name, or HOST:PORT of its plain HTTP.")] = "",
    fallback: Annotated[
        bool, typer.Option("--fallback", help="Ask the provider for what the edge cannot or does not prove.")
    ] = False,
    out: Annotated[Path | None, typer.Option("--out", help="Write the content to this file.")] = None,
    identity: Annotated[
        Path | None, typer.Option("--as", help="Key file to connect as, where a policy asks who you are.")
    ] = None,
    role: Annotated[str, typer.Option(help="Role to act in.")] = "",
    grant: Annotated[Path | None, typer.Option("--grant", help="File with a grant for the service.")] = None,
    budget: Annotated[str, typer.Option("--budget", help="BLOC to pay at most, if it costs something.")] = "",
) -> None:
    """Fetch an HTTP object by name. From an edge it is taken only if it is proven to be the provider's.

    The content goes to standard output unless --out or --json is given; the exit code is 1 for a status from 400 on.
    """
    from blockcloud.cli.policy import read_grant
    from blockcloud.primitives.keys import SigningKey

    found = asyncio.run(
        _fetch(
            url if "://" in url else f"{URI_SCHEME}://{url}",
            edge=edge or None,
            fallback=fallback,
            identity=SigningKey.load(identity) if identity is not None else None,
            role=parse_name(role) if role else "",
            grant=read_grant(grant) if grant is not None else b"",
            budget=budget,
            key=options.key,
        )
    )
    if out is not None:
        out.write_bytes(found.body)
    report = _report(found)
    if options.as_json or out is not None:
        show(report, as_json=options.as_json)
    else:
        sys.stdout.buffer.write(found.body)
        sys.stdout.buffer.flush()
        say(f"{found.status} from the {found.served_by}, proven by {found.verified_by}, {found.age_s} s old")
    if found.status >= ERROR_STATUS:
        raise typer.Exit(EXIT_FAILURE)


async def _fetch(url: str, **how: Any) -> Fetched:
    from blockcloud.sdk.fetching import fetch as fetch_at

    return await fetch_at(url, home=home(), api=options.api, **how)


def _report(found: Fetched) -> dict[str, Any]:
    return {
        "url": found.url,
        "status": found.status,
        "served_by": found.served_by,
        "verified_by": found.verified_by,
        "key": found.key.hex(),
        "age_s": found.age_s,
        "stale": found.is_stale,
        "edge_error": found.edge_error,
        "paid": format_amount(found.paid),
        "fields": dict(found.fields),
        "bytes": len(found.body),
        "sha256": hashlib.sha256(found.body).hexdigest(),
    }
