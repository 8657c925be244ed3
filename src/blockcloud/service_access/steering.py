"""What the service table says about a connect, carried out: the asyncio side of the table.

`TableResolver` stands before the resolver and lets the table learn each answer. `steer` asks the table about a name and
waits for the verdict of a program where it has to: DELAY without a verdict in time is refused (`NoVerdict`), a miss
goes on as if nobody had been asked.
"""

from __future__ import annotations

import asyncio
import os
import time

from blockcloud.primitives.errors import BlockCloudError
from blockcloud.service_access.addresses import Address
from blockcloud.service_access.endpoint import ServiceEndpoint
from blockcloud.service_access.errors import AccessDenied
from blockcloud.service_access.resolution import NoInstances, Resolution, Resolver, UnknownName
from blockcloud.service_access.service_table import Action, Rule
from blockcloud.service_access.verdicts import RESOLVE, VERDICT_WAIT_MS, Fate, NoVerdict, Verdict
from blockcloud.service_chain.rejections import NameExpired, NameRevoked


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
        verdict = answer
    else:
        # Of a learned rule nothing is taken here: the instances are compared first.
        return rule.addresses if rule.action is Action.FORWARD and not rule.key else ()
    if verdict.fate is Fate.DROP:
        table.note("drop", name, endpoint.now_ms(), reason=verdict.reason or "verdict")
        raise AccessDenied(verdict.reason or "a control program refuses the connection", name=name)
    return verdict.addresses


async def _verdict(endpoint: ServiceEndpoint, name: str, rule: Rule | None) -> Verdict | None:
    """What a program says about the connect; None if none does in time. Raises TooManyWaiting."""
    table = endpoint.table
    verdict: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
    wait_ms = VERDICT_WAIT_MS if rule is None or rule.wait_ms is None else rule.wait_ms
    number = rule.number if rule is not None else None

    def decide(answer: Verdict) -> None:
        if not verdict.done():  # whoever waited may have been cancelled just now
            verdict.set_result(answer)

    try:
        held = table.waiting.hold(name, number, endpoint.now_ms(), wait_ms, decide)
    except BlockCloudError as error:
        table.note("drop", name, endpoint.now_ms(), rule=number, reason=error.code)
        raise
    details = {"id": held.number, "wait_ms": round(wait_ms)}
    if rule is None:
        table.note("miss", name, endpoint.now_ms(), **details)
    else:
        table.note("connect", name, endpoint.now_ms(), rule=number, action=rule.action.value, **details)
    try:
        async with asyncio.timeout(wait_ms / 1_000):
            return await verdict
    except TimeoutError:
        return None
    finally:
        table.waiting.release(held)
