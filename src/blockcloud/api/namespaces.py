"""`GET /v1/namespaces/{label}`: who opened a namespace, whether it is ready, and what its names cost."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from blockcloud.api.answers import answer
from blockcloud.api.description import ERRORS, described
from blockcloud.api.problems import NotFound
from blockcloud.node.validator import Validator
from blockcloud.primitives.addresses import format_address
from blockcloud.primitives.amounts import format_amount
from blockcloud.primitives.names import parse_name
from blockcloud.service_chain.name_price import PRICED_LENGTHS, price_of_length
from blockcloud.service_chain.namespaces import NamespaceStatus, Terms, namespace_status
from blockcloud.service_chain.records import NamespaceRecord


def namespace_routes(validator: Validator) -> APIRouter:
    """The routes over `validator`."""
    router = APIRouter(prefix="/v1", tags=["ledger"], responses=ERRORS)
    chain = validator.chain

    @router.get("/namespaces/{label}", summary="A namespace: owner, status, prices", openapi_extra=described())
    async def namespace(request: Request, label: str) -> Response:
        record = chain.namespace(parse_name(label))
        if record is None:
            raise NotFound("no such namespace was opened", namespace=label)
        return answer(request, namespace_view(record, chain.applied_height))

    return router


def namespace_view(record: NamespaceRecord, height: int) -> dict[str, Any]:
    """A namespace at `height`. `prices` are for labels of 1, 2, ... 16 and more characters, before discounts."""
    status, rule = namespace_status(record, height), record.rule
    prices = [price_of_length(rule, length + 1) for length in range(PRICED_LENGTHS)]
    return {
        "namespace": record.label,
        "owner": format_address(record.owner),
        "status": status.value,
        "height": height,
        "lifetime": record.lifetime,
        "grace": record.grace,
        "prices": [format_amount(price) for price in prices],
        "prices_micro_bloc": prices,
        "no_vowel_discount": rule.no_vowel_discount,
        "non_letter_discount": rule.non_letter_discount,
        "revealed_height": record.revealed_height,
        "ready_height": record.ready_height or None,
        "lapses_height": None if status is NamespaceStatus.READY else record.lapses_height,
    }


def terms_view(terms: Terms) -> dict[str, Any]:
    """What renewing a name means; `namespace` is null where the chain's own rules hold."""
    return {
        "namespace": terms.namespace or None,
        "price": format_amount(terms.price),
        "price_micro_bloc": terms.price,
        "lifetime": terms.lifetime,
        "grace": terms.grace,
    }
