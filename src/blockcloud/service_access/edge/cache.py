"""The cache of an edge node: a subset of RFC 9111 for a shared cache, with stale-if-error of RFC 5861. Sans-IO.

What it holds was verified before (`http_signature`), and is good for as long as its verification is: `until_s` is the
end of the signature. Ages count from the signed time of creation, not from Date and Age, which nobody signs.

Stored are answers to GET without Authorization, of a status that is understood, that a shared cache may store and that
are fresh for a while or can be revalidated. Fresh means max-age or s-maxage; nothing is guessed. Times are Unix seconds
and `now` is an argument.
"""

from __future__ import annotations

import enum
import functools
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final, NamedTuple

from blockcloud.service_access.edge.cache_control import CacheControl, parse_cache_control
from blockcloud.service_access.edge.http_message import (
    HOP_BY_HOP,
    Fields,
    Request,
    Response,
    combined,
    values,
    without,
)
from blockcloud.service_access.edge.http_signature import SIGNED_STATUS, varied_by

CACHE_BYTES: Final = 64 * 1024 * 1024
OBJECT_BYTES: Final = 4 * 1024 * 1024
VARIANTS: Final = 16
ENTRY_OVERHEAD_BYTES: Final = 1_024  # objects around the content, measured generously
ERROR_STATUS: Final = (500, 502, 503, 504)
SAFE_METHODS: Final = ("GET", "HEAD", "OPTIONS", "TRACE")

Variant = tuple[tuple[str, str | None], ...]


class Key(NamedTuple):
    """What a stored response answers, but for what it varies by."""

    name: str
    method: str
    path: str
    query: str

    @classmethod
    def of(cls, name: str, request: Request) -> Key:
        """The key of a request to the service `name`."""
        return cls(name, request.method, request.path, request.query)


class Kind(enum.Enum):
    """What a look into the cache found."""

    MISS = "miss"
    STALE = "stale"  # there, and to be revalidated before it is used
    HIT = "hit"


@dataclass(frozen=True)
class Stored:
    """A verified response. Its age was 0 at `born_s`; it may not be served from `until_s` on. `key` signed it; `digest`
    (SHA-256 of the content) stands for a signature where the service file lists it."""

    response: Response
    born_s: float
    until_s: float
    key: bytes = b""
    digest: bytes = b""

    @functools.cached_property
    def rules(self) -> CacheControl:
        """Of its Cache-Control."""
        return parse_cache_control(combined(self.response.fields, "cache-control"))

    @functools.cached_property
    def size_bytes(self) -> int:
        """What it counts for in the cache."""
        fields = sum(len(name) + len(value) for name, value in self.response.fields)
        return len(self.response.body) + fields + ENTRY_OVERHEAD_BYTES

    @functools.cached_property
    def head(self) -> bytes:
        """The bytes before its content, without what changes with the time and without the empty line at the end."""
        fields = without(self.response.fields, (*HOP_BY_HOP, "age", "cache-status"))
        return Response(self.response.status, fields).head().removesuffix(b"\r\n")

    def age_s(self, now: float) -> int:
        """Whole seconds since its age was 0."""
        return max(0, int(now - self.born_s))

    def is_fresh(self, now: float) -> bool:
        """Whether it may be served without asking."""
        rules = self.rules
        fresh_s = rules.freshness_s
        return not rules.no_cache and fresh_s is not None and self.age_s(now) < fresh_s and now < self.until_s

    def is_usable_on_error(self, now: float) -> bool:
        """Whether it may be served while the provider fails (RFC 5861 section 4)."""
        rules = self.rules
        if rules.no_cache or rules.must_revalidate or rules.stale_if_error is None or now >= self.until_s:
            return False
        return self.age_s(now) <= (rules.freshness_s or 0) + rules.stale_if_error


@dataclass(frozen=True, slots=True)
class Found:
    """`stored` is None for a miss."""

    kind: Kind
    stored: Stored | None = None


MISS: Final = Found(Kind.MISS)


def why_not_shared(request: Request) -> str:
    """Why a request is neither answered from the cache nor its answer stored; empty if it may be."""
    if request.method != "GET":
        return "method"
    if values(request.fields, "authorization"):
        return "authorization"
    if values(request.fields, "range"):
        return "range"
    if parse_cache_control(combined(request.fields, "cache-control")).no_store:
        return "request-no-store"
    return ""


def why_not_stored(
    request: Request, response: Response, *, object_bytes: int = OBJECT_BYTES, listed: bool = False
) -> str:
    """Why a response may not be stored; empty if it may. What the service file lists is good for as long as it does."""
    rules = parse_cache_control(combined(response.fields, "cache-control"))
    reasons = (
        (bool(why_not_shared(request)), why_not_shared(request)),
        (response.status not in SIGNED_STATUS, "status"),
        (rules.no_store, "no-store"),
        (rules.private, "private"),
        (bool(values(response.fields, "set-cookie")), "set-cookie"),
        (varied_by(response.fields) is None, "vary"),
        (len(response.body) > object_bytes, "size"),
        (not (listed or rules.freshness_s or _validated(response)), "age"),
    )
    return next((reason for applies, reason in reasons if applies), "")


def _validated(response: Response) -> bool:
    return bool(values(response.fields, "etag") or values(response.fields, "last-modified"))


def conditional(request: Request, stored: Stored) -> Request:
    """`request`, asking whether `stored` still holds (RFC 9111 4.3.1)."""
    fields = without(request.fields, ("if-none-match", "if-modified-since", "if-match", "if-unmodified-since"))
    if etag := combined(stored.response.fields, "etag"):
        fields += (("if-none-match", etag),)
    elif modified := combined(stored.response.fields, "last-modified"):
        fields += (("if-modified-since", modified),)
    return Request(request.method, request.target, fields)


def freshened(stored: Response, not_modified: Response) -> Response:
    """`stored` with the fields of a 304 in place of its own (RFC 9111 3.2, 4.3.4): the answer that the 304 stands for.
    It is not verified yet."""
    newer = without(not_modified.fields, HOP_BY_HOP)
    return Response(stored.status, without(stored.fields, {name for name, _ in newer}) + newer, stored.body)


def is_not_modified(request: Request, response: Response) -> bool:
    """Whether the condition that a client set says that it has `response` already (RFC 9110 13.1.2)."""
    condition = combined(request.fields, "if-none-match")
    etag = combined(response.fields, "etag")
    if condition is None or etag is None:
        return False
    return condition.strip() == "*" or etag.removeprefix("W/") in (
        item.strip().removeprefix("W/") for item in condition.split(",")
    )


class Cache:
    """Responses within `max_bytes` together, each within `object_bytes`; the least recently used go first."""

    def __init__(self, max_bytes: int = CACHE_BYTES, object_bytes: int = OBJECT_BYTES) -> None:
        self.max_bytes, self.object_bytes = max_bytes, min(object_bytes, max_bytes)
        self.bytes = 0
        self._entries: OrderedDict[tuple[Key, Variant], Stored] = OrderedDict()
        self._variants: dict[Key, list[Variant]] = {}  # newest last

    def __len__(self) -> int:
        return len(self._entries)

    def lookup(self, key: Key, request: Request, now: float, *, digest: bytes = b"") -> Found:
        """What is stored for `request`. `digest` is the one that the service file lists for the path now, if any."""
        for variant in reversed(self._variants.get(key, ())):
            if all(combined(request.fields, name) == value for name, value in variant):
                return self._judge((key, variant), request, now, digest)
        return MISS

    def _judge(self, place: tuple[Key, Variant], request: Request, now: float, digest: bytes) -> Found:
        stored = self._entries[place]
        if stored.digest or digest:
            if stored.digest != digest:
                self._remove(place)  # the service file says something else now
                return MISS
            self._entries.move_to_end(place)
            return Found(Kind.HIT, stored)
        self._entries.move_to_end(place)
        asked = parse_cache_control(combined(request.fields, "cache-control"))
        young_enough = asked.max_age is None or stored.age_s(now) <= asked.max_age
        if stored.is_fresh(now) and young_enough and not asked.no_cache:
            return Found(Kind.HIT, stored)
        return Found(Kind.STALE, stored)

    def store(self, key: Key, request: Request, stored: Stored) -> str:
        """Keep a response, in place of an older one for the same; why not, or empty if it is kept."""
        listed = bool(stored.digest)
        if reason := why_not_stored(request, stored.response, object_bytes=self.object_bytes, listed=listed):
            return reason
        if stored.size_bytes > self.max_bytes:
            return "size"
        names = varied_by(stored.response.fields) or ()
        variant = tuple((name, combined(request.fields, name)) for name in names)
        place = (key, variant)
        if place in self._entries:
            self._remove(place)
        variants = self._variants.setdefault(key, [])
        variants.append(variant)
        self._entries[place] = stored
        self.bytes += stored.size_bytes
        if len(variants) > VARIANTS:
            self._remove((key, variants[0]))
        while self.bytes > self.max_bytes:
            self._remove(next(iter(self._entries)))
        return ""

    def invalidate(self, key: Key) -> None:
        """Forget all variants: something else may be there now (RFC 9111 4.4)."""
        for variant in tuple(self._variants.get(key, ())):
            self._remove((key, variant))

    def _remove(self, place: tuple[Key, Variant]) -> None:
        self.bytes -= self._entries.pop(place).size_bytes
        key, variant = place
        variants = self._variants[key]
        variants.remove(variant)
        if not variants:
            del self._variants[key]


def fields_for_client(stored: Stored, now: float) -> Fields:
    """The fields under which a stored response is served: its own, and its age."""
    return (*without(stored.response.fields, ("age",)), ("age", str(stored.age_s(now))))
