"""Direct ways first, relays beside them after a head start: nobody waits for an address behind somebody else's NAT.

A NAT drops what it does not know without a word, so a direct dial into one ends only with its time. An asyncio adaptor.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from blockcloud.service_access.addresses import RELAY, Address

HEAD_START_MS: Final = 150


def split(addresses: Sequence[Address]) -> tuple[list[Address], list[Address]]:
    """(direct, relays), each in its order."""
    direct = [each for each in addresses if each.kind != RELAY]
    return direct, [each for each in addresses if each.kind == RELAY]


async def direct_or_relayed(
    addresses: Sequence[Address], attempt: Callable[[Sequence[Address]], Awaitable[bool]]
) -> bool:
    """Whether `attempt` succeeded, which tries addresses one after the other.

    Relays have an attempt of their own, which begins when the one with direct addresses has failed, or has taken
    HEAD_START_MS. The first to succeed cancels the other.
    """
    direct, relays = split(addresses)
    if not direct or not relays:
        return await attempt(addresses)
    loop = asyncio.get_running_loop()
    first = loop.create_task(_as_coroutine(attempt(direct)))
    attempts = [first]
    try:
        await asyncio.wait((first,), timeout=HEAD_START_MS / 1_000)
        if first.done() and first.result():
            return True
        attempts.append(loop.create_task(_as_coroutine(attempt(relays))))
        for ended in asyncio.as_completed(attempts):
            if await ended:
                return True
        return False
    finally:
        for each in attempts:
            each.cancel()
        await asyncio.gather(*attempts, return_exceptions=True)


async def _as_coroutine(attempt: Awaitable[bool]) -> bool:
    return await attempt
