"""`/v1/agreements`: those of an account, and one of them; `/v1/names/{name}/offer`: what is sold under a name."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final

from fastapi import APIRouter, Request, Response

from blockcloud.api.answers import answer, hex_bytes
from blockcloud.api.description import ERRORS, described, query
from blockcloud.api.pages import AFTER, LIMIT, page_of
from blockcloud.api.problems import NotFound
from blockcloud.node.validator import Validator
from blockcloud.primitives.addresses import format_address, parse_address
from blockcloud.primitives.amounts import format_amount
from blockcloud.primitives.names import parse_name
from blockcloud.service_chain.agreements.keys import agreement_key, provider_key
from blockcloud.service_chain.agreements.records import Agreement, ProviderRecord
from blockcloud.service_chain.agreements.rules import claims_until_ms, status_of
from blockcloud.service_chain.machine import ServiceChain
from blockcloud.service_chain.proof_of_service.keys import service_key, standing_key
from blockcloud.service_chain.proof_of_service.records import NO_ERA, ServiceRecord, StandingRecord
from blockcloud.service_chain.records import decode_record

AGREEMENTS_PAGE: Final = 200

_PARTY: Final = query("party", "The account: client or provider.", kind="string", required=True)


def agreement_routes(validator: Validator) -> APIRouter:
    """The routes over `validator`."""
    router = APIRouter(prefix="/v1", tags=["ledger"], responses=ERRORS)
    chain = validator.chain

    @router.get("/agreements", summary="Agreements of an account", openapi_extra=described(_PARTY, LIMIT, AFTER))
    async def listed(request: Request) -> Response:
        """Those in which it is client or provider, by their ids; `status` is by this node's clock."""
        party = parse_address(request.query_params.get("party", ""))
        limit, after = page_of(request, AGREEMENTS_PAGE)
        return answer(request, await asyncio.to_thread(_agreements, chain, party, limit, after))

    @router.get("/agreements/{agreement}", summary="An agreement and its channel", openapi_extra=described())
    async def one(request: Request, agreement: str) -> Response:
        """`status` is by this node's clock."""
        identity = hex_bytes(agreement, 32)
        record = decode_record(chain.get(agreement_key(identity)), Agreement)
        if record is None:
            raise NotFound("there is no such agreement", agreement=agreement)
        return answer(request, agreement_view(identity, record, _now_ms()))

    @router.get("/names/{name}/offer", summary="What is sold under a name", openapi_extra=described())
    async def offer(request: Request, name: str) -> Response:
        """`price` is null where nothing is."""
        name = parse_name(name)
        record = chain.name(name)
        if record is None:
            raise NotFound("no such name was registered", name=name)
        offered = decode_record(chain.get(provider_key(record.owner, name)), ProviderRecord)
        service = decode_record(chain.get(service_key(name)), ServiceRecord)
        standing = decode_record(chain.get(standing_key(record.owner)), StandingRecord)
        quality = quality_view(record.owner, service, standing, chain.plan.era)
        return answer(request, {**offer_view(name, record.owner, offered), **quality})

    return router


def agreement_view(identity: bytes, record: Agreement, time_ms: int) -> dict[str, Any]:
    """An agreement and its channel at a time."""
    return {
        "agreement": identity.hex(),
        "status": status_of(record, time_ms).value,
        "name": record.name,
        "client": format_address(record.client),
        "provider": format_address(record.provider),
        "voucher_key": format_address(record.voucher_key),
        "unit": record.unit,
        "unit_price": format_amount(record.unit_price),
        "unit_price_micro_bloc": record.unit_price,
        "quality_ppm": record.quality_ppm,
        "start_ms": record.start_ms,
        "end_ms": record.end_ms,
        "claims_until_ms": claims_until_ms(record),
        "deposited": format_amount(record.deposited),
        "deposited_micro_bloc": record.deposited,
        "paid": format_amount(record.paid),
        "paid_micro_bloc": record.paid,
        "left": format_amount(record.balance),
        "matched": record.matched,
    }


def offer_view(name: str, provider: bytes, record: ProviderRecord | None) -> dict[str, Any]:
    """What the owner of a name has put up and offers under it."""
    offer = record.offer if record is not None else None
    return {
        "name": name,
        "provider": format_address(provider),
        "price": None if offer is None else f"{format_amount(offer.unit_price)}/{offer.unit}",
        "unit_price_micro_bloc": None if offer is None else offer.unit_price,
        "unit": None if offer is None else offer.unit,
        "quality_ppm": None if offer is None else offer.quality_ppm,
        "longest_ms": None if offer is None else offer.longest_ms,
        "sleep_ms": None if offer is None else offer.sleep_ms,
        "bond": format_amount(record.bond) if record is not None else "0",
        "agreements": record.live if record is not None else 0,
        "bond_held_until_ms": record.held_until_ms if record is not None else 0,
    }


def quality_view(
    provider: bytes, service: ServiceRecord | None, standing: StandingRecord | None, era: int
) -> dict[str, Any]:
    """What proof of service has found of what `provider` delivers: the medians of the last verdict, null if there was
    none; whether it stands accused; "good", "quarantined" or "banned" for convictions of before."""
    known = service if service is not None and service.provider == provider else None
    judged = known if known is not None and known.verdict_era != NO_ERA else None
    stands = "good"
    if standing is not None and (standing.banned or era <= standing.quarantine_era):
        stands = "banned" if standing.banned else "quarantined"
    return {
        "verdict_era": None if judged is None else judged.verdict_era,
        "failed_ppm": None if judged is None else judged.failed_ppm,
        "latency_ms": None if judged is None else judged.latency_ms,
        "throughput_kbps": None if judged is None else judged.throughput_kbps,
        "accused": known is not None and bool(known.case),
        "standing": stands,
    }


def _agreements(chain: ServiceChain, party: bytes, limit: int, after: bytes | None) -> dict[str, Any]:
    identities = chain.agreements_of(party, limit, after or b"")
    now_ms = _now_ms()
    views = []
    for identity in identities:
        record = decode_record(chain.get(agreement_key(identity)), Agreement)
        if record is not None:
            views.append(agreement_view(identity, record, now_ms))
    following = identities[-1].hex() if len(identities) == limit else None
    return {"party": format_address(party), "agreements": views, "next": following}


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
