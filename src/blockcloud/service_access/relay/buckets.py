"""Token buckets: so many a second on average, so many at once at most. Sans-IO; times in milliseconds."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rate:
    """`per_second` on average, `burst` at once."""

    per_second: float
    burst: float


class TokenBucket:
    """Full at first. `take` refuses what there are no tokens for; `owe` goes into debt and says how long to wait."""

    __slots__ = ("_at_ms", "_rate", "_tokens")

    def __init__(self, rate: Rate, now_ms: float) -> None:
        self._rate = rate
        self._tokens = rate.burst
        self._at_ms = now_ms

    def _refill(self, now_ms: float) -> None:
        earned = (now_ms - self._at_ms) * self._rate.per_second / 1_000
        self._tokens = min(self._rate.burst, self._tokens + earned)
        self._at_ms = now_ms

    def take(self, now_ms: float) -> bool:
        """Take one token, if there is one."""
        self._refill(now_ms)
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def give_back(self) -> None:
        """Undo a `take`: what it was for was refused for another reason."""
        self._tokens = min(self._rate.burst, self._tokens + 1)

    def owe(self, count: int, now_ms: float) -> float:
        """Take `count` tokens, also those that are not there yet; how many ms until there are."""
        self._refill(now_ms)
        self._tokens -= count
        return max(0.0, -self._tokens * 1_000 / self._rate.per_second)


class BucketTable:
    """A bucket for each key, of the `limit` keys seen last. A forgotten key starts with a full bucket again."""

    def __init__(self, rate: Rate, limit: int) -> None:
        self._rate = rate
        self._limit = limit
        self._buckets: OrderedDict[bytes, TokenBucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def of(self, key: bytes, now_ms: float) -> TokenBucket:
        """The bucket of `key`."""
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = TokenBucket(self._rate, now_ms)
            if len(self._buckets) > self._limit:
                self._buckets.popitem(last=False)
        self._buckets.move_to_end(key)
        return bucket
