"""`--draft FILE` and `blockcloud tx read|sign|send`: transactions that several people sign, each with their own key.

With --draft, any command that makes one transaction writes it to a file instead of sending it, signed by the keys at
hand. The file goes round; `tx sign` needs neither network nor genesis. Who signs sees what it does with `tx read`.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from blockcloud.cli.context import load_key, open_client, options
from blockcloud.cli.output import say, show
from blockcloud.primitives.errors import BadConfiguration

if TYPE_CHECKING:
    from blockcloud.sdk.drafts import Draft

File = Annotated[Path, typer.Argument(help="The draft.")]
DRAFT_MODE: Final = 0o600


def register(app: typer.Typer) -> None:
    """Add the commands to `blockcloud tx`."""
    for command in (read, sign, send):
        app.command()(command)


def read(file: File) -> None:
    """What the transaction in a draft does, and who has signed it. Asks nobody."""
    from blockcloud.sdk.drafts import described

    show(described(read_draft(file)), as_json=options.as_json)


def sign(file: File) -> None:
    """Sign a draft with --key, after you have looked at it with `tx read`. Asks nobody."""
    from blockcloud.sdk.drafts import described

    draft = read_draft(file).signed(load_key())
    write_draft(file, draft)
    show(described(draft), as_json=options.as_json)
    say(f"when enough have signed: blockcloud tx send {file}")


def send(
    files: Annotated[list[Path], typer.Argument(help="The draft, or copies that were signed apart.")],
) -> None:
    """Send a draft that enough keys have signed, and wait until it is committed."""
    from blockcloud.sdk.drafts import merge

    if options.draft:
        raise typer.BadParameter("--draft sends nothing")
    show(asyncio.run(_send(merge([read_draft(file) for file in files]))), as_json=options.as_json)


async def _send(draft: Draft) -> dict[str, Any]:
    from blockcloud.api.views import receipt_view
    from blockcloud.primitives.errors import WrongChain
    from blockcloud.sdk.drafts import keys_told
    from blockcloud.sdk.errors import rejection
    from blockcloud.service_chain.rejections import OK

    async with open_client() as client:
        if draft.body.chain_id != client.chain_id:
            raise WrongChain("the draft is for another ledger than this home's", chain=draft.body.chain_id.hex()[:16])
        threshold, keys = await keys_told(client, draft.body.sender)
        (outcome,) = await client.submit([draft.complete(threshold, keys)])
    if outcome.receipt is None or outcome.receipt.code != OK:
        raise rejection(outcome.code)
    return {"status": outcome.status, **receipt_view(outcome.receipt)}


def read_draft(path: Path) -> Draft:
    """The draft in a file. Raises BadConfiguration, or what is wrong with it."""
    from blockcloud.sdk.drafts import DRAFT_BYTES, Draft

    try:
        with path.open("rb") as file:
            return Draft.parse(file.read(DRAFT_BYTES + 1))
    except OSError as error:
        raise BadConfiguration(f"cannot read the draft: {error.strerror}", path=str(path)) from None


def write_draft(path: Path, draft: Draft) -> None:
    """Write a draft in place of what was there, in one step: a signature must not be lost half-way."""
    beside = path.with_name(path.name + ".new")
    try:
        with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, DRAFT_MODE), "wb") as file:
            file.write(draft.text())
        beside.replace(path)
    except OSError as error:
        raise BadConfiguration(f"cannot write the draft: {error.strerror}", path=str(path)) from None
