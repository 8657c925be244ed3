"""A CoAP server and client that know nothing of BlockCloud: aiocoap, each with a UDP socket on loopback."""

from __future__ import annotations

import asyncio
import socket

import aiocoap
from aiocoap import resource

LARGE = bytes(range(256)) * 20  # goes in blocks (RFC 7959)


class Counting(resource.ObservableResource):
    """How often it was asked; PUT sets it, and observers hear of it."""

    def __init__(self) -> None:
        super().__init__()
        self.value = 0

    async def render_get(self, request: aiocoap.Message) -> aiocoap.Message:
        self.value += 1
        return aiocoap.Message(payload=str(self.value).encode())

    async def render_put(self, request: aiocoap.Message) -> aiocoap.Message:
        self.value = int(request.payload)
        self.updated_state()
        return aiocoap.Message(code=aiocoap.CHANGED)


class Large(resource.Resource):
    """More than one datagram holds."""

    async def render_get(self, request: aiocoap.Message) -> aiocoap.Message:
        return aiocoap.Message(payload=LARGE)


async def coap_server() -> tuple[aiocoap.Context, int]:
    """(server, its port)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    site = resource.Site()
    site.add_resource(["count"], Counting())
    site.add_resource(["large"], Large())
    server = await aiocoap.Context.create_server_context(
        site, bind=("127.0.0.1", port), transports=["simplesocketserver"]
    )
    return server, port


async def coap_client() -> aiocoap.Context:
    return await aiocoap.Context.create_client_context(transports=["simple6"])


async def ask(
    client: aiocoap.Context, port: int, path: str, code: aiocoap.Code = aiocoap.GET, payload: bytes = b""
) -> bytes:
    """The answer's payload."""
    message = aiocoap.Message(code=code, uri=f"coap://127.0.0.1:{port}/{path}", payload=payload)
    async with asyncio.timeout(20):
        answer = await client.request(message).response
    assert answer.code.is_successful(), answer
    content: bytes = answer.payload
    return content
