"""Service files and address records at a routing node. What is stored was checked, and is checked again by readers."""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter, Request, Response

from blockcloud.api.answers import answer, bounded_body, hex_bytes, wants_msgpack
from blockcloud.api.description import ERRORS, described
from blockcloud.api.problems import NotFound
from blockcloud.node.validator import Validator
from blockcloud.primitives.limits import ADDRESS_RECORD_BYTES, SERVICE_FILE_BYTES
from blockcloud.primitives.names import parse_name
from blockcloud.routing.errors import HashMismatch
from blockcloud.routing.service_file import service_file_hash

TD_MEDIA_TYPE: Final = "application/td+json"
RECORD_MEDIA_TYPE: Final = "application/cose"
HASH_BYTES: Final = 32


def routing_routes(validator: Validator) -> APIRouter:
    """The routes over `validator`'s routing role."""
    router = APIRouter(prefix="/v1", tags=["routing"], responses=ERRORS)

    @router.put(
        "/service-files/{file_hash}",
        status_code=204,
        summary="Store a service file that the ledger announces",
        openapi_extra=described(body=TD_MEDIA_TYPE, answers=(), status=204),
    )
    async def put_file(request: Request, file_hash: str) -> Response:
        wanted = hex_bytes(file_hash, HASH_BYTES)
        data = await bounded_body(request, SERVICE_FILE_BYTES)
        if service_file_hash(data) != wanted:
            raise HashMismatch("the body does not have this hash", wanted=wanted.hex()[:16])
        validator.routing.put_service_file(data)
        return Response(status_code=204)

    @router.get(
        "/service-files/{file_hash}",
        summary="A service file by its hash",
        openapi_extra=described(answers=(TD_MEDIA_TYPE,)),
    )
    async def get_file(file_hash: str) -> Response:
        data = await validator.routing.service_file(hex_bytes(file_hash, HASH_BYTES))
        if data is None:
            raise NotFound("no service file with this hash is held here")
        return Response(data, media_type=TD_MEDIA_TYPE)

    @router.put(
        "/address-records",
        status_code=204,
        summary="Store a signed address record",
        openapi_extra=described(body=RECORD_MEDIA_TYPE, answers=(), status=204),
    )
    async def put_record(request: Request) -> Response:
        validator.routing.put_address_record(await bounded_body(request, ADDRESS_RECORD_BYTES))
        return Response(status_code=204)

    @router.get("/address-records/{name}", summary="The live address records of a name", openapi_extra=described())
    async def get_records(request: Request, name: str) -> Response:
        """As msgpack: the signed bytes; as JSON: the same in hexadecimal."""
        records = validator.routing.address_records(parse_name(name))
        return answer(request, records if wants_msgpack(request) else [record.hex() for record in records])

    return router
