"""Direct ways first, relays beside them: nobody waits for an address that never answers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from blockcloud.service_access.addresses import RELAY, TLS, UNIX, Address
from blockcloud.service_access.detours import direct_or_relayed, split
from tests.service_access.access_world import bounded

DIRECT, SOCKET, RELAYED = Address(TLS, "192.0.2.1", 1), Address(UNIX, "/x", 0), Address(RELAY, "192.0.2.2", 2)


class Attempts:
    """Answers for each kind of first address: True, False, or None for one that never ends."""

    def __init__(self, **answers: bool | None) -> None:
        self.answers = answers
        self.begun: list[list[Address]] = []
        self.cancelled: list[str] = []

    async def __call__(self, some: Sequence[Address]) -> bool:
        self.begun.append(list(some))
        kind = some[0].kind
        answer = self.answers[kind]
        if answer is None:
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                self.cancelled.append(kind)
        return bool(answer)


def test_relays_are_told_from_direct_addresses_and_keep_their_order() -> None:
    assert split([RELAYED, DIRECT, SOCKET]) == ([DIRECT, SOCKET], [RELAYED])


async def test_a_direct_way_that_works_is_the_only_one_tried() -> None:
    attempts = Attempts(tls=True)
    assert await bounded(direct_or_relayed([RELAYED, DIRECT], attempts))
    assert attempts.begun == [[DIRECT]]


@pytest.mark.parametrize("direct", [False, None])
async def test_a_relay_is_tried_beside_a_direct_way_that_fails_or_never_ends(direct: bool | None) -> None:
    attempts = Attempts(tls=direct, relay=True)
    assert await bounded(direct_or_relayed([DIRECT, RELAYED], attempts))
    assert attempts.begun == [[DIRECT], [RELAYED]]
    assert attempts.cancelled == ([TLS] if direct is None else [])


async def test_without_any_way_there_is_an_answer() -> None:
    assert not await bounded(direct_or_relayed([DIRECT, RELAYED], Attempts(tls=False, relay=False)))


async def test_a_fault_of_ours_is_not_swallowed() -> None:
    async def broken(some: Sequence[Address]) -> bool:
        raise RuntimeError(some[0].kind)

    with pytest.raises(RuntimeError, match="tls"):
        await bounded(direct_or_relayed([DIRECT, RELAYED], broken))
