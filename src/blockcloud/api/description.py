"""What `/openapi.json` says beyond paths and summaries: parameters, bodies, and that every error is a problem."""

from __future__ import annotations

from typing import Any, Final

from blockcloud.api.answers import JSON, MSGPACK
from blockcloud.api.problems import MEDIA_TYPE

_TEXT: Final = {"type": "string"}
_PROBLEM: Final = {
    "type": "object",
    "required": ["type", "title", "status", "detail", "code"],
    "properties": {
        "type": _TEXT,
        "title": _TEXT,
        "status": {"type": "integer"},
        "detail": _TEXT,
        "code": {"type": "string", "description": "Stable; what scripts should look at."},
        "hint": {"type": "string", "description": "What to do."},
        "retry_after_ms": {"type": "integer"},
    },
}
# Of every route. That they stand here also keeps FastAPI from promising its own form of errors.
ERRORS: Final[dict[int | str, dict[str, Any]]] = {
    "4XX": {"description": "The request is wrong", "content": {MEDIA_TYPE: {"schema": _PROBLEM}}},
    "5XX": {"description": "The node cannot answer", "content": {MEDIA_TYPE: {"schema": _PROBLEM}}},
}


def described(
    *parameters: dict[str, Any], body: str = "", answers: tuple[str, ...] = (JSON, MSGPACK), status: int = 200
) -> dict[str, Any]:
    """The `openapi_extra` of a route: its query parameters, the media type of its body, those of its answer."""
    content: dict[str, Any] = {media: {} for media in answers}
    extra: dict[str, Any] = {"responses": {str(status): {"description": "Done", "content": content}}}
    if parameters:
        extra["parameters"] = list(parameters)
    if body:
        schema = {"type": "string", "format": "binary"}
        extra["requestBody"] = {"required": True, "content": {body: {"schema": schema}}}
    return extra


def query(name: str, text: str, *, kind: str = "integer", required: bool = False, **schema: Any) -> dict[str, Any]:
    """A query parameter."""
    return {
        "name": name,
        "in": "query",
        "required": required,
        "description": text,
        "schema": {"type": kind, **schema},
    }
