"""The other side of the SDK's tests: a real service chain with four validator keys, and HTTP servers over its bytes.

Every transaction that comes in is a commit of its own, and every commit is a checkpoint that all of the era's members
certify. Eras end when a test says so (`hand_over`), with any committee; the state is the production service chain's.
What is served was made by the production service chain and routing table; a node can be told to misbehave.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import uvicorn
from starlette.requests import Request
from starlette.responses import Response

from blockcloud.api.policies import rules_of
from blockcloud.primitives import codec
from blockcloud.primitives.addresses import parse_address
from blockcloud.primitives.amounts import GENESIS_SUPPLY_MICRO_BLOC
from blockcloud.primitives.certificates import CHECKPOINT, Certificate, Statement
from blockcloud.primitives.errors import BlockCloudError, PeerFault
from blockcloud.primitives.hashes import ZERO_DIGEST, sha256
from blockcloud.primitives.keys import SigningKey
from blockcloud.primitives.merkle import merkle_root
from blockcloud.primitives.storage import Batch, MemoryStore
from blockcloud.routing.store import RoutingTable
from blockcloud.service_chain.genesis import Genesis, GenesisValidator, NamingParameters
from blockcloud.service_chain.handover import Handover
from blockcloud.service_chain.inclusion import ProvenTransaction, prove_transaction
from blockcloud.service_chain.kinds import name_view
from blockcloud.service_chain.machine import ServiceChain
from blockcloud.service_chain.proven import ProvenValue
from blockcloud.service_chain.state import FutureHeight
from blockcloud.service_chain.transaction import parse_transaction
from blockcloud.transaction_chain.block import Block, Header, genesis_reference, sign_block
from blockcloud.transaction_chain.commit import Commit, CommitRecord
from blockcloud.transaction_chain.era import EraPlan, Seat, handover_statement
from blockcloud.transaction_chain.parameters import Parameters

VALIDATORS = [SigningKey(bytes([number]) * 32) for number in range(1, 5)]
OWNER = SigningKey(b"o" * 32)
OTHER = SigningKey(b"p" * 32)
BOND = 1_000_000_000
START_MS = 1_800_000_000_000


class Ledger:
    """A chain whose commits are made by hand. `now_ms` is everybody's clock."""

    def __init__(
        self, urls: tuple[str, ...] = ("http://127.0.0.1:1",) * 4, *, name: str = "test", era_length: int = 600
    ) -> None:
        validators = tuple(
            GenesisValidator(key.public, BOND, url, "127.0.0.1:1") for key, url in zip(VALIDATORS, urls, strict=True)
        )
        rich = GENESIS_SUPPLY_MICRO_BLOC - 4 * BOND - 5_000_000
        self.genesis = Genesis(
            name,
            START_MS,
            Parameters(checkpoint_period=1, era_length=era_length, leader_table_period=min(100, era_length - 1)),
            NamingParameters(preorder_min=2, preorder_max=50, lifetime=60, grace=5),
            validators,
            ((OWNER.public, rich), (OTHER.public, 5_000_000)),
        )
        self.store = MemoryStore()
        self.chain = ServiceChain(self.genesis, self.store)
        self.chain_id = self.genesis.chain_id()
        self.now_ms = START_MS
        self.previous = self.chain_id
        self.commits: dict[int, CommitRecord] = {}
        self.blocks: dict[int, Block] = {}  # one for each commit
        self.outcomes: dict[bytes, str] = {}
        self.next_era: EraPlan | None = None  # what the chain itself says after the newest commit
        self.era = 0
        self.members = [VALIDATORS]  # of each era
        self.handovers: list[Handover] = []  # into eras 1, 2, ...

    def commit(self, *payloads: bytes, time_ms: int | None = None) -> int:
        """Execute one commit with these transactions; its height."""
        height = self.chain.height + 1
        parents = tuple(genesis_reference(author, self.chain_id) for author in range(4))
        time = self.now_ms if time_ms is None else time_ms
        header = Header(self.chain_id, self.era, 0, height, parents, time, merkle_root(payloads))
        block = sign_block(header, payloads, self.members[-1][0])
        record = CommitRecord(self.era, height, height, self.previous, (block.reference,), (block.reference,), time)
        self.previous = record.digest()
        batch = Batch()
        result = self.chain.execute(Commit(record, self.previous, (block,)), batch)
        self.store.write(batch, sync=False)
        self.next_era = result.next_era
        self.commits[height], self.blocks[height] = record, block
        self.outcomes.update(result.outcomes)
        return height

    def certificate(self, height: int, *, signers: list[SigningKey] | None = None, **changes: Any) -> Certificate:
        """The checkpoint's certificate at `height`; `changes` replace fields of the statement."""
        record = self.commits[height]
        digests = (record.digest(), self.chain.root_at(height))
        statement = Statement(CHECKPOINT, self.chain_id, record.era, height, digests)
        return certify(msgspec.structs.replace(statement, **changes), signers or self.members[record.era])

    def proven_transaction(self, identifier: bytes, certified: int) -> ProvenTransaction:
        """The proof of a committed transaction by the checkpoint at a height."""
        receipt = self.chain.receipt(identifier)
        assert receipt is not None
        commits = [codec.encode(self.commits[height]) for height in range(receipt.height, certified + 1)]
        return prove_transaction(self.blocks[receipt.height], receipt.index, commits, self.certificate(certified))

    def plan(self, members: list[SigningKey], bonds: list[int], **changes: Any) -> EraPlan:
        """The plan of an era after this one, with these members; `changes` replace its fields."""
        seats = tuple(Seat(key.public, key.public, bond, 1, "", "") for key, bond in zip(members, bonds, strict=True))
        beacon = sha256(self.commits[self.chain.height].digest())
        return msgspec.structs.replace(EraPlan(self.era + 1, self.chain.height + 1, beacon, 1, seats), **changes)

    def handover(self, plan: EraPlan, *, signers: list[SigningKey] | None = None, **changes: Any) -> Handover:
        """A hand-over after the newest commit; `changes` replace fields of the statement. Nothing of it is kept."""
        height = self.chain.height
        digests = (self.commits[height].digest(), self.chain.root_at(height))
        statement = msgspec.structs.replace(handover_statement(self.chain_id, height, *digests, plan), **changes)
        return Handover(certify(statement, signers or self.members[self.era]), plan)

    def hand_over(self, members: list[SigningKey] | None = None, bonds: list[int] | None = None) -> Handover:
        """End the era after the newest commit; the next is these members' (default: the same)."""
        members = members or self.members[-1]
        made = self.handover(self.plan(members, bonds or [BOND] * len(members)))
        self.handovers.append(made)
        self.members.append(members)
        self.era += 1
        self.previous = made.certificate.statement.digest()
        return made

    def proven(self, key: bytes, height: int | None = None) -> ProvenValue:
        """The proven value of a state key at a height (default: the newest)."""
        at = self.chain.height if height is None else height
        value = self.chain.get(key, at) or b""
        return ProvenValue(key, value, self.chain.prove(key, at), self.certificate(at), codec.encode(self.commits[at]))


def certify(statement: Statement, signers: list[SigningKey]) -> Certificate:
    """`statement` signed by `signers`, in the order that certificates have."""
    message = codec.encode(statement)
    signatures = sorted((key.public, key.sign("statement/v1", message)) for key in signers)
    return Certificate(statement, tuple(signatures))


Misbehaviour = Callable[[Request], Awaitable[Response | None]]


class Node:
    """One validator's API over the shared ledger. `misbehave` may answer in its place."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.table = RoutingTable(MemoryStore())
        self.misbehave: Misbehaviour | None = None
        self.requests: list[str] = []
        self.ticking = True  # each status question makes the ledger go on

    async def answer(self, request: Request, path: str) -> Response:
        self.requests.append(f"{request.method} {path}")
        if self.misbehave is not None:
            answer = await self.misbehave(request)
            if answer is not None:
                return answer
        try:
            return await self._route(request, path.strip("/").split("/")[1:])
        except PeerFault as error:
            return problem(error, 400)
        except BlockCloudError as error:
            return problem(error, 409)

    async def _route(self, request: Request, parts: list[str]) -> Response:
        ledger = self.ledger
        chain, table, now_s = ledger.chain, self.table, ledger.now_ms // 1_000
        match request.method, parts:
            case "POST", ["transactions"]:
                return as_json(
                    [self._execute(raw) for raw in codec.decode(await request.body(), list[bytes], limit=10**7)]
                )
            case "GET", ["status"]:
                if self.ticking:
                    ledger.commit()
                return as_json({"height": chain.height})
            case "GET", ["accounts", address]:
                account = chain.account(parse_address(address))
                return as_json({"sequence": account.sequence if account else 0})
            case "GET", ["proof"]:
                if chain.height == 0:
                    ledger.commit()
                # Every commit is a certified checkpoint, so the nearest one is always the height itself.
                places = [value for name, value in request.query_params.items() if name in ("height", "from", "until")]
                height = int(places[0]) if places else None
                if height is not None and height > chain.height:
                    raise FutureHeight(height=height, reached=chain.height)
                proven = ledger.proven(bytes.fromhex(request.query_params["key"]), height)
                return Response(codec.encode(proven), media_type="application/msgpack")
            case "GET", ["names", name, "history"]:
                entries = [{"height": height, **name_view(record)} for height, record in chain.history(name)]
                return as_json({"name": name, "history": entries, "before": None}) if entries else not_found()
            case "GET", ["handovers", number]:
                if not 1 <= int(number) <= len(ledger.handovers):
                    return not_found()
                data = codec.encode(ledger.handovers[int(number) - 1])
                return Response(data, media_type="application/msgpack")
            case "GET", ["transactions", identifier, "proof"]:
                found = bytes.fromhex(identifier)
                receipt = chain.receipt(found)
                if receipt is None:
                    return not_found()
                return Response(codec.encode(ledger.proven_transaction(found, receipt.height)))
            case "GET", ["transactions", identifier]:
                receipt = chain.receipt(bytes.fromhex(identifier))
                return as_json(view(receipt)) if receipt else not_found()
            case "GET", ["policies", name]:
                rules = rules_of(chain, name)
                return Response(codec.encode(rules)) if rules else not_found()
            case "PUT", ["service-files", _]:
                table.put_file(await request.body(), chain.is_announced)
                return Response(status_code=204)
            case "GET", ["service-files", file_hash]:
                data = table.file(bytes.fromhex(file_hash))
                return Response(data) if data else not_found()
            case "PUT", ["address-records"]:
                table.put_record(await request.body(), now_s, chain.instance_keys)
                return Response(status_code=204)
            case "GET", ["address-records", name]:
                return Response(msgspec.msgpack.encode(table.records(name, now_s)))
        return not_found()

    def _execute(self, raw: bytes) -> dict[str, Any]:
        chain = self.ledger.chain
        identifier = parse_transaction(raw).id
        try:
            chain.check(raw)
        except PeerFault as error:
            return {"id": identifier.hex(), "status": "rejected", "code": error.code}
        self.ledger.commit(raw)
        receipt, code = chain.receipt(identifier), self.ledger.outcomes[identifier]
        if receipt is None or code == "duplicate":
            return {"id": identifier.hex(), "status": "rejected", "code": code}
        return {"id": identifier.hex(), "status": "committed", "receipt": view(receipt)}


def view(receipt: Any) -> dict[str, Any]:
    return {
        "id": receipt.transaction_id.hex(),
        "height": receipt.height,
        "index": receipt.index,
        "code": receipt.code,
        "fee_micro_bloc": receipt.fee,
    }


def as_json(body: object) -> Response:
    return Response(msgspec.json.encode(body), media_type="application/json")


def problem(error: BlockCloudError, status: int, **more: object) -> Response:
    body = {"title": error.message, "status": status, "detail": str(error), "code": error.code, **more}
    return Response(msgspec.json.encode(body), status, media_type="application/problem+json")


def not_found() -> Response:
    body = {"title": "not found", "status": 404, "detail": "no such thing", "code": "not_found"}
    return Response(msgspec.json.encode(body), 404, media_type="application/problem+json")


class World:
    """Four nodes behind one listening socket, told apart by the first part of the path."""

    def __init__(self, ledger: Ledger, urls: tuple[str, ...]) -> None:
        self.ledger = ledger
        self.urls = urls
        self.nodes = [Node(ledger) for _ in urls]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        _, number, rest = scope["path"].split("/", 2)
        response = await self.nodes[int(number)].answer(Request(scope, receive), "/" + rest)
        await response(scope, receive, send)


@asynccontextmanager
async def running_world() -> AsyncIterator[World]:
    """A world that listens on a free port."""
    # asyncio turns Nagle's delay off only where the protocol is named; else every answer takes 40 ms.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    urls = tuple(f"http://127.0.0.1:{listener.getsockname()[1]}/{number}" for number in range(4))
    world = World(Ledger(urls), urls)
    server = uvicorn.Server(uvicorn.Config(world, log_level="critical", lifespan="off", ws="none"))
    task = asyncio.create_task(server.serve(sockets=[listener]))
    async with asyncio.timeout(10):
        while not server.started:
            await asyncio.sleep(0.01)
    try:
        yield world
    finally:
        server.should_exit = True
        await task
        listener.close()


__all__ = ["OTHER", "OWNER", "START_MS", "VALIDATORS", "ZERO_DIGEST", "Ledger", "World", "certify", "running_world"]
