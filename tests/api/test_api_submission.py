"""`POST /v1/transactions`: outcomes, and everything that a client can get wrong."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress

import httpx2
import msgspec
import pytest

from blockcloud.primitives import codec
from blockcloud.primitives.amounts import GENESIS_SUPPLY_MICRO_BLOC
from blockcloud.primitives.limits import HTTP_BODY_BYTES, SUBMISSION_TRANSACTIONS
from tests.api.api_world import Api, check_problem
from tests.node.cluster import USERS, Cluster, until

pytestmark = pytest.mark.asyncio(loop_scope="session")

TARGET = USERS[3].public


async def test_waiting_for_the_commit_gives_receipts_in_order(api: Api) -> None:
    payloads = api.net.transfers(1, 5)
    receipts = await api.committed(*payloads)
    assert [receipt["code"] for receipt in receipts] == ["ok"] * 5
    places = [(receipt["height"], receipt["index"]) for receipt in receipts]
    assert places == sorted(places)
    assert all(receipt["fee_micro_bloc"] > 0 for receipt in receipts)


async def test_not_waiting_says_accepted_and_the_receipt_comes_later(api: Api) -> None:
    (item,) = await api.submit(*api.net.transfers(1, 1))
    assert item == {"id": item["id"], "status": "accepted"}
    await until(lambda: api.validator.chain.receipt(bytes.fromhex(item["id"])))
    assert (await api.http.get(f"/v1/transactions/{item['id']}")).json()["code"] == "ok"


async def test_the_same_again_gives_the_same_receipt(api: Api) -> None:
    payloads = api.net.transfers(1, 1)
    assert await api.committed(*payloads) == await api.committed(*payloads)


async def test_each_item_has_its_own_outcome(api: Api) -> None:
    net = api.net
    await api.committed(*net.transfers(2, 1))
    sequence = net.sequences[2]
    good = net.transfer(2, sequence, TARGET, 1)
    tampered = good[:-1] + bytes([good[-1] ^ 1])
    other_chain = Cluster(net.folder, _renamed(net)).transfer(2, sequence, TARGET, 1)
    items = await api.submit(
        b"garbage",
        tampered,
        other_chain,
        net.transfer(2, 0, TARGET, 5),
        net.transfer(2, sequence, TARGET, 1, valid_until=0),
        good,
        net.transfer(2, sequence + 1, TARGET, GENESIS_SUPPLY_MICRO_BLOC),
        wait="committed",
        timeout="20000",
    )
    net.sequences[2] = sequence + 2
    assert [(item["status"], item.get("code")) for item in items] == [
        ("rejected", "malformed"),
        ("rejected", "bad_signature"),
        ("rejected", "wrong_chain"),
        ("rejected", "stale_sequence"),
        ("rejected", "expired"),
        ("committed", None),
        ("committed", "insufficient_balance"),
    ]
    assert all(item["hint"] for item in items[:5])
    assert items[6]["receipt"]["code"] == "insufficient_balance"


async def test_what_is_above_capacity_is_busy_and_says_when_to_come_again(api: Api) -> None:
    submissions = api.validator.submissions
    held = 2 * submissions.limit
    submissions.reserved += held
    try:
        (item,) = await api.submit(api.net.transfer(4, 0, TARGET, 1))
    finally:
        submissions.reserved -= held
    assert item["status"] == item["code"] == "busy"
    assert item["retry_after_ms"] > 0
    assert "receipt" not in item


async def test_a_node_that_makes_no_blocks_says_so_instead_of_busy(api: Api) -> None:
    api.validator.core.proposing = False
    try:
        answer = await api.http.post("/v1/transactions", content=codec.encode([api.net.transfer(4, 0, TARGET, 1)]))
    finally:
        api.validator.core.proposing = True
    check_problem(answer, 503, "not_taking_part")


def _renamed(net: Cluster) -> object:
    return msgspec.structs.replace(net.genesis, name="another")


BAD_BODIES = {
    "nothing": (b"", 400, "malformed"),
    "not msgpack": (b"\xc1", 400, "malformed"),
    "json": (b'["x"]', 400, "malformed"),
    "not a list": (codec.encode(b"x"), 400, "malformed"),
    "a list of numbers": (codec.encode([1, 2]), 400, "malformed"),
    "cut short": (codec.encode([b"x" * 40])[:-1], 400, "malformed"),
    "more behind it": (codec.encode([b"x"]) + b"\x00", 400, "malformed"),
    "a longer header than needed": (b"\xdd\x00\x00\x00\x01" + codec.encode(b"x"), 400, "non_canonical"),
    "an empty list": (codec.encode([]), 413, "oversized"),
    "too many": (codec.encode([b"x"] * (SUBMISSION_TRANSACTIONS + 1)), 413, "oversized"),
    "too many bytes": (bytes(HTTP_BODY_BYTES + 1), 413, "oversized"),
}


@pytest.mark.parametrize("bad", BAD_BODIES)
async def test_a_bad_body_is_a_problem(api: Api, bad: str) -> None:
    body, status, code = BAD_BODIES[bad]
    check_problem(await api.http.post("/v1/transactions", content=body), status, code)


async def test_a_body_of_undeclared_length_is_bounded_too(api: Api) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(9):
            yield bytes(HTTP_BODY_BYTES // 8)

    check_problem(await api.http.post("/v1/transactions", content=pieces()), 413, "oversized")


async def test_a_body_without_end_is_cut_off(api: Api) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while sent < 64 * HTTP_BODY_BYTES:
            sent += 256 * 1024
            yield bytes(256 * 1024)

    with suppress(httpx2.TransportError):
        check_problem(await api.http.post("/v1/transactions", content=endless()), 413, "oversized")
    assert sent < 8 * HTTP_BODY_BYTES
    assert (await api.http.get("/livez")).status_code == 200


@pytest.mark.parametrize(
    "query",
    [{"wait": "maybe"}, {"wait": ""}, {"timeout": "0"}, {"timeout": "-1"}, {"timeout": "soon"}, {"timeout": "9" * 30}],
)
async def test_a_bad_question_is_a_problem(api: Api, query: dict[str, str]) -> None:
    answer = await api.http.post("/v1/transactions", params=query, content=codec.encode([b"x"]))
    check_problem(answer, 400, "malformed")
