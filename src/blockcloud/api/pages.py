"""Lists that are given in pages: how many at most, and behind which one."""

from __future__ import annotations

from typing import Final

from fastapi import Request

from blockcloud.api.answers import hex_bytes, optional_integer
from blockcloud.api.description import query

LIMIT: Final = query("limit", "How many at most.", minimum=1)
AFTER: Final = query("after", "`next` of the page before.", kind="string")


def page_of(request: Request, most: int) -> tuple[int, bytes | None]:
    """(How many, the id behind which the page begins) that a request asks for. Raises Malformed."""
    after = request.query_params.get("after")
    return optional_integer(request, "limit", 1, most) or most, None if after is None else hex_bytes(after, 32)
