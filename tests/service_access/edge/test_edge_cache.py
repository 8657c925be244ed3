"""The cache of an edge node: transcripts of its rules, its limits, and `hishel` as the oracle of RFC 9111."""

from __future__ import annotations

import random
import uuid
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any

import pytest
from hishel import _core
from hishel._core import _spec
from hishel._core._headers import Headers
from hishel._core.models import Entry
from hishel._core.models import Request as TheirRequest
from hishel._core.models import Response as TheirResponse
from hypothesis import given, settings
from hypothesis import strategies as st

from blockcloud.service_access.edge.cache import (
    ENTRY_OVERHEAD_BYTES,
    VARIANTS,
    Cache,
    Key,
    Kind,
    Stored,
    conditional,
    freshened,
    is_not_modified,
    why_not_shared,
    why_not_stored,
)
from blockcloud.service_access.edge.cache_control import CacheControl, parse_cache_control
from blockcloud.service_access.edge.http_message import Fields, Request, Response, combined

NAME = "files.acme"
NOW = 1_800_000_000.0
FOREVER = NOW + 10**9
GET = Request("GET", "/a")


def response(rules: str = "max-age=10", *more: tuple[str, str], status: int = 200, body: bytes = b"x") -> Response:
    return Response(status, (("cache-control", rules), *more), body)


def cache_with(answer: Response, request: Request = GET, *, until: float = FOREVER, digest: bytes = b"") -> Cache:
    cache = Cache()
    assert cache.store(Key.of(NAME, request), request, Stored(answer, NOW, until, digest=digest)) == ""
    return cache


def kind(cache: Cache, now: float, request: Request = GET, *, digest: bytes = b"") -> Kind:
    return cache.lookup(Key.of(NAME, request), request, now, digest=digest).kind


# --- directives -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, CacheControl()),
        ("max-age=10, PRIVATE", CacheControl(max_age=10, private=True)),
        ('max-age="10" ,s-maxage=5', CacheControl(max_age=10, s_maxage=5)),
        ("max-age=x", CacheControl(max_age=0)),
        ("max-age=-1", CacheControl(max_age=0)),
        ("max-age", CacheControl(max_age=0)),
        ("max-age=10, max-age=3", CacheControl(max_age=3)),
        ('no-cache="set-cookie, x"', CacheControl(no_cache=True)),
        ('x="a, no-store"', CacheControl()),
        (",,;;=, no-store", CacheControl(no_store=True)),
        ("max-age=99999999999999999999", CacheControl(max_age=2**31)),
        ("proxy-revalidate,stale-if-error=4", CacheControl(stale_if_error=4, must_revalidate=True)),
    ],
)
def test_directives_are_read_on_the_safe_side(text: str | None, expected: CacheControl) -> None:
    assert parse_cache_control(text) == expected


@given(st.text(max_size=200))
def test_any_text_is_read_in_bounded_time(text: str) -> None:
    parse_cache_control(text)


# --- transcripts ------------------------------------------------------------------------------------------------------


def test_a_response_is_fresh_then_stale_and_its_age_counts_from_the_signature() -> None:
    cache = cache_with(response("max-age=10, stale-if-error=20"))
    assert [kind(cache, NOW + after) for after in (0, 9.9, 10)] == [Kind.HIT, Kind.HIT, Kind.STALE]
    stored = cache.lookup(Key.of(NAME, GET), GET, NOW + 3.7).stored
    assert stored is not None
    assert stored.age_s(NOW + 3.7) == 3
    assert [stored.is_usable_on_error(NOW + after) for after in (10, 30, 31)] == [True, True, False]


def test_the_end_of_the_signature_is_the_end_whatever_the_rules_say() -> None:
    cache = cache_with(response("max-age=1000, stale-if-error=1000"), until=NOW + 5)
    assert [kind(cache, NOW + after) for after in (4.9, 5)] == [Kind.HIT, Kind.STALE]
    stored = cache.lookup(Key.of(NAME, GET), GET, NOW + 5).stored
    assert stored is not None
    assert not stored.is_usable_on_error(NOW + 5)


def test_what_says_no_cache_is_asked_for_each_time_however_long_it_lasts() -> None:
    cache = cache_with(response("no-cache, max-age=100", ("etag", '"1"')))
    assert [kind(cache, NOW + after) for after in (0, 1)] == [Kind.STALE, Kind.STALE]


def test_s_maxage_alone_makes_fresh_and_zero_of_it_makes_stale() -> None:
    assert kind(cache_with(response("s-maxage=10")), NOW + 9) is Kind.HIT
    assert kind(cache_with(response("max-age=10, s-maxage=0", ("etag", '"1"'))), NOW) is Kind.STALE
    assert why_not_stored(GET, response("max-age=10, s-maxage=0")) == "age"


def test_an_object_that_is_larger_than_the_cache_pushes_nothing_out() -> None:
    cache = Cache(2 * ENTRY_OVERHEAD_BYTES)
    small, large = Request("GET", "/small"), Request("GET", "/large")
    assert cache.store(Key.of(NAME, small), small, Stored(response(), NOW, FOREVER)) == ""
    fits = response(body=bytes(cache.max_bytes - ENTRY_OVERHEAD_BYTES))  # but for its fields
    assert cache.store(Key.of(NAME, large), large, Stored(fits, NOW, FOREVER)) == "size"
    assert kind(cache, NOW, small) is Kind.HIT


def test_what_is_stored_again_counts_once() -> None:
    cache = cache_with(response(body=bytes(500)))
    assert cache.store(Key.of(NAME, GET), GET, Stored(response(), NOW, FOREVER)) == ""
    assert (len(cache), cache.bytes) == (1, Stored(response(), NOW, FOREVER).size_bytes)
    cache.invalidate(Key.of(NAME, GET))
    assert cache.bytes == 0


@pytest.mark.parametrize(
    ("rules", "usable"),
    [("max-age=1, stale-if-error=9", True), ("max-age=1", False), ("no-cache, stale-if-error=9", False)]
    + [(f"max-age=1, stale-if-error=9, {word}", False) for word in ("must-revalidate", "proxy-revalidate")],
)
def test_stale_only_where_the_provider_allows_it(rules: str, usable: bool) -> None:
    assert Stored(response(rules), NOW, FOREVER).is_usable_on_error(NOW + 5) is usable


def test_s_maxage_goes_before_max_age_and_a_request_may_want_it_younger() -> None:
    cache = cache_with(response("max-age=100, s-maxage=10"))
    assert [kind(cache, NOW + after) for after in (9, 10)] == [Kind.HIT, Kind.STALE]
    for wish, expected in (("no-cache", Kind.STALE), ("max-age=3", Kind.STALE), ("max-age=6", Kind.HIT)):
        assert kind(cache, NOW + 5, Request("GET", "/a", (("cache-control", wish),))) is expected


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (Request("POST", "/a"), "method"),
        (Request("HEAD", "/a"), "method"),
        (Request("GET", "/a", (("authorization", "x"),)), "authorization"),
        (Request("GET", "/a", (("range", "bytes=0-1"),)), "range"),
        (Request("GET", "/a", (("cache-control", "no-store"),)), "request-no-store"),
        (GET, ""),
    ],
)
def test_what_is_not_for_everybody_is_not_shared(request_: Request, reason: str) -> None:
    assert why_not_shared(request_) == reason
    assert why_not_stored(request_, response("public, max-age=9")) == reason


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (response("no-store, max-age=9"), "no-store"),
        (response("private, max-age=9"), "private"),
        (response("max-age=9", ("vary", "*")), "vary"),
        (response("max-age=9", ("set-cookie", "a=b")), "set-cookie"),
        (response("max-age=9", status=500), "status"),
        (response("max-age=9", status=206), "status"),
        (response("max-age=9", body=bytes(101)), "size"),
        (response("max-age=0"), "age"),
        (response("no-cache", ("etag", '"1"')), ""),
        (response("x", ("last-modified", "y")), ""),
        (response("max-age=9", status=404), ""),
    ],
)
def test_what_may_be_stored(answer: Response, reason: str) -> None:
    assert why_not_stored(GET, answer, object_bytes=100) == reason


def test_variants_are_told_apart_and_bounded() -> None:
    cache = Cache()
    for number in range(VARIANTS + 3):
        request = Request("GET", "/a", (("accept-language", f"l{number}"),))
        answer = response("max-age=10", ("vary", "Accept-Language"), body=b"%d" % number)
        cache.store(Key.of(NAME, request), request, Stored(answer, NOW, FOREVER))
    assert len(cache) == VARIANTS
    found = cache.lookup(Key.of(NAME, GET), Request("GET", "/a", (("accept-language", "l9"),)), NOW)
    assert found.stored is not None
    assert found.stored.response.body == b"9"
    assert kind(cache, NOW) is Kind.MISS, "without the field it is another variant"
    assert kind(cache, NOW, Request("GET", "/a", (("accept-language", "l0"),))) is Kind.MISS
    cache.invalidate(Key.of(NAME, GET))
    assert (len(cache), cache.bytes) == (0, 0)


def test_name_path_and_query_are_told_apart() -> None:
    cache = cache_with(response())
    assert kind(cache, NOW, Request("GET", "/a?")) is Kind.HIT, "an empty query is none"
    for other in (Request("GET", "/a?x"), Request("GET", "/A"), Request("GET", "/a/")):
        assert kind(cache, NOW, other) is Kind.MISS
    assert cache.lookup(Key.of("other.acme", GET), GET, NOW).kind is Kind.MISS


def test_what_the_service_file_lists_holds_as_long_as_it_is_listed() -> None:
    cache = cache_with(Response(200, (), b"x"), digest=b"d" * 32)
    assert kind(cache, NOW + 10**6, digest=b"d" * 32) is Kind.HIT
    assert kind(cache, NOW, digest=b"e" * 32) is Kind.MISS
    assert len(cache) == 0, "another file is listed now"
    cache = cache_with(Response(200, (), b"x"), digest=b"d" * 32)
    assert kind(cache, NOW) is Kind.MISS, "it is listed no more"


def test_a_304_replaces_the_fields_that_it_has() -> None:
    stored = response("max-age=1", ("etag", '"1"'), ("signature", "old"), ("x", "kept"))
    asked = conditional(Request("GET", "/a", (("if-none-match", '"theirs"'),)), Stored(stored, NOW, FOREVER))
    assert combined(asked.fields, "if-none-match") == '"1"'
    fresh = freshened(
        stored, Response(304, (("signature", "new"), ("cache-control", "max-age=9"), ("connection", "x")))
    )
    assert dict(fresh.fields) == {"cache-control": "max-age=9", "etag": '"1"', "signature": "new", "x": "kept"}
    assert (fresh.status, fresh.body) == (200, b"x")
    dated = Stored(response("max-age=1", ("last-modified", "then")), NOW, FOREVER)
    assert combined(conditional(GET, dated).fields, "if-modified-since") == "then"
    assert conditional(GET, Stored(response(), NOW, FOREVER)) == GET


@pytest.mark.parametrize(
    ("condition", "expected"), [('"1"', True), ('W/"1"', True), ('"0", "1"', True), ("*", True), ('"0"', False)]
)
def test_a_client_that_has_it_already_is_told_so(condition: str, expected: bool) -> None:
    request = Request("GET", "/a", (("if-none-match", condition),))
    assert is_not_modified(request, response("max-age=1", ("etag", '"1"'))) is expected
    assert not is_not_modified(GET, response("max-age=1", ("etag", '"1"')))


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 400), st.booleans()), max_size=60))
def test_the_limit_in_bytes_holds_and_the_least_recently_used_goes_first(
    steps: list[tuple[int, int, bool]],
) -> None:
    cache = Cache(4 * ENTRY_OVERHEAD_BYTES, 300)
    order: list[str] = []
    for number, size, reads in steps:
        request = Request("GET", f"/{number}")
        key = Key.of(NAME, request)
        if reads:
            if cache.lookup(key, request, NOW).kind is Kind.HIT:
                order.remove(request.target)
                order.append(request.target)
        elif cache.store(key, request, Stored(response(body=bytes(size)), NOW, FOREVER)) == "":
            order = [each for each in order if each != request.target] + [request.target]
        else:
            assert size > 300
        assert cache.bytes <= cache.max_bytes
        held = {f"/{each}" for each in range(10) if kind(cache, NOW, Request("GET", f"/{each}")) is Kind.HIT}
        order = order[len(order) - len(held) :]
        assert held == set(order), "what is held are the most recently used"
        for target in order:  # the look above has touched all of them: restore the order
            cache.lookup(Key.of(NAME, Request("GET", target)), Request("GET", target), NOW)


# --- the oracle -------------------------------------------------------------------------------------------------------


@dataclass
class Clock:
    """What hishel reads the time from."""

    now: float = NOW

    def time(self) -> float:
        return self.now


@dataclass
class Oracle:
    """hishel's states of RFC 9111 as a shared cache, over entries that this keeps. With `rfc=True` its transports run
    the same states; its other default does not even revalidate, which is why these are used directly."""

    entries: list[Entry] = field(default_factory=list)
    options: Any = field(default_factory=lambda: _core._spec.CacheOptions(shared=True, allow_stale=False))

    def may_reuse(self, request: Request) -> bool:
        return isinstance(_spec.IdleClient(options=self.options).next(theirs(request), self.entries), _spec.FromCache)

    def may_store(self, request: Request, answer: Response, date: float) -> bool:
        their = TheirResponse(answer.status, their_headers((*answer.fields, ("date", formatdate(date, usegmt=True)))))
        state: Any = _spec.CacheMiss(request=theirs(request), options=self.options).next(their)
        stored = isinstance(state, _spec.StoreAndUse)
        if stored:
            # What varies alike at the same place is replaced, as its storage does.
            asked = theirs(request)
            self.entries = [
                each
                for each in self.entries
                if each.request.url != asked.url or not _spec.vary_headers_match(asked, each)
            ]
            self.entries.append(Entry(uuid.uuid4(), theirs(request), state.response))
        return stored


def their_headers(fields: Fields) -> Headers:
    return Headers({name: combined(fields, name) or "" for name, _ in fields})


def theirs(request: Request) -> TheirRequest:
    return TheirRequest(request.method, f"http://{NAME}{request.target}", their_headers(request.fields))


def ours_is_stricter(request: Request, answer: Response) -> str:
    """Why we do not store what RFC 9111 allows to; empty where there is no such reason."""
    rules = parse_cache_control(combined(answer.fields, "cache-control"))
    reasons = (
        (request.method == "HEAD", "an answer to HEAD has no content whose digest could be verified"),
        ("authorization" in dict(request.fields), "requests with credentials are never shared, whatever is allowed"),
        (bool(parse_cache_control(combined(request.fields, "cache-control")).no_store), "hishel ignores the wish"),
        ("range" in dict(request.fields), "parts are not verifiable"),
        (answer.status not in (200, 204, 301, 308, 404, 410), "of these we know what they mean"),
        ("set-cookie" in dict(answer.fields), "a cookie is somebody's"),
        (dict(answer.fields).get("vary") == "*", "hishel stores it, although it can never be selected"),
        (not rules.freshness_s and "etag" not in dict(answer.fields), "it would be stale at once, and stay so"),
    )
    return next((reason for applies, reason in reasons if applies), "")


directives = st.lists(
    st.sampled_from(
        "no-store no-cache private public must-revalidate max-age=0 max-age=5 max-age=50 s-maxage=0 s-maxage=20".split()
    ),
    max_size=3,
    # Of repeated numbers hishel takes the last and we the smallest: RFC 9111 4.2.1 leaves that open.
    unique_by=lambda directive: directive.partition("=")[0],
)
wishes = st.lists(
    st.sampled_from(
        [("authorization", "x"), ("cache-control", "no-cache"), ("accept-language", "de"), ("accept-language", "en")]
    ),
    max_size=2,
    unique_by=lambda wish: wish[0],
)
extras = st.lists(
    st.sampled_from([("etag", '"1"'), ("vary", "accept-language"), ("vary", "*"), ("set-cookie", "a=b")]),
    max_size=2,
    unique_by=lambda extra: extra[0],
)
steps = st.lists(
    st.tuples(
        st.sampled_from(["GET", "GET", "GET", "HEAD", "POST"]),
        st.sampled_from(["/a", "/b"]),
        wishes,
        st.sampled_from([200, 200, 200, 404, 206, 500]),
        directives,
        extras,
        st.integers(0, 30),
    ),
    max_size=8,
)


@settings(max_examples=60)
@given(steps)
def test_hishel_in_strict_mode_allows_what_we_store_and_reuse(history: list[Any]) -> None:
    """Over one history: what we store it may store, what we serve it may serve; and the other way round, but for the
    reasons of `ours_is_stricter`. An entry that only one of the two has is left out of what follows."""
    clock, cache, oracle = Clock(), Cache(), Oracle()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_spec, "time", clock)
        for method, path, fields, status, rules, more, wait in history:
            clock.now += wait
            request = Request(method, path, tuple(fields))
            key = Key.of(NAME, request)
            reused = not why_not_shared(request) and cache.lookup(key, request, clock.now).kind is Kind.HIT
            # It would serve a request with credentials from what was stored for one without; we never do.
            if not (why_not_shared(request) == "authorization" and not reused):
                assert reused == oracle.may_reuse(request), (request, clock.now)
            if method == "POST":
                continue
            answer = Response(status, (("cache-control", ", ".join(rules)), *more), b"x")
            before = list(oracle.entries)
            allowed = oracle.may_store(request, answer, clock.now)
            why = ours_is_stricter(request, answer)
            stored = cache.store(key, request, Stored(answer, clock.now, FOREVER)) == ""
            assert stored == (allowed and not why), (request, answer, why)
            if allowed and not stored:
                oracle.entries = before


def test_the_oracle_is_not_blind() -> None:
    """It says yes and no to what everybody agrees upon, so that agreeing with it means something."""
    oracle = Oracle()
    assert not oracle.may_reuse(GET)
    assert not oracle.may_store(GET, response("no-store"), NOW)
    assert oracle.may_store(GET, response("max-age=10"), random.Random(0).random() + 10**10)
    assert oracle.may_reuse(GET)
