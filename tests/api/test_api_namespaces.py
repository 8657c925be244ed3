"""Namespaces over the API."""

from __future__ import annotations

from typing import Any

import pytest

from blockcloud.primitives.addresses import format_address
from blockcloud.service_chain.name_price import PriceRule
from blockcloud.service_chain.operations import (
    Delegate,
    Delegation,
    Preorder,
    ReadyNamespace,
    RevealNamespace,
    namespace_commitment,
)
from blockcloud.service_chain.transaction import TransactionBody, sign_transaction
from tests.api.api_world import Api, check_problem
from tests.node.cluster import USERS, until

pytestmark = pytest.mark.asyncio(loop_scope="session")

OWNER = USERS[4]
LABEL, SALT = "apiworld", bytes(32)
RULE = PriceRule(1_000_000, 2, (2, 1, *(0,) * 14), 2, 5)


async def sent(api: Api, *operations: Any) -> dict[str, Any]:
    """The receipt of a transaction of OWNER that must succeed, when its effect can be seen."""
    chain = api.validator.chain
    account = chain.account(OWNER.public)
    assert account is not None
    body = TransactionBody(chain.chain_id, OWNER.public, 0, account.sequence, 10**6, 10**6, operations)
    (receipt,) = await api.committed(sign_transaction(body, OWNER))
    assert receipt["code"] == "ok"
    await until(lambda: chain.applied_height >= receipt["height"])
    return receipt


async def test_a_namespace_from_its_reveal_to_its_end(api: Api) -> None:
    check_problem(await api.http.get(f"/v1/namespaces/{LABEL}"), 404, "not_found")
    check_problem(await api.http.get("/v1/namespaces/La"), 400, "invalid_name")
    chain, naming = api.validator.chain, api.net.genesis.naming
    preorder = await sent(api, Preorder(namespace_commitment(LABEL, SALT, OWNER.public)))
    await until(lambda: chain.applied_height + 1 >= preorder["height"] + naming.preorder_min)
    entry = Delegation("door", OWNER.public, b"", ())
    revealed = await sent(api, RevealNamespace(LABEL, SALT, RULE, 77, 5), Delegate(LABEL, (entry,)))
    path = f"/v1/namespaces/{LABEL}"
    view = (await api.http.get(path)).json()
    assert view["height"] >= revealed["height"]
    assert {key: view[key] for key in ("namespace", "owner", "status", "lifetime", "grace")} == {
        "namespace": LABEL,
        "owner": format_address(OWNER.public),
        "status": "importing",
        "lifetime": 77,
        "grace": 5,
    }
    assert view["prices"] == [
        {"from_characters": 1, "price": "4", "price_micro_bloc": 4_000_000},
        {"from_characters": 2, "price": "2", "price_micro_bloc": 2_000_000},
        {"from_characters": 3, "price": "1", "price_micro_bloc": 1_000_000},
    ]
    assert (view["no_vowel_discount"], view["non_letter_discount"]) == (2, 5)
    assert view["lapses_height"] == revealed["height"] + naming.ready_max
    assert view["ready_height"] is None
    ready = await sent(api, ReadyNamespace(LABEL))
    view = (await api.http.get(path)).json()
    assert (view["status"], view["ready_height"], view["lapses_height"]) == ("ready", ready["height"], None)
    name = await api.both(f"/v1/names/door.{LABEL}")
    assert name["renewal"] == {
        "namespace": LABEL,
        "price": "1",
        "price_micro_bloc": 1_000_000,
        "lifetime": 77,
        "grace": 5,
    }
