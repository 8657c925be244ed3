"""What can be read from the ledger: accounts, names and their history, proofs, checkpoints, the committee."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from blockcloud.api.problems import NotFound
from blockcloud.api.views import MSGPACK, account_view, answer, hex_bytes, name_view, optional_integer
from blockcloud.node.validator import Validator
from blockcloud.primitives import codec
from blockcloud.primitives.addresses import format_address, parse_address
from blockcloud.primitives.errors import Oversized
from blockcloud.primitives.limits import STATE_KEY_BYTES
from blockcloud.primitives.names import parse_name

HIGHEST = 2**53


def query_routes(validator: Validator) -> APIRouter:
    """The routes over `validator`."""
    router = APIRouter(prefix="/v1", tags=["ledger"])
    _add_network(router, validator)
    _add_accounts_and_names(router, validator)
    _add_proofs(router, validator)
    return router


def _add_network(router: APIRouter, validator: Validator) -> None:
    @router.get("/status", summary="Height, level, checkpoint, committee, peers, health")
    async def status(request: Request) -> Response:
        return answer(request, validator.status())

    @router.get("/committee/{era}", summary="The committee of an era")
    async def committee(request: Request, era: int) -> Response:
        if era != 0:
            raise NotFound("the committee of this era is not known", era=era)
        members = validator.committee.members
        return answer(
            request,
            {
                "era": era,
                "quorum": validator.committee.quorum,
                "members": [
                    {"key": m.key.hex(), "address": format_address(m.key), "bond_micro_bloc": m.bond} for m in members
                ],
            },
        )


def _add_accounts_and_names(router: APIRouter, validator: Validator) -> None:
    chain = validator.chain

    @router.get("/accounts/{address}", summary="Balance and next sequence of an account")
    async def account(request: Request, address: str) -> Response:
        key = parse_address(address)
        return answer(request, account_view(key, chain.account(key)))

    @router.get("/names/{name}", summary="A name, now or at a height")
    async def name(request: Request, name: str) -> Response:
        height = optional_integer(request, "height", 0, HIGHEST)
        record = chain.name(parse_name(name), height)
        if record is None:
            raise NotFound("no such name is registered" if height is None else "no such name at this height", name=name)
        return answer(request, name_view(record))

    @router.get("/names/{name}/history", summary="Every state that a name had, oldest first")
    async def history(request: Request, name: str) -> Response:
        entries = chain.history(parse_name(name))
        return answer(
            request,
            {
                "name": name,
                "history": [{"height": height, **name_view(record)} for height, record in entries if record],
            },
        )


def _add_proofs(router: APIRouter, validator: Validator) -> None:
    @router.get("/proof", summary="A state value, or its absence, with proof and certificate")
    async def proof(request: Request) -> Response:
        """Query: `key=` in hexadecimal, `height=` of a certified checkpoint. As msgpack: the raw canonical bytes."""
        key = hex_bytes(request.query_params.get("key", ""))
        if not 1 <= len(key) <= STATE_KEY_BYTES:
            raise Oversized(f"a state key has 1 to {STATE_KEY_BYTES} bytes", bytes=len(key))
        proven = validator.proven(key, optional_integer(request, "height", 0, HIGHEST))
        if MSGPACK in request.headers.get("accept", ""):
            return Response(codec.encode(proven), media_type=MSGPACK)
        return answer(
            request,
            {
                "key": key.hex(),
                "value": proven.value.hex() or None,
                "height": proven.certificate.statement.height,
                "proof": proven.proof.hex(),
                "certificate": codec.encode(proven.certificate).hex(),
                "commit": proven.commit.hex(),
            },
        )

    @router.get("/checkpoint", summary="The newest certified checkpoint")
    async def checkpoint(request: Request) -> Response:
        certificate = validator.certificate
        if certificate is None:
            raise NotFound("no checkpoint is certified yet")
        statement = certificate.statement
        return answer(
            request,
            {
                "height": statement.height,
                "commit_digest": statement.digests[0].hex(),
                "state_root": statement.digests[1].hex(),
                "signers": [signer.hex() for signer, _ in certificate.signatures],
                "certificate": codec.encode(certificate).hex(),
            },
        )
