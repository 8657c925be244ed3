"""What the service table says about a connect, carried out: the asyncio side of the table.

`TableResolver` stands before the resolver and lets the table learn each answer. `steer` asks the table about a name and
waits for the verdict of a program where it has to: DELAY without a verdict in time is refused (`NoVerdict`), a miss
goes on as if nobody had been asked. `hold_arrival` does the same for a session that comes in, whose peer has proven its
key by then. Where the rule goes while it holds somebody, the table is asked again.
"""

from __future__ import annotations

import asyncio
import math
import os
import time
from typing import TYPE_CHECKING

from blockcloud.primitives.errors import BlockCloudError
from blockcloud.service_access.addresses import Address
from blockcloud.service_access.errors import AccessDenied, NotLetIn, TooMany
from blockcloud.service_access.resolution import NoInstances, Resolution, Resolver, UnknownName
from blockcloud.service_access.service_table import Action, Rule
from blockcloud.service_access.verdicts import (
    ARRIVAL_WAIT_MS_MAX,
    RESOLVE,
    RULE_GONE,
    VERDICT_WAIT_MS,
    Fate,
    NoVerdict,
    TooManyWaiting,
    Verdict,
)
from blockcloud.service_chain.rejections import NameExpired, NameRevoked

if TYPE_CHECKING:
    from blockcloud.service_access.endpoint import ServiceEndpoint


class TableResolver:
    """`resolver`, whose answers `endpoint`'s table follows."""

    def __init__(self, resolver: Resolver, endpoint: ServiceEndpoint) -> None:
        self.resolver = resolver
        self._endpoint = endpoint

    async def resolve(self, name: str, *, max_age_s: int = 60) -> Resolution:
        """As the resolver behind it."""
        table, now_ms = self._endpoint.table, self._endpoint.now_ms
        try:
            found = await self.resolver.resolve(name, max_age_s=max_age_s)
        except (UnknownName, NameRevoked, NameExpired, NoInstances):
            table.forget(name, now_ms())
            raise
        table.learn(found, now_ms(), int(time.time()))
        return found


async def steer(endpoint: ServiceEndpoint, name: str) -> tuple[Address, ...]:
    """Where a connect to `name` has to go, whatever the records say; empty: wherever its instances are.

    Raises AccessDenied, NoVerdict, TooManyWaiting.
    """
    table = endpoint.table
    rule = table.lookup(name, endpoint.now_ms(), int.from_bytes(os.urandom(4)))
    if rule is None:
        if not table.waiting.deciding:
            table.note("miss", name, endpoint.now_ms())
            return ()
        verdict = await _verdict(endpoint, name, None) or RESOLVE
    elif rule.action is Action.DROP:
        raise AccessDenied("the service table drops connections to the name", name=name, rule=rule.pattern)
    elif rule.action is Action.DELAY:
        answer = await _verdict(endpoint, name, rule)
        if answer is None:
            table.note("drop", name, endpoint.now_ms(), rule=rule.number, reason=NoVerdict.code)
            raise NoVerdict(name=name, rule=rule.pattern)
        if answer is RULE_GONE:
            return await steer(endpoint, name)
        verdict = answer
    else:
        # Of a learned rule nothing is taken here: the instances are compared first.
        return rule.addresses if rule.action is Action.FORWARD and not rule.key else ()
    if verdict.fate is Fate.DROP:
        table.note("drop", name, endpoint.now_ms(), reason=verdict.reason or "verdict")
        raise AccessDenied(verdict.reason or "a control program refuses the connection", name=name)
    return verdict.addresses


async def hold_arrival(endpoint: ServiceEndpoint, rule: Rule, name: str, peer_key: bytes) -> None:
    """Hold a session that comes in to `name` until a program lets it in. Raises NotLetIn, TooMany."""
    table, number = endpoint.table, rule.number
    deadline_ms = endpoint.now_ms() + ARRIVAL_WAIT_MS_MAX  # for all rules that hold it together
    verdict: Verdict | None = RULE_GONE
    found: Rule | None = rule
    while verdict is RULE_GONE and found is not None and found.action is Action.DELAY:
        number = found.number
        try:
            verdict = await _verdict(endpoint, name, found, peer_key, limit_ms=deadline_ms - endpoint.now_ms())
        except TooManyWaiting as error:
            raise TooMany("as many sessions wait to be let in as may", name=name) from error
        if verdict is RULE_GONE:
            found = endpoint.rule_for(name)
    if verdict is RULE_GONE and (found is None or found.action is Action.DROP):
        verdict = Verdict(Fate.DROP)
    if verdict is not None and verdict.fate is Fate.RESOLVE:
        return
    reason = "nobody has let the session in"
    if verdict is not None:
        reason = verdict.reason or "the provider refuses the session"
    table.note("drop", name, endpoint.now_ms(), rule=number, reason=reason, incoming=True)
    raise NotLetIn(reason, name=name)


async def _verdict(
    endpoint: ServiceEndpoint, name: str, rule: Rule | None, peer_key: bytes = b"", *, limit_ms: float = math.inf
) -> Verdict | None:
    """What a program says about the connect; None if none does in time. `peer_key`: of who comes in; none goes out.
    Raises TooManyWaiting."""
    table, arrival = endpoint.table, bool(peer_key)
    verdict: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
    wait_ms = min(limit_ms, VERDICT_WAIT_MS if rule is None or rule.wait_ms is None else rule.wait_ms)
    number = rule.number if rule is not None else None

    def decide(answer: Verdict) -> None:
        if not verdict.done():  # whoever waited may have been cancelled just now
            verdict.set_result(answer)

    try:
        held = table.waiting.hold(name, number, endpoint.now_ms(), wait_ms, decide, arrival=arrival)
    except BlockCloudError as error:
        table.note("drop", name, endpoint.now_ms(), rule=number, reason=error.code)
        raise
    details: dict[str, object] = {"id": held.number, "wait_ms": round(wait_ms)}
    if arrival:
        details |= {"incoming": True, "key": peer_key.hex()}
    if rule is None:
        table.note("miss", name, endpoint.now_ms(), **details)
    else:
        table.note("connect", name, endpoint.now_ms(), rule=number, action=rule.action.value, **details)
    try:
        return await _in_time(endpoint, verdict, held.deadline_ms)
    finally:
        table.waiting.release(held)


async def _in_time(endpoint: ServiceEndpoint, verdict: asyncio.Future[Verdict], deadline_ms: float) -> Verdict | None:
    """The verdict, or None if it has not come by `deadline_ms`; rules whose time ends meanwhile go."""
    while not verdict.done() and (left_ms := deadline_ms - endpoint.now_ms()) > 0:
        due_ms = endpoint.table.next_timer()
        if due_ms is not None:
            left_ms = min(left_ms, max(0.0, due_ms - endpoint.now_ms()) + 1.0)
        await asyncio.wait((verdict,), timeout=left_ms / 1_000)
        endpoint.table.expire(endpoint.now_ms())
    return verdict.result() if verdict.done() else None
