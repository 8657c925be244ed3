"""Contracts over the API: what they are, what they answer, and how asking fails."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from blockcloud.api.contracts import WAITING
from blockcloud.primitives.addresses import format_address
from blockcloud.sdk.contracts import build
from blockcloud.service_chain.contracts.runtime import contract_address
from blockcloud.service_chain.operations import CallContract, Deploy
from blockcloud.service_chain.transaction import TransactionBody, sign_transaction
from tests.api.api_world import Api, check_problem
from tests.node.cluster import USERS, until
from tests.service_chain.contracts.contract_world import EXAMPLES, module

pytestmark = pytest.mark.asyncio(loop_scope="session")

OWNER = USERS[5]
READER = USERS[6].public
ACCESS = build(EXAMPLES / "data_access")


async def sent(api: Api, *operations: Any) -> dict[str, Any]:
    """The receipt of a transaction of OWNER."""
    chain = api.validator.chain
    account = chain.account(OWNER.public)
    sequence = account.sequence if account is not None else 0
    body = TransactionBody(chain.chain_id, OWNER.public, 0, sequence, 10**6, 10**9, operations)
    items = await api.submit(sign_transaction(body, OWNER), wait="committed", timeout="20000")
    receipt: dict[str, Any] = items[0]["receipt"]
    await until(lambda: chain.applied_height >= receipt["height"])
    return receipt


async def deployed(api: Api, code: bytes) -> bytes:
    """The contract of this code, made once."""
    address = contract_address(OWNER.public, code, b"")
    if api.validator.chain.contract(address) is None:
        assert (await sent(api, Deploy(code, b"", b"", 0, 10**9, 10_000_000)))["code"] == "ok"
    return address


async def test_a_contract_is_the_same_in_both_forms(api: Api) -> None:
    address = await deployed(api, ACCESS)
    view = await api.both(f"/v1/contracts/{format_address(address)}")
    assert view["owner"] == format_address(OWNER.public)
    assert view["stored_bytes"] > len(ACCESS)
    assert view["balance"] == "0"


async def test_a_query_sees_what_was_committed_and_changes_nothing(api: Api) -> None:
    address = await deployed(api, ACCESS)
    path, chain = f"/v1/contracts/{format_address(address)}/query", api.validator.chain

    async def allowed() -> str:
        answer = await api.http.get(path, params={"method": "allowed", "arguments": READER.hex()})
        return str(answer.json()["output"])

    assert await allowed() == "00"
    grant = CallContract(address, "grant", READER + (10**6).to_bytes(8, "little"), 0, 10**9, 2_000_000)
    receipt = await sent(api, grant)
    assert receipt["events"] == [{"contract": format_address(address), "topic": "granted", "data": READER.hex()}]
    assert receipt["fuel"] > 100_000
    assert await allowed() == "01"
    before = chain.contract(address)
    tried = await api.http.get(path, params={"method": "request", "sender": format_address(READER)})
    check_problem(tried, 409, "contract_read_only")
    assert chain.contract(address) == before


async def test_a_failed_call_has_a_reason_in_its_receipt(api: Api) -> None:
    address = await deployed(api, ACCESS)
    receipt = await sent(api, CallContract(address, "revoke", bytes(32), 0, 0, 2_000_000))
    assert (receipt["code"], receipt["reason"], receipt["events"]) == ("contract_reverted", "no such grant", [])


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ({}, 400, "malformed"),
        ({"method": "m" * 33}, 400, "malformed"),
        ({"method": "allowed", "arguments": "zz"}, 400, "malformed"),
        ({"method": "allowed", "arguments": "00" * 8_193}, 413, "oversized"),
        ({"method": "allowed", "fuel": "0"}, 400, "malformed"),
        ({"method": "allowed", "fuel": "10000001"}, 400, "malformed"),
        ({"method": "allowed", "sender": "me"}, 400, "invalid_address"),
        ({"method": "nothing"}, 409, "unknown_method"),
        ({"method": "init"}, 409, "unknown_method"),
        ({"method": "allowed"}, 409, "contract_reverted"),
        ({"method": "allowed", "arguments": "00" * 32, "fuel": "120000"}, 409, "out_of_fuel"),
    ],
)
async def test_what_is_wrong_with_a_query_is_said(api: Api, query: dict[str, str], status: int, code: str) -> None:
    address = await deployed(api, ACCESS)
    check_problem(await api.http.get(f"/v1/contracts/{format_address(address)}/query", params=query), status, code)


async def test_there_is_not_always_a_contract(api: Api) -> None:
    nobody = format_address(b"n" * 32)
    check_problem(await api.http.get(f"/v1/contracts/{nobody}"), 404, "not_found")
    check_problem(await api.http.get(f"/v1/contracts/{nobody}/query", params={"method": "x"}), 409, "unknown_contract")
    check_problem(await api.http.get("/v1/contracts/me"), 400, "invalid_address")


async def test_endless_queries_hold_up_nobody_and_too_many_are_refused(api: Api) -> None:
    address = await deployed(api, module('(func (export "run") (loop $l (br $l)))'))
    path = f"/v1/contracts/{format_address(address)}/query"
    asked = [api.http.get(path, params={"method": "run"}) for _ in range(WAITING + 20)]
    answers = await asyncio.gather(*asked, api.http.get("/livez"))
    assert answers[-1].status_code == 200
    codes = {answer.json()["code"] for answer in answers[:-1]}
    assert "out_of_fuel" in codes
    assert codes <= {"out_of_fuel", "busy"}
    height = api.validator.chain.applied_height
    await until(lambda: api.validator.chain.applied_height > height)
