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
from blockcloud.service_chain.name_price import PRICED_LENGTHS, PriceRule, price_of_length
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
    """A namespace at `height`. Each of `prices` is for labels of `from_characters` and more, up to the next one, before
    discounts."""
    status, rule = namespace_status(record, height), record.rule
    return {
        "namespace": record.label,
        "owner": format_address(record.owner),
        "status": status.value,
        "height": height,
        "lifetime": record.lifetime,
        "grace": record.grace,
        "prices": [
            {"from_characters": length, "price": format_amount(price), "price_micro_bloc": price}
            for length, price in _steps(rule)
        ],
        "no_vowel_discount": rule.no_vowel_discount,
        "non_letter_discount": rule.non_letter_discount,
        "revealed_height": record.revealed_height,
        "ready_height": record.ready_height or None,
        "lapses_height": None if status is NamespaceStatus.READY else record.lapses_height,
    }


def _steps(rule: PriceRule) -> list[tuple[int, int]]:
    """(length, micro-BLOC) where the price is another than that of one character less."""
    prices = [price_of_length(rule, length) for length in range(1, PRICED_LENGTHS + 1)]
    return [(index + 1, price) for index, price in enumerate(prices) if index == 0 or price != prices[index - 1]]


def terms_view(terms: Terms) -> dict[str, Any]:
    """What renewing a name means; `namespace` is null where the chain's own rules hold."""
    return {
        "namespace": terms.namespace or None,
        "price": format_amount(terms.price),
        "price_micro_bloc": terms.price,
        "lifetime": terms.lifetime,
        "grace": terms.grace,
    }
