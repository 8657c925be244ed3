"""What can be read from the ledger: accounts, names and their history, proofs, checkpoints, committees of all eras and
how one hands over to the next."""

from __future__ import annotations

import asyncio
from typing import Final

from fastapi import APIRouter, Request, Response

from blockcloud.api.answers import MSGPACK, answer, optional_integer, wants_msgpack, whole_number
from blockcloud.api.description import ERRORS, described, query
from blockcloud.api.namespaces import terms_view
from blockcloud.api.problems import NotFound
from blockcloud.api.state import state_key
from blockcloud.api.views import (
    account_view,
    candidate_view,
    checkpoint_view,
    committee_view,
    handover_view,
    proven_view,
)
from blockcloud.node.applying import SharedChain
from blockcloud.node.proving import certificate_at, certificate_from, certificate_until, prove_value
from blockcloud.node.validator import Validator
from blockcloud.primitives import codec
from blockcloud.primitives.addresses import parse_address
from blockcloud.primitives.errors import Malformed
from blockcloud.primitives.names import parent_of, parse_name
from blockcloud.service_chain.handover import Handover
from blockcloud.service_chain.kinds import name_view
from blockcloud.service_chain.machine import HISTORY_ENTRIES
from blockcloud.service_chain.namespaces import terms_of
from blockcloud.service_chain.proven import ProvenValue

HIGHEST: Final = 2**53
# How a request for a proof may say which height it is for.
PLACES: Final = {"height": certificate_at, "from": certificate_from, "until": certificate_until}
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
        if height is not None:
            chain.require_reached(height)
        record = chain.name(parse_name(name), height)
        if record is None:
            raise NotFound("no such name is registered" if height is None else "no such name at this height", name=name)
        at = chain.applied_height if height is None else height
        above = parent_of(name)
        namespace = chain.namespace(above, at) if above else None
        terms = terms_of(name, namespace, at, chain.genesis.naming, record.registered_height)
        return answer(request, {**name_view(record), "renewal": terms_view(terms)})

    _add_history(router, chain)


def _add_history(router: APIRouter, chain: SharedChain) -> None:
    before = query("before", "Only changes below this height: `before` of the page above.", minimum=1, maximum=HIGHEST)
    limit = query("limit", "Changes of the page at most.", minimum=1, maximum=HISTORY_ENTRIES)

    @router.get(
        "/names/{name}/history",
        summary="Every state that a name had, oldest first, the newest page first",
        openapi_extra=described(before, limit),
    )
    async def history(request: Request, name: str) -> Response:
        """`before` asks for the page below; null: this one begins with the first operation on the name, or with the
        oldest that this node knows (`pruned_below`)."""
        page = optional_integer(request, "limit", 1, HISTORY_ENTRIES) or HISTORY_ENTRIES
        top = optional_integer(request, "before", 1, HIGHEST)
        entries = await asyncio.to_thread(chain.history, parse_name(name), page, top)
        if not entries:
            raise NotFound("no such name is registered" if top is None else "no change below this height", name=name)
        height, first = entries[0]
        pruned = 0 < first.previous_height < chain.oldest_height
        return answer(
            request,
            {
                "name": name,
                "history": [{"height": changed, **name_view(record)} for changed, record in entries],
                "before": height if first.previous_height and not pruned else None,
                "pruned_below": chain.oldest_height if pruned else None,
            },
        )


def _add_proofs(router: APIRouter, validator: Validator) -> None:
    key_parameter = query("key", "State key in hexadecimal.", kind="string", required=True, pattern="^([0-9a-f]{2})+$")
    places = (
        query("height", "Of a certified checkpoint; default: the newest.", minimum=0, maximum=HIGHEST),
        query("from", "Instead: at the first provable height from this one on.", minimum=0, maximum=HIGHEST),
        query("until", "Instead: at the last provable height up to this one.", minimum=0, maximum=HIGHEST),
    )

    @router.get(
        "/proof",
        summary="A state value, or its absence, with proof and certificate",
        openapi_extra=described(key_parameter, *places),
    )
    async def proof(request: Request) -> Response:
        """As msgpack: the canonical bytes of the proven value, which a light client checks."""
        text = request.query_params.get("key")
        if text is None:
            raise Malformed("which key? say key= in hexadecimal")
        proven = await _proven(request, validator, state_key(text))
        if wants_msgpack(request):
            return Response(codec.encode(proven), media_type=MSGPACK)
        return answer(request, proven_view(proven))

    _add_checkpoint(router, validator)


async def _proven(request: Request, validator: Validator, key: bytes) -> ProvenValue:
    """What a request for a proof asks for. The newest is in memory; what is older is read in a thread."""
    asked = [place for place in PLACES if place in request.query_params]
    if not asked:
        return validator.proven(key)
    if len(asked) > 1:
        raise Malformed("one of height, from and until", given=asked)
    height = optional_integer(request, asked[0], 0, HIGHEST) or 0

    def past() -> ProvenValue:
        certificate = PLACES[asked[0]](validator.chain, validator.tables, height)
        return prove_value(validator.chain, validator.tables, key, certificate)

    return await asyncio.to_thread(past)


def _add_checkpoint(router: APIRouter, validator: Validator) -> None:
    @router.get("/checkpoint", summary="The newest certified checkpoint", openapi_extra=described())
    async def checkpoint(request: Request) -> Response:
        if validator.certificate is None:
            raise NotFound("no checkpoint is certified yet")
        return answer(request, checkpoint_view(validator.certificate))
