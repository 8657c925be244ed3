"""Contracts: what they are, and what their methods answer. A query runs the method in a thread, over the newest applied
state, with bounded fuel; few at a time, and what it would change is dropped."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any, Final

from fastapi import APIRouter, Request, Response

from blockcloud.api.answers import answer, hex_bytes, optional_integer
from blockcloud.api.description import ERRORS, described, query
from blockcloud.api.problems import NotFound
from blockcloud.api.views import contract_view
from blockcloud.node.applying import SharedChain
from blockcloud.node.validator import Validator
from blockcloud.primitives.addresses import parse_address
from blockcloud.primitives.errors import Busy, Malformed, Oversized
from blockcloud.service_chain.contracts.limits import ARGUMENT_BYTES, METHOD_BYTES, TRANSACTION_FUEL
from blockcloud.service_chain.contracts.runtime import Call, ContractRuntime
from blockcloud.service_chain.working_state import WorkingState

THREADS: Final = 2
WAITING: Final = 64
BUSY_MS: Final = 200
CACHED_RECORDS: Final = 1_024  # one query's; it cannot read more with its fuel


class Queries:
    """Threads that run queries, each with an engine of its own. At most WAITING are under way, the rest is refused."""

    def __init__(self, chain: SharedChain) -> None:
        self._chain = chain
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="contract-query")
        self._runtimes: SimpleQueue[ContractRuntime] = SimpleQueue()
        for _ in range(THREADS):
            self._runtimes.put(ContractRuntime(chain.genesis.contracts))
        self._under_way = 0

    async def ask(self, contract: bytes, method: str, arguments: bytes, sender: bytes, fuel: int) -> dict[str, Any]:
        """What the method answers. Raises Busy, or the failure of the contract."""
        if self._under_way >= WAITING:
            raise Busy("too many queries of contracts", retry_after_ms=BUSY_MS, limit=WAITING)
        self._under_way += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(
                self._pool, self._run, contract, method, arguments, sender, fuel
            )
        finally:
            self._under_way -= 1

    def _run(self, contract: bytes, method: str, arguments: bytes, sender: bytes, fuel: int) -> dict[str, Any]:
        chain, runtime = self._chain, self._runtimes.get()
        try:
            height = chain.applied_height
            state = WorkingState(lambda key: chain.get(key, height), CACHED_RECORDS)
            deposit = chain.genesis.fees.new_key_deposit
            output, used = runtime.query(state, Call(contract, sender, method, arguments, 0, fuel, height, deposit))
        finally:
            self._runtimes.put(runtime)
        return {"output": output.hex(), "fuel": used, "height": height}


def contract_routes(validator: Validator) -> APIRouter:
    """The routes over `validator`."""
    router = APIRouter(prefix="/v1/contracts", tags=["contracts"], responses=ERRORS)
    chain = validator.chain
    queries = Queries(chain)

    @router.get("/{address}", summary="A contract: code, owner, balance, deposit", openapi_extra=described())
    async def contract(request: Request, address: str) -> Response:
        key = parse_address(address)
        record = chain.contract(key)
        if record is None:
            raise NotFound("there is no contract at this address", address=address)
        account = chain.account(key)
        return answer(request, contract_view(key, record, account.balance if account else 0))

    parameters = (
        query("method", "Name of the method.", kind="string", required=True),
        query("arguments", "In hexadecimal.", kind="string"),
        query("sender", "Address that the method takes for its caller.", kind="string"),
        query("fuel", "At most so much fuel.", minimum=1, maximum=TRANSACTION_FUEL),
    )

    @router.get(
        "/{address}/query",
        summary="What a method answers at the newest applied state; changes nothing",
        openapi_extra=described(*parameters),
    )
    async def ask(request: Request, address: str) -> Response:
        values = request.query_params
        method, arguments = values.get("method", ""), hex_bytes(values.get("arguments", ""))
        if not 1 <= len(method) <= METHOD_BYTES:
            raise Malformed(f"method= names a method, in at most {METHOD_BYTES} characters")
        if len(arguments) > ARGUMENT_BYTES:
            raise Oversized("the arguments are too long", bytes=len(arguments), limit=ARGUMENT_BYTES)
        sender = parse_address(values["sender"]) if "sender" in values else bytes(32)
        fuel = optional_integer(request, "fuel", 1, TRANSACTION_FUEL) or TRANSACTION_FUEL
        return answer(request, await queries.ask(parse_address(address), method, arguments, sender, fuel))

    return router
