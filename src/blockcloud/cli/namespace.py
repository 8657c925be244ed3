"""`blockcloud namespace open|ready|show`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

import typer

from blockcloud.cli.context import command_group, load_key, open_client, options
from blockcloud.cli.output import show
from blockcloud.primitives.amounts import format_amount, parse_amount

if TYPE_CHECKING:
    from blockcloud.sdk import AsyncClient
    from blockcloud.service_chain.receipts import Receipt

app = command_group("Namespaces: last labels below which everybody registers, by rules of their own.")


@app.command("open")
def open_namespace(
    label: str,
    price: Annotated[str, typer.Option("--price", help="BLOC for a name: the coefficient of the rule.")],
    lifetime: Annotated[int, typer.Option("--lifetime", min=1, help="Commits for which a name lives.")],
    grace: Annotated[int, typer.Option("--grace", min=0, help="Commits for which it can be renewed after that.")],
    base: Annotated[int, typer.Option("--base", min=1, max=16, help="What the exponents are exponents of.")] = 1,
    exponents: Annotated[str, typer.Option("--exponents", help="For labels of 1, 2, ... characters: 3,2,1,0")] = "0",
    no_vowel_discount: Annotated[
        int, typer.Option("--no-vowel-discount", min=1, max=15, help="Divides the price of labels without vowels.")
    ] = 1,
    non_letter_discount: Annotated[
        int, typer.Option("--non-letter-discount", min=1, max=15, help="Of labels with digits or hyphens.")
    ] = 1,
) -> None:
    """Preorder a namespace, wait for its window, and open it. The price of opening, by the label's length, is burned.

    A name then costs PRICE * BASE ** exponent / discount. Put names in with `name delegate`, then say `ready`.
    """
    from blockcloud.sdk import namespaces
    from blockcloud.service_chain.namespaces import opening_price

    rule = namespaces.price_rule(
        parse_amount(price),
        base,
        _numbers(exponents),
        no_vowel_discount=no_vowel_discount,
        non_letter_discount=non_letter_discount,
    )
    key = load_key()

    async def run() -> dict[str, Any]:
        async with open_client() as client:
            receipt = await namespaces.open_namespace(client, key, label, rule, lifetime, grace)
            paid = opening_price(label, client.genesis.naming)
            return {**await _view(client, label, receipt), "paid": format_amount(paid), "paid_micro_bloc": paid}

    show(asyncio.run(run()), as_json=options.as_json)


@app.command()
def ready(label: str) -> None:
    """Let everybody register below a namespace of yours. From then on you have no more rights there than others."""
    from blockcloud.sdk import namespaces

    key = load_key()

    async def run() -> dict[str, Any]:
        async with open_client() as client:
            return await _view(client, label, await namespaces.ready_namespace(client, key, label))

    show(asyncio.run(run()), as_json=options.as_json)


@app.command("show")
def show_namespace(label: str) -> None:
    """A namespace as a node has it now: status, prices by the length of a label, lifetime and grace in commits."""
    from blockcloud.sdk import namespaces

    async def run() -> dict[str, Any]:
        async with open_client() as client:
            return await namespaces.namespace_view(client, label)

    show(asyncio.run(run()), as_json=options.as_json)


async def _view(client: AsyncClient, label: str, receipt: Receipt) -> dict[str, Any]:
    """The namespace as it is proven to be after the change."""
    from blockcloud.api.namespaces import namespace_view
    from blockcloud.api.views import receipt_view
    from blockcloud.sdk import namespaces

    record = await namespaces.namespace(client, label, at_least_height=receipt.height)
    assert record is not None, "the change was committed"
    return {**namespace_view(record, receipt.height), "receipt": receipt_view(receipt)}


def _numbers(text: str) -> list[int]:
    try:
        return [int(each) for each in text.split(",")]
    except ValueError:
        raise typer.BadParameter("exponents are numbers with commas between them") from None
