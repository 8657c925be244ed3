"""Reading the past from nodes that lie about it: a history must be a chain, and what is proven must be what is said."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from starlette.requests import Request
from starlette.responses import Response

from blockcloud.primitives.addresses import format_address
from blockcloud.primitives.errors import PeerFault
from blockcloud.sdk import AsyncClient
from blockcloud.sdk.errors import BadAnswer, NotFound, Refused
from blockcloud.sdk.past import all_changes
from blockcloud.service_chain.state_keys import name_key
from tests.sdk.sdk_world import OTHER, OWNER, World, as_json

NAME = "past.test"


def client_of(world: World, nodes: int = 4) -> AsyncClient:
    return AsyncClient(world.ledger.genesis, world.urls[:nodes], now_ms=lambda: world.ledger.now_ms)


async def lived(world: World) -> AsyncClient:
    """A client of a ledger in which the name was registered, renewed and given away."""
    client = client_of(world)
    await client.preorder_and_register(OWNER, NAME)
    await client.renew_name(OWNER, NAME)
    await client.transfer_name(OWNER, NAME, OTHER.public)
    return client


def answering(world: World, where: str, answer: Callable[[], Any]) -> None:
    """Let all nodes answer questions to paths with `where` in them by this object."""

    async def lie(request: Request) -> Response | None:
        return as_json(answer()) if where in request.url.path else None

    for node in world.nodes:
        node.misbehave = lie


async def test_a_history_with_a_gap_out_of_order_or_of_another_height_is_refused(world: World) -> None:
    client = await lived(world)
    page = await client.name_history(NAME)
    first, second, third = page["history"]
    lies: list[Any] = [
        [first, third],
        [third, second, first],
        [first, first],
        [],
        "all of it",
        [1, 2],
        [{**first, "height": "one"}, second],
        [first, {**second, "height": first["height"]}],
    ]
    for lie in lies:
        answering(world, "history", lambda lie=lie: {**page, "history": lie})
        with pytest.raises(BadAnswer):
            await client.name_history(NAME)
    answering(world, "history", lambda: page)
    assert await client.name_history(NAME, before=third["height"] + 1) == page
    with pytest.raises(BadAnswer, match="beyond"):
        await client.name_history(NAME, before=third["height"])
    await client.close()


async def test_a_history_that_is_not_what_a_quorum_vouches_for_is_refused(world: World) -> None:
    client = await lived(world)
    page = await client.name_history(NAME, prove=True)
    assert [entry["proven_height"] for entry in page["history"]] == [entry["height"] for entry in page["history"]]
    last = page["history"][-1]
    changes: tuple[dict[str, Any], ...] = (
        {"owner": format_address(OWNER.public)},
        {"revoked": True},
        {"expires_height": 2**40},
        {"held_until_height": 2**40},
    )
    for change in changes:
        lie = {**page, "history": [*page["history"][:-1], {**last, **change}]}
        answering(world, "history", lambda lie=lie: lie)
        assert await client.name_history(NAME) == lie, "one node's word is no more than that"
        with pytest.raises(BadAnswer, match="vouches"):
            await client.name_history(NAME, prove=True)
    await client.close()


async def test_a_node_that_answers_with_another_height_is_passed_over(world: World) -> None:
    client = await lived(world)
    top = world.ledger.chain.height
    key = name_key(NAME)

    async def older(request: Request) -> Response | None:
        if not request.url.path.endswith("/proof"):
            return None
        return Response(msgspec.msgpack.encode(world.ledger.proven(key, top - 1)))

    for node in world.nodes[:3]:
        node.misbehave = older
    found = await client.proven(key, height=top)
    assert (found.height, found.fresh) == (top, False)
    assert {error.code for _, error in client.transport.refused} == {"wrong_height"}
    world.nodes[3].misbehave = older
    with pytest.raises(PeerFault):
        await client.proven(key, height=top)
    await client.close()


async def test_what_is_not_there_yet_or_never_was_is_said(world: World) -> None:
    client = await lived(world)
    with pytest.raises(Refused) as refused:
        await client.proven(name_key(NAME), height=10**6)
    assert refused.value.code == "future_height"
    with pytest.raises(Refused):
        await client.name_at(NAME, 10**6)
    with pytest.raises(NotFound):
        await client.name_history("nobody.test")
    nobody = await client.name_at("nobody.test", 3)
    assert (nobody.record, nobody.proven_height) == (None, 3)
    before = await client.name_at(NAME, 1)
    assert (before.record, before.proven_height) == (None, 1)
    await client.close()


async def test_pages_of_changes_must_go_on(world: World) -> None:
    client = client_of(world, 1)
    pages: list[Any] = [{"changes": [], "next": "61"}, {"changes": [], "next": "61"}]
    answering(world, "changes", lambda: pages[0])
    with pytest.raises(BadAnswer, match="go on"):
        [change async for change in all_changes(client, 1)]
    for wrong in ({"changes": None, "next": None}, {"changes": [], "next": 1}, {}):
        answering(world, "changes", lambda wrong=wrong: wrong)
        with pytest.raises(BadAnswer):
            await client.changes(1)
    answering(world, "changes", lambda: {"changes": [], "next": "no key"})
    with pytest.raises(BadAnswer, match="hexadecimal"):
        [change async for change in all_changes(client, 1)]
    for wrong in ({"height": 2, "value": "00"}, {"height": 1, "value": "x"}, {"height": 1, "value": 3}):
        answering(world, "state", lambda wrong=wrong: wrong)
        with pytest.raises(BadAnswer):
            await client.value_view(b"a", 1)
    await client.close()
