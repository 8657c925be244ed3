"""`GET /v1/events`: commits and checkpoints as server-sent events, resumable by `Last-Event-ID`."""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import StreamingResponse

from blockcloud.node.validator import Validator


def event_routes(validator: Validator) -> APIRouter:
    """The routes over `validator`'s event stream."""
    router = APIRouter(prefix="/v1", tags=["events"])

    @router.get("/events", summary="Server-sent events: one for each commit and each certified checkpoint")
    async def events(request: Request) -> StreamingResponse:
        last = request.headers.get("last-event-id", "")
        after = int(last) if last.isascii() and last.isdigit() and len(last) <= 18 else None
        return StreamingResponse(_stream(validator, after), media_type="text/event-stream")

    return router


async def _stream(validator: Validator, after: int | None) -> AsyncIterator[bytes]:
    """Events after the number `after`, as far as the node still remembers them, then each new one."""
    async with validator.subscribe(after) as subscription:
        async for event in subscription:
            yield b"id: %d\nevent: %s\ndata: %s\n\n" % (
                event.number,
                event.kind.encode(),
                msgspec.json.encode(event.data),
            )
