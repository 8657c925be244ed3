"""Every route that answers: JSON and msgpack say the same, proofs verify, operations and documents are there."""

from __future__ import annotations

import re
import time
from typing import Any

import msgspec
import pytest

from blockcloud.primitives import codec
from blockcloud.primitives.addresses import format_address
from blockcloud.primitives.certificates import CERTIFICATE_BYTES, Certificate
from blockcloud.primitives.keys import SigningKey
from blockcloud.routing.service_file import build_service_file, service_file_hash
from blockcloud.sdk.light_client import LightClient
from blockcloud.service_access.addresses import Address
from blockcloud.service_access.announce import address_record
from blockcloud.service_chain.inclusion import ProvenTransaction
from blockcloud.service_chain.operations import Preorder, Register, name_commitment
from blockcloud.service_chain.proven import ProvenValue
from blockcloud.service_chain.state_keys import account_key, name_key
from blockcloud.service_chain.transaction import TransactionBody, sign_transaction
from tests.api.api_world import MSGPACK, Api
from tests.node.cluster import USERS, until

pytestmark = pytest.mark.asyncio(loop_scope="session")

NAME = "views.test"
OWNER = USERS[7]
INSTANCE = SigningKey(b"i" * 32)
FILE = build_service_file(NAME, "a service")


async def register_name(api: Api) -> None:
    """The name with a service file and an instance, once for all tests here."""
    if api.validator.chain.name(NAME) is not None:
        return
    naming, chain = api.net.genesis.naming, api.validator.chain
    salt = b"s" * 32
    operations: list[Any] = [
        Preorder(name_commitment(NAME, salt, OWNER.public)),
        Register(NAME, salt, service_file_hash(FILE), (INSTANCE.public,)),
    ]
    for sequence, operation in enumerate(operations):
        body = TransactionBody(chain.chain_id, OWNER.public, 0, sequence, 10**6, 10**6, (operation,))
        (receipt,) = await api.committed(sign_transaction(body, OWNER))
        opens = receipt["height"] + naming.preorder_min
        await until(lambda opens=opens: chain.applied_height + 1 >= opens)


async def test_an_account_is_the_same_in_both_forms(api: Api) -> None:
    known = await api.both(f"/v1/accounts/{format_address(USERS[6].public)}")
    assert known["exists"]
    assert known["balance_micro_bloc"] == api.validator.chain.account(USERS[6].public).balance  # type: ignore[union-attr]
    assert (known["threshold"], known["keys"], known["ended_lanes"]) == (1, [known["address"]], 0)
    nobody = await api.both(f"/v1/accounts/{format_address(b'n' * 32)}")
    assert nobody == {**nobody, "exists": False, "balance": "0", "balance_micro_bloc": 0, "sequence": 0}


async def test_a_name_and_its_history(api: Api) -> None:
    await register_name(api)
    now = await api.both(f"/v1/names/{NAME}")
    assert now["owner"] == format_address(OWNER.public)
    assert now["service_file_hash"] == service_file_hash(FILE).hex()
    assert now["instance_keys"] == [INSTANCE.public.hex()]
    height = now["registered_height"]
    assert await api.both(f"/v1/names/{NAME}", height=str(height)) == now
    assert (await api.http.get(f"/v1/names/{NAME}", params={"height": str(height - 1)})).status_code == 404
    rules = api.net.genesis.naming
    chains = {"namespace": None, "price": "0", "price_micro_bloc": 0}
    assert now.pop("renewal") == {**chains, "lifetime": rules.lifetime, "grace": rules.grace}
    assert now["held_until_height"] == now["expires_height"] + rules.grace
    history = await api.both(f"/v1/names/{NAME}/history")
    entries = [{"height": height, **now}]
    assert history == {"name": NAME, "history": entries, "before": None, "pruned_below": None}


async def test_a_service_file_and_an_address_record_are_stored_and_given_back(api: Api) -> None:
    await register_name(api)
    path = f"/v1/service-files/{service_file_hash(FILE).hex()}"
    assert (await api.http.put(path, content=FILE)).status_code == 204
    held = await api.http.get(path)
    assert (held.content, held.headers["content-type"]) == (FILE, "application/td+json")
    now_s = int(time.time())
    record = address_record(NAME, INSTANCE, (Address("tls", "127.0.0.1", 9),), sequence=1, now_s=now_s, lease_s=60)
    assert (await api.http.put("/v1/address-records", content=record)).status_code == 204
    as_json = await api.http.get(f"/v1/address-records/{NAME}")
    as_msgpack = await api.http.get(f"/v1/address-records/{NAME}", headers=MSGPACK)
    assert as_json.json() == [record.hex()]
    assert codec.decode(as_msgpack.content, list[bytes], limit=10_000) == [record]
    assert (await api.http.get("/v1/address-records/nobody.test")).json() == []


async def test_a_receipt(api: Api) -> None:
    (receipt,) = await api.committed(*api.net.transfers(0, 1))
    assert await api.both(f"/v1/transactions/{receipt['id']}") == receipt
    stored = api.validator.chain.receipt(bytes.fromhex(receipt["id"]))
    assert stored is not None
    assert (stored.height, stored.code, stored.fee) == (receipt["height"], "ok", receipt["fee_micro_bloc"])


async def test_the_place_of_a_transaction_is_proven_to_whoever_has_only_the_genesis(api: Api) -> None:
    receipts = await api.committed(*api.net.transfers(0, 7))
    genesis = api.net.genesis
    for receipt in receipts:
        identifier = bytes.fromhex(receipt["id"])
        path = f"/v1/transactions/{receipt['id']}/proof"
        await until(lambda height=receipt["height"]: api.validator.certificate.statement.height >= height)
        raw = (await api.http.get(path, headers=MSGPACK)).content
        proven = codec.decode(raw, ProvenTransaction, limit=10**6)
        weights = genesis.committee().weights_by_key
        assert proven.verify(identifier, genesis.chain_id(), weights) == receipt["height"]
        view = (await api.http.get(path)).json()
        assert view["transaction"] == proven.transaction.hex()
        assert view["commits"] == [commit.hex() for commit in proven.commits]
        assert codec.encode(proven.certificate).hex() == view["certificate"]


async def test_the_committee(api: Api) -> None:
    committee = await api.both("/v1/committee/0")
    (member,) = committee["members"]
    assert member["key"] == api.net.genesis.validators[0].key.hex()
    assert committee["quorum"] == api.validator.committee.quorum


async def test_status_has_what_scripts_rely_on(api: Api) -> None:
    await until(lambda: api.validator.certificate is not None)
    as_json = (await api.http.get("/v1/status")).json()
    as_msgpack = msgspec.msgpack.decode((await api.http.get("/v1/status", headers=MSGPACK)).content)
    assert as_json.keys() == as_msgpack.keys()
    stable = ("chain", "network", "era", "mode", "member", "committee", "peers", "health", "pid")
    assert [as_json[key] for key in stable] == [as_msgpack[key] for key in stable]
    promised = {"height", "level", "era", "mode", "state_root", "checkpoint", "committee", "peers", "health"}
    assert promised <= as_json.keys()
    assert as_json["checkpoint"].keys() == {"height", "state_root"}


async def test_a_checkpoint_verifies_under_the_genesis(api: Api) -> None:
    await until(lambda: api.validator.certificate is not None)
    view = (await api.http.get("/v1/checkpoint")).json()
    certificate = codec.decode(bytes.fromhex(view["certificate"]), Certificate, limit=CERTIFICATE_BYTES)
    certificate.verify(api.net.genesis.committee().weights_by_key)
    assert certificate.statement.height == view["height"]
    assert [digest.hex() for digest in certificate.statement.digests] == [view["commit_digest"], view["state_root"]]
    assert view["signers"] == [api.net.genesis.validators[0].key.hex()]


@pytest.mark.parametrize("key", [account_key(USERS[5].public), name_key("nobody.has.this")])
async def test_whoever_has_only_the_genesis_verifies_both_forms_of_a_proof(api: Api, key: bytes) -> None:
    await until(lambda: api.validator.certificate is not None)
    raw = (await api.http.get("/v1/proof", params={"key": key.hex()}, headers=MSGPACK)).content
    client = LightClient(api.net.genesis)
    proven = client.accept(raw, key, time.time_ns() // 1_000_000)
    assert proven.value == api.validator.chain.get(key, proven.height)
    view = (await api.http.get("/v1/proof", params={"key": key.hex(), "height": str(proven.height)})).json()
    rebuilt = ProvenValue(
        bytes.fromhex(view["key"]),
        bytes.fromhex(view["value"] or ""),
        bytes.fromhex(view["proof"]),
        codec.decode(bytes.fromhex(view["certificate"]), Certificate, limit=CERTIFICATE_BYTES),
        bytes.fromhex(view["commit"]),
    )
    assert codec.encode(rebuilt) == raw
    assert view["height"] == proven.height
    assert (view["value"] is None) == (proven.value is None)


async def test_probes_and_metrics(api: Api) -> None:
    assert (await api.http.get("/livez")).text == "ok\n"
    ready = await api.http.get("/readyz")
    assert (ready.status_code, ready.text) == (200, "ready\n")
    metrics = await api.http.get("/metrics")
    assert metrics.headers["content-type"].startswith("text/plain; version=")
    height = re.search(r"^blockcloud_height (\S+)$", metrics.text, re.MULTILINE)
    assert height is not None
    assert float(height[1]) > 0


async def test_every_route_is_described_and_promises_problems(api: Api) -> None:
    description = (await api.http.get("/openapi.json")).json()
    assert description["openapi"].startswith("3.1")
    routes = {(path, method) for path, methods in description["paths"].items() for method in methods}
    assert {
        ("/v1/transactions", "post"),
        ("/v1/transactions/{transaction_id}", "get"),
        ("/v1/transactions/{transaction_id}/proof", "get"),
        ("/v1/status", "get"),
        ("/v1/accounts/{address}", "get"),
        ("/v1/names/{name}", "get"),
        ("/v1/names/{name}/history", "get"),
        ("/v1/namespaces/{label}", "get"),
        ("/v1/contracts/{address}", "get"),
        ("/v1/contracts/{address}/query", "get"),
        ("/v1/proof", "get"),
        ("/v1/state/{key}", "get"),
        ("/v1/changes/{height}", "get"),
        ("/v1/snapshots", "get"),
        ("/v1/snapshots/{manifest}/{piece}", "get"),
        ("/v1/checkpoint", "get"),
        ("/v1/committee/{era}", "get"),
        ("/v1/handovers/{era}", "get"),
        ("/v1/candidates/{address}", "get"),
        ("/v1/events", "get"),
        ("/v1/policies/{name}", "get"),
        ("/v1/markets", "get"),
        ("/v1/markets/{market}", "get"),
        ("/v1/agreements", "get"),
        ("/v1/agreements/{agreement}", "get"),
        ("/v1/names/{name}/offer", "get"),
        ("/v1/roles/{role}", "get"),
        ("/v1/service-files/{file_hash}", "put"),
        ("/v1/service-files/{file_hash}", "get"),
        ("/v1/address-records", "put"),
        ("/v1/address-records/{name}", "get"),
        ("/livez", "get"),
        ("/readyz", "get"),
        ("/metrics", "get"),
    } == routes
    for path, methods in description["paths"].items():
        for route in methods.values():
            assert route["summary"]
            assert "422" not in route["responses"], "errors are problems, not FastAPI's own form"
            if path.startswith("/v1/"):
                assert list(route["responses"]["4XX"]["content"]) == ["application/problem+json"]


async def test_the_page_of_documents_needs_nobody_else(api: Api) -> None:
    page = await api.http.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert not re.findall(r"""(?:https?:)?//[a-z0-9]|src=|@import|<link""", page.text, re.IGNORECASE)
    assert re.findall(r"""fetch\("([^"]+)"\)""", page.text) == ["/openapi.json"]
