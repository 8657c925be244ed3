"""The Cache-Control field: what of it this cache acts upon (RFC 9111 5.2, RFC 5861). Sans-IO.

Unknown directives are ignored, and so is what is quoted wrongly. Where a number is not one, or comes twice with
different values, the smaller reading counts: at worst something is fetched once too often.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

SECONDS_MAX: Final = 2**31
_DIRECTIVE = re.compile(r'\s*([!#$%&\'*+.^_`|~0-9A-Za-z-]+)\s*(?:=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]*)))?\s*(?:,|$)')


@dataclass(frozen=True, slots=True)
class CacheControl:
    """Directives of a request or a response; seconds, None where not given."""

    max_age: int | None = None
    s_maxage: int | None = None
    stale_if_error: int | None = None
    no_store: bool = False
    no_cache: bool = False
    private: bool = False
    public: bool = False
    must_revalidate: bool = False
    only_if_cached: bool = False

    @property
    def freshness_s(self) -> int | None:
        """How long a shared cache may take a response for fresh; None where it does not say."""
        return self.s_maxage if self.s_maxage is not None else self.max_age


_NUMBERS: Final = {"max-age": "max_age", "s-maxage": "s_maxage", "stale-if-error": "stale_if_error"}
_FLAGS: Final = {
    "no-store": "no_store",
    "no-cache": "no_cache",  # with field names too: read as if without, which is stricter
    "private": "private",
    "public": "public",
    "must-revalidate": "must_revalidate",
    "proxy-revalidate": "must_revalidate",
    "only-if-cached": "only_if_cached",
}


def parse_cache_control(text: str | None) -> CacheControl:
    """The directives of a field's combined value."""
    numbers: dict[str, int] = {}
    flags: dict[str, bool] = {}
    position = 0
    while text and position < len(text):
        found = _DIRECTIVE.match(text, position)
        if found is None:
            position = text.find(",", position) + 1 or len(text)
            continue
        position = found.end()
        name = found[1].lower()
        if name in _FLAGS:
            flags[_FLAGS[name]] = True
        elif name in _NUMBERS:
            key, value = _NUMBERS[name], _seconds(found[2] if found[2] is not None else found[3])
            numbers[key] = min(value, numbers.get(key, value))
    return CacheControl(numbers.get("max_age"), numbers.get("s_maxage"), numbers.get("stale_if_error"), **flags)


def _seconds(text: str | None) -> int:
    """Delta-seconds (RFC 9111 1.2.2); what is none counts as 0."""
    if text is None or not text.isascii() or not text.isdigit():
        return 0
    return min(int(text[:12]), SECONDS_MAX)
