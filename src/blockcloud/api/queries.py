"""What can be read from the ledger: accounts, names and their history, proofs, checkpoints, committees of all eras and
how one hands over to the next."""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter, Request, Response

from blockcloud.api.answers import MSGPACK, answer, hex_bytes, optional_integer, wants_msgpack, whole_number
from blockcloud.api.description import ERRORS, described, query
from blockcloud.api.namespaces import terms_view
from blockcloud.api.problems import NotFound
from blockcloud.api.views import (
    account_view,
    candidate_view,
    checkpoint_view,
    committee_view,
    handover_view,
    name_view,
    proven_view,
)
from blockcloud.node.validator import Validator
from blockcloud.primitives import codec
from blockcloud.primitives.addresses import parse_address
from blockcloud.primitives.errors import Malformed, Oversized
from blockcloud.primitives.limits import STATE_KEY_BYTES
from blockcloud.primitives.names import parent_of, parse_name
from blockcloud.service_chain.handover import Handover
from blockcloud.service_chain.namespaces import terms_of

HIGHEST: Final = 2**53
_HEIGHT: Final = query("height", "As it was after the commit at this height.", minimum=0, maximum=HIGHEST)


def query_routes(validator: Validator) -> APIRouter:
    """The routes over `validator`."""
    router = APIRouter(prefix="/v1", tags=["ledger"], responses=ERRORS)
    _add_network(router, validator)
    _add_eras(router, validator)
    _add_accounts_and_names(router, validator)
    _add_proofs(router, validator)
    return router


def _add_network(router: APIRouter, validator: Validator) -> None:
    @router.get("/status", summary="Height, level, checkpoint, committee, peers, health", openapi_extra=described())
    async def status(request: Request) -> Response:
        return answer(request, validator.status())


def _add_eras(router: APIRouter, validator: Validator) -> None:
    chain = validator.chain

    @router.get("/committee/{era}", summary="The committee of an era, past or present", openapi_extra=described())
    async def committee(request: Request, era: str) -> Response:
        plan = chain.plan_of(whole_number(era, "era", 0, HIGHEST))
        if plan is None:
            raise NotFound("the committee of this era is not known yet", era=int(era), reached=validator.era)
        return answer(request, committee_view(plan))

    @router.get(
        "/handovers/{era}",
        summary="The hand-over into an era, signed by the committee of the era before",
        openapi_extra=described(),
    )
    async def handover(request: Request, era: str) -> Response:
        """As msgpack: the canonical bytes of the hand-over, which a light client checks."""
        number = whole_number(era, "era", 1, HIGHEST)
        plan, certificate = chain.plan_of(number), validator.tables.handover(number)
        if plan is None or certificate is None:
            raise NotFound("this node has no certificate of a hand-over into this era", era=number)
        found = Handover(certificate, plan)
        if wants_msgpack(request):
            return Response(codec.encode(found), media_type=MSGPACK)
        return answer(request, handover_view(found))

    @router.get("/candidates/{address}", summary="Who may sit in a committee, and its bond", openapi_extra=described())
    async def candidate(request: Request, address: str) -> Response:
        key = parse_address(address)
        found = chain.candidate(key)
        if found is None:
            raise NotFound("there is no candidate of this address", address=address)
        return answer(request, candidate_view(key, found, chain.withdrawable_ms, chain.stake(key)))


def _add_accounts_and_names(router: APIRouter, validator: Validator) -> None:
    chain = validator.chain

    @router.get(
        "/accounts/{address}", summary="Balance, next sequence and keys of an account", openapi_extra=described()
    )
    async def account(request: Request, address: str) -> Response:
        key = parse_address(address)
        return answer(request, account_view(key, chain.account(key), chain.account_keys(key)))

    @router.get("/names/{name}", summary="A name, now or at a height", openapi_extra=described(_HEIGHT))
    async def name(request: Request, name: str) -> Response:
        height = optional_integer(request, "height", 0, HIGHEST)
        if height is not None and height > chain.applied_height:
            raise NotFound("the ledger has not reached this height", height=height, reached=chain.applied_height)
        record = chain.name(parse_name(name), height)
        if record is None:
            raise NotFound("no such name is registered" if height is None else "no such name at this height", name=name)
        at = chain.applied_height if height is None else height
        above = parent_of(name)
        namespace = chain.namespace(above, at) if above else None
        terms = terms_of(name, namespace, at, chain.genesis.naming)
        return answer(request, {**name_view(record), "renewal": terms_view(terms)})

    @router.get("/names/{name}/history", summary="Every state that a name had, oldest first", openapi_extra=described())
    async def history(request: Request, name: str) -> Response:
        entries = chain.history(parse_name(name))
        if not entries:
            raise NotFound("no such name is registered", name=name)
        states = [{"height": height, **name_view(record)} for height, record in entries]
        return answer(request, {"name": name, "history": states})


def _add_proofs(router: APIRouter, validator: Validator) -> None:
    key_parameter = query("key", "State key in hexadecimal.", kind="string", required=True, pattern="^([0-9a-f]{2})+$")
    height_parameter = query("height", "Of a certified checkpoint; default: the newest.", minimum=0, maximum=HIGHEST)

    @router.get(
        "/proof",
        summary="A state value, or its absence, with proof and certificate",
        openapi_extra=described(key_parameter, height_parameter),
    )
    async def proof(request: Request) -> Response:
        """As msgpack: the canonical bytes of the proven value, which a light client checks."""
        text = request.query_params.get("key")
        if text is None:
            raise Malformed("which key? say key= in hexadecimal")
        key = hex_bytes(text)
        if not 1 <= len(key) <= STATE_KEY_BYTES:
            raise Oversized(f"a state key has 1 to {STATE_KEY_BYTES} bytes", bytes=len(key))
        proven = validator.proven(key, optional_integer(request, "height", 0, HIGHEST))
        if wants_msgpack(request):
            return Response(codec.encode(proven), media_type=MSGPACK)
        return answer(request, proven_view(proven))

    @router.get("/checkpoint", summary="The newest certified checkpoint", openapi_extra=described())
    async def checkpoint(request: Request) -> Response:
        if validator.certificate is None:
            raise NotFound("no checkpoint is certified yet")
        return answer(request, checkpoint_view(validator.certificate))
