"""`GET /v1/events`: commits, checkpoints and what transactions told, as server-sent events.

An event's id is its number. A client that lost its connection sends the last number it has seen as `Last-Event-ID`, as
browsers do by themselves, and misses nothing that the node still remembers.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import StreamingResponse

from blockcloud.api.answers import INTEGER_DIGITS
from blockcloud.api.description import ERRORS, described
from blockcloud.node.events import Subscription
from blockcloud.node.validator import Validator

EVENT_STREAM: Final = "text/event-stream"
# A comment when nothing happens for so long, so that both ends notice a connection that is dead.
KEEP_ALIVE_SECONDS: Final = 15.0
_HEADER: Final = {
    "name": "Last-Event-ID",
    "in": "header",
    "required": False,
    "description": "Go on after this event.",
    "schema": {"type": "string", "pattern": "^[0-9]+$"},
}


def event_routes(validator: Validator) -> APIRouter:
    """The routes over `validator`'s event stream."""
    router = APIRouter(prefix="/v1", tags=["events"], responses=ERRORS)

    @router.get(
        "/events",
        summary="Server-sent events: one for each commit, each certified checkpoint, and what transactions told",
        openapi_extra=described(_HEADER, answers=(EVENT_STREAM,)),
    )
    async def events(request: Request) -> StreamingResponse:
        last = request.headers.get("last-event-id", "")
        known = last.isascii() and last.isdigit() and len(last) <= INTEGER_DIGITS
        subscription = validator.subscribe(int(last) if known else None)  # refuses here, before an answer has begun
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(_stream(subscription), media_type=EVENT_STREAM, headers=headers)

    return router


async def _stream(subscription: Subscription) -> AsyncIterator[bytes]:
    """Events as far as the node still remembers them, then each new one, until the node stops."""
    async with subscription:
        following = aiter(subscription)
        yield b": events follow\n\n"
        while True:
            try:
                async with asyncio.timeout(KEEP_ALIVE_SECONDS):
                    event = await anext(following)
            except TimeoutError:
                yield b": still here\n\n"
                continue
            except StopAsyncIteration:
                return
            yield b"id: %d\nevent: %s\ndata: %s\n\n" % (
                event.number,
                event.kind.encode(),
                msgspec.json.encode(event.data),
            )
