"""`blockcloud lane open|show|close`: a key of its own for a device, with a limit, that acts for an account.

A lane is a line of transactions beside that of the account's own keys: programs that each have one need not wait for
one another, and what a stolen device can do is what its lane may. A command acts on a lane with `--lane N`.
"""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from blockcloud.cli.context import command_group, load_account, load_key, open_client, options, public_key
from blockcloud.cli.output import say, show
from blockcloud.primitives.addresses import format_address
from blockcloud.primitives.amounts import format_amount, parse_amount

if TYPE_CHECKING:
    from collections.abc import Iterable

    from blockcloud.service_chain.records import Lane

app = command_group("Keys for devices: each with its operations, spending limit and end.")
DEFAULT_COMMITS: Final = 100_000

Number = Annotated[int, typer.Argument(help="Number of the lane.", min=1)]


@app.command("open")
def open_lane(
    key: Annotated[str, typer.Option("--to", help="Address of the device's key, or its file.")],
    cap: Annotated[str, typer.Option("--cap", help="BLOC that it may spend in all, fees included.")],
    allow: Annotated[
        list[str] | None, typer.Option("--allow", help="An operation that it may do, such as update-name; repeat.")
    ] = None,
    commits: Annotated[int, typer.Option("--commits", help="It ends after so many commits.", min=1)] = DEFAULT_COMMITS,
    number: Annotated[int, typer.Option("--number", help="Its number; default: the next.", min=0)] = 0,
) -> None:
    """Let another key act for the account, within limits. It takes a deposit, which `lane close` returns."""
    tags = _tags(allow or ["transfer"])
    report = asyncio.run(_open(public_key(key), parse_amount(cap), tags, commits, number))
    show(report, as_json=options.as_json)
    if Path(key).is_file():
        from blockcloud.sdk.home import leave_note

        leave_note(Path(key), public_key(key), load_account())
    say(f"the device says: --key FILE --lane {report['lane']} --account {report['address']}")


@app.command("show")
def show_lane(number: Number) -> None:
    """What a lane may still do, proven at the next checkpoint."""
    show(asyncio.run(_shown(number)), as_json=options.as_json)


@app.command("close")
def close(number: Number) -> None:
    """End a lane, and get its deposit back. Its number is never used again."""
    show(asyncio.run(_close(number)), as_json=options.as_json)


async def _open(key: bytes, cap: int, tags: tuple[int, ...], commits: int, number: int) -> dict[str, Any]:
    from blockcloud.api.views import receipt_view
    from blockcloud.service_chain.operations import OpenLane

    async with open_client() as client:
        account = client.acts_for(load_key())
        record = await client.account(account)
        number = number or (record.highest_lane if record is not None else 0) + 1
        expires = (await client.status())["height"] + commits
        receipt = await client.transact(load_key(), OpenLane(number, key, tags, cap, expires))
    return {
        "lane": number,
        "address": format_address(account),
        "key": format_address(key),
        "allowed": _names(tags),
        "cap": format_amount(cap),
        "expires_height": expires,
        "receipt": receipt_view(receipt),
    }


async def _close(number: int) -> dict[str, Any]:
    from blockcloud.api.views import receipt_view
    from blockcloud.service_chain.operations import CloseLane

    async with open_client() as client:
        receipt = await client.transact(load_key(), CloseLane(number))
    return {"lane": number, "receipt": receipt_view(receipt)}


async def _shown(number: int) -> dict[str, Any]:
    from blockcloud.sdk.errors import NotFound
    from blockcloud.service_chain.records import AccountKeys, Lane, decode_record
    from blockcloud.service_chain.state_keys import account_keys_key, lane_key

    account = load_account()
    async with open_client() as client:
        # What was just spent is to be seen: the next checkpoint comes soon.
        height = (await client.status())["height"]
        proven = await client.proven(lane_key(account, number), at_least_height=height)
        keys = await client.proven(account_keys_key(account), at_least_height=height)
    lane, changed = decode_record(proven.value, Lane), decode_record(keys.value, AccountKeys)
    if lane is None:
        raise NotFound("no such lane is open", lane=number, height=proven.height)
    ended = changed is not None and number <= changed.ended_lanes
    return {"lane": number, "address": format_address(account), **_lane_view(lane, ended), "height": proven.height}


def _lane_view(lane: Lane, ended: bool) -> dict[str, Any]:
    """`ended`: by a change of the account's keys."""
    return {
        "key": format_address(lane.key),
        "allowed": _names(lane.allowed),
        "cap": format_amount(lane.cap),
        "sequence": lane.sequence,
        "expires_height": lane.expires_height,
        "ended": ended,
        "deposit": format_amount(lane.deposit),
    }


def _words() -> dict[str, int]:
    """The operations that a lane may be allowed: as typed, and their tags."""
    from blockcloud.service_chain.operations import DELEGABLE_TAGS, TAGS

    typed = {re.sub(r"(?<!^)(?=[A-Z])", "-", kind.__name__).lower(): tag for kind, tag in TAGS.items()}
    return {word: tag for word, tag in typed.items() if tag in DELEGABLE_TAGS}


def _tags(typed: Iterable[str]) -> tuple[int, ...]:
    words = _words()
    unknown = [word for word in typed if word not in words]
    if unknown:
        raise typer.BadParameter(f"no operation {unknown[0]!r} that a lane may do; there are {', '.join(words)}")
    return tuple(sorted({words[word] for word in typed}))


def _names(tags: Iterable[int]) -> list[str]:
    words = {tag: word for word, tag in _words().items()}
    return [words.get(tag, str(tag)) for tag in tags]
