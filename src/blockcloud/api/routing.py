"""Service files and address records at a routing node. What is stored was checked, and is checked again by readers."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from blockcloud.api.problems import NotFound
from blockcloud.api.views import MSGPACK, answer, hex_bytes
from blockcloud.node.validator import Validator
from blockcloud.primitives.errors import Malformed
from blockcloud.primitives.names import parse_name
from blockcloud.routing.service_file import service_file_hash

TD_MEDIA_TYPE = "application/td+json"
RECORD_MEDIA_TYPE = "application/cose"


def routing_routes(validator: Validator) -> APIRouter:
    """The routes over `validator`'s routing role."""
    router = APIRouter(prefix="/v1", tags=["routing"])

    @router.put("/service-files/{file_hash}", summary="Store a service file that the ledger announces")
    async def put_file(request: Request, file_hash: str) -> Response:
        data = await request.body()
        if service_file_hash(data) != hex_bytes(file_hash, 32):
            raise Malformed("the body does not have this hash")
        validator.put_service_file(data)
        return Response(status_code=204)

    @router.get("/service-files/{file_hash}", summary="A service file by its hash")
    async def get_file(file_hash: str) -> Response:
        data = validator.routing_table.file(hex_bytes(file_hash, 32))
        if data is None:
            raise NotFound("no service file with this hash is held here")
        return Response(data, media_type=TD_MEDIA_TYPE)

    @router.put("/address-records", summary="Store a signed address record")
    async def put_record(request: Request) -> Response:
        validator.put_address_record(await request.body())
        return Response(status_code=204)

    @router.get("/address-records/{name}", summary="The live address records of a name")
    async def get_records(request: Request, name: str) -> Response:
        records = validator.address_records(parse_name(name))
        if MSGPACK in request.headers.get("accept", ""):
            return answer(request, records)
        return answer(request, [record.hex() for record in records])

    return router
