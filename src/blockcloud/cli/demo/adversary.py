"""The adversaries of the demo: a node that lies about what the ledger holds. Each lie is well-formed and plausible."""

from __future__ import annotations

from collections.abc import Callable

import httpx2
import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from blockcloud.primitives import codec
from blockcloud.primitives.keys import SigningKey
from blockcloud.sdk.light_client import PROVEN_BYTES
from blockcloud.service_chain.proven import ProvenValue
from blockcloud.service_chain.records import NameRecord

Lie = Callable[[str, bytes], bytes]


def altered_service_file(path: str, body: bytes) -> bytes:
    """A service file whose text promises something else; everything else is passed on."""
    return body.replace(b"demo", b"dem0", 1) if "/service-files/" in path else body


def forged_owner(path: str, body: bytes) -> bytes:
    """A state answer in which a name belongs to the liar, with the true proof and certificate beside it."""
    if not path.endswith("/v1/proof"):
        return body
    proven = codec.decode(body, ProvenValue, limit=PROVEN_BYTES)
    record = codec.decode(proven.value, NameRecord, limit=len(proven.value))
    liar = SigningKey.generate().public
    stolen = msgspec.structs.replace(record, owner=liar, instance_keys=(liar,))
    return codec.encode(msgspec.structs.replace(proven, value=codec.encode(stolen)))


def lying_node(honest_url: str, lie: Lie) -> Starlette:
    """A node that answers with what the node at `honest_url` says, changed by `lie`."""

    async def relay(request: Request) -> Response:
        headers = {"accept": request.headers.get("accept", "*/*")}
        async with httpx2.AsyncClient(base_url=honest_url, timeout=10) as client:
            answer = await client.get(request.url.path, params=dict(request.query_params), headers=headers)
        body = lie(request.url.path, answer.content) if answer.status_code == 200 else answer.content
        return Response(body, answer.status_code, media_type=answer.headers.get("content-type"))

    return Starlette(routes=[Route("/{path:path}", relay, methods=["GET"])])
