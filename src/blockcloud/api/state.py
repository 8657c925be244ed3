"""The state as it was: any key at any height, what a commit changed, and the snapshots that this node has.

Values here are this node's word; `/v1/proof` proves them at the checkpoints. Snapshots prove themselves
(`service_chain/snapshot.py`), whoever serves them.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from fastapi import APIRouter, Request, Response

from blockcloud.api.answers import answer, hex_bytes, optional_integer, whole_number
from blockcloud.api.description import ERRORS, described, query
from blockcloud.api.problems import NotFound
from blockcloud.api.state_views import value_view
from blockcloud.node.validator import Validator
from blockcloud.primitives.errors import Oversized
from blockcloud.primitives.limits import STATE_KEY_BYTES
from blockcloud.service_chain.state.snapshot import PARTS

HIGHEST: Final = 2**53
# Entries of one page of changes, and bytes of values in it (a lone larger one still fits).
CHANGES_PAGE: Final = 256
CHANGES_PAGE_BYTES: Final = 256 * 1024
SNAPSHOT: Final = "application/octet-stream"
DIGEST_BYTES: Final = 32


def state_routes(validator: Validator) -> APIRouter:
    """The routes over `validator`."""
    router = APIRouter(prefix="/v1", tags=["state"], responses=ERRORS)
    _add_values(router, validator)
    _add_snapshots(router, validator)
    return router


def state_key(text: str) -> bytes:
    """A state key in hexadecimal. Raises Malformed or Oversized."""
    key = hex_bytes(text)
    if not 1 <= len(key) <= STATE_KEY_BYTES:
        raise Oversized(f"a state key has 1 to {STATE_KEY_BYTES} bytes", bytes=len(key))
    return key


def _add_values(router: APIRouter, validator: Validator) -> None:
    chain = validator.chain
    at = query("height", "As it was after the commit at this height.", minimum=0, maximum=HIGHEST)

    @router.get(
        "/state/{key}", summary="What stands under a state key, now or at a height", openapi_extra=described(at)
    )
    async def value(request: Request, key: str) -> Response:
        wanted = state_key(key)
        height = optional_integer(request, "height", 0, HIGHEST)
        height = chain.applied_height if height is None else height
        chain.require_reached(height)
        return answer(request, {"height": height, **value_view(wanted, chain.get(wanted, height))})

    after = query("after", "Only keys behind this one: `next` of the page before.", kind="string")
    limit = query("limit", "Entries of the page at most.", minimum=1, maximum=CHANGES_PAGE)

    @router.get(
        "/changes/{height}",
        summary="What the commit at a height changed, by key, a page at a time",
        openapi_extra=described(after, limit),
    )
    async def changes(request: Request, height: str) -> Response:
        text = request.query_params.get("after")
        page = optional_integer(request, "limit", 1, CHANGES_PAGE)
        return answer(
            request,
            await asyncio.to_thread(
                _changes_page,
                validator,
                whole_number(height, "height", 0, HIGHEST),
                b"" if text is None else state_key(text),
                CHANGES_PAGE if page is None else page,
            ),
        )


def _changes_page(validator: Validator, height: int, after: bytes, limit: int) -> dict[str, Any]:
    chain = validator.chain
    keys = chain.changes_at(height)
    left = [key for key in keys if key > after]
    entries: list[dict[str, Any]] = []
    room = CHANGES_PAGE_BYTES
    for key in left[:limit]:
        value = chain.get(key, height)
        room -= len(value or b"")
        if room < 0 and entries:
            break
        entries.append({**value_view(key, value), "deleted": value is None})
    last = entries[-1]["key"] if len(entries) < len(left) else None
    return {"height": height, "total": len(keys), "changes": entries, "next": last}


def _add_snapshots(router: APIRouter, validator: Validator) -> None:
    snapshots = validator.snapshots

    @router.get("/snapshots", summary="The snapshots that this node has, newest first", openapi_extra=described())
    async def listed(request: Request) -> Response:
        found = [{"era": offer.era, "manifest": offer.manifest.hex()} for offer in snapshots.offers()]
        return answer(request, {"snapshots": found})

    @router.get(
        "/snapshots/{manifest}/{piece}",
        summary="A piece of a snapshot: its manifest (0) or a chunk (from 1)",
        openapi_extra=described(answers=(SNAPSHOT,)),
    )
    async def piece(manifest: str, piece: str) -> Response:
        digest, number = hex_bytes(manifest, DIGEST_BYTES), whole_number(piece, "piece", 0, PARTS)
        data = await asyncio.to_thread(snapshots.piece, digest, number)
        if not data:
            raise NotFound("this node has no such snapshot, or no such piece of it", piece=number)
        return Response(data, media_type=SNAPSHOT)
