"""A real validator with its API on loopback, and what a client of it needs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import msgspec

from blockcloud.api.connections import LimitedConnection
from blockcloud.api.server import ApiServer, build_app
from blockcloud.node.validator import Validator
from blockcloud.primitives import codec
from blockcloud.primitives.keys import SigningKey
from blockcloud.service_chain.operations import Operation
from blockcloud.service_chain.transaction import TransactionBody, sign_transaction
from tests.node.cluster import Cluster, cluster, until

MSGPACK = {"Accept": "application/msgpack"}
PROBLEM = "application/problem+json"
ATTEMPTS = 20  # to get both forms of an answer without a commit in between


@dataclass
class Api:
    """One validator that is a committee by itself, and an HTTP client of its API."""

    net: Cluster
    validator: Validator
    http: httpx2.AsyncClient
    port: int

    @property
    def host(self) -> str:
        return self.validator.config.api_host

    async def submit(self, *payloads: bytes, **query: str) -> list[dict[str, Any]]:
        """The items of the answer to `POST /v1/transactions`."""
        answer = await self.http.post("/v1/transactions", params=query, content=codec.encode(list(payloads)))
        assert answer.status_code == 200, answer.text
        return list(answer.json())

    async def committed(self, *payloads: bytes) -> list[dict[str, Any]]:
        """The receipts of transactions that are all to succeed."""
        items = await self.submit(*payloads, wait="committed", timeout="20000")
        assert [item["status"] for item in items] == ["committed"] * len(payloads), items
        return [item["receipt"] for item in items]

    async def sent(self, user: SigningKey, *operations: Operation) -> int:
        """Execute a transaction of `user`, which must succeed; the height, once its effect can be seen."""
        chain = self.validator.chain
        account = chain.account(user.public)
        assert account is not None
        body = TransactionBody(chain.chain_id, user.public, 0, account.sequence, 10**6, 10**6, operations)
        (receipt,) = await self.committed(sign_transaction(body, user))
        assert receipt["code"] == "ok", receipt
        await until(lambda: chain.applied_height >= receipt["height"])
        return int(receipt["height"])

    async def both(self, path: str, **query: str) -> Any:
        """The answer's content, which JSON and msgpack must agree on: where a commit came in between, asked again."""
        for _ in range(ATTEMPTS):
            as_json = await self.http.get(path, params=query)
            as_msgpack = await self.http.get(path, params=query, headers=MSGPACK)
            assert (as_json.status_code, as_msgpack.status_code) == (200, 200), as_json.text
            assert as_json.headers["content-type"] == "application/json"
            assert as_msgpack.headers["content-type"] == "application/msgpack"
            if (await self.http.get(path, params=query)).content == as_json.content:
                break
        assert as_json.json() == msgspec.msgpack.decode(as_msgpack.content)
        return as_json.json()


@asynccontextmanager
async def serving(net: Cluster, *, connection: type[LimitedConnection] = LimitedConnection) -> AsyncIterator[Api]:
    """The API of validator 0 of `net`."""
    validator = net.running[0]
    host = validator.config.api_host
    server = ApiServer(build_app(validator, host), host, validator.config.api_port, connection=connection)
    await server.start()
    try:
        async with httpx2.AsyncClient(base_url=f"http://{host}:{server.port}", timeout=30, trust_env=False) as http:
            yield Api(net, validator, http, server.port)
    finally:
        await server.stop()


@asynccontextmanager
async def running_api(folder: Path, **how: Any) -> AsyncIterator[Api]:
    """A new ledger of one validator, with its API."""
    async with cluster(folder, 1) as net, serving(net, **how) as api:
        yield api


def check_problem(answer: httpx2.Response, status: int, code: str) -> dict[str, Any]:
    """The answer is a problem+json that says so."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == PROBLEM
    body = dict(answer.json())
    assert body["code"] == code, body
    assert body["status"] == status
    assert body["type"] == f"urn:blockcloud:error:{code}"
    assert body["title"]
    assert body["detail"]
    assert "Traceback" not in answer.text
    return body
