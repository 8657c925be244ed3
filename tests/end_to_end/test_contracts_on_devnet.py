"""Both example contracts on a devnet of four validator processes, which all come to the same, across a restart too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from blockcloud.primitives.addresses import format_address
from blockcloud.sdk import AsyncClient, contracts
from blockcloud.service_chain.contracts.failures import ContractReverted
from blockcloud.service_chain.rejections import InsufficientBalance
from tests.end_to_end.ledger_world import World, devnet_world, until
from tests.service_chain.contracts.contract_world import EXAMPLES

pytestmark = pytest.mark.long


async def same_everywhere(world: World, contract: bytes) -> dict[str, Any]:
    """What all four validators say of a contract, once they say the same."""

    async def agreed() -> dict[str, Any] | None:
        views = []
        for number in range(4):
            async with AsyncClient(world.genesis, [world.url(number)]) as client:
                views.append(await contracts.contract_view(client, contract))
        return views[0] if all(view == views[0] for view in views) else None

    return dict(await until(agreed, "four equal views"))


async def test_both_examples_do_what_they_promise_on_four_validators(tmp_path: Path) -> None:
    async with devnet_world(tmp_path) as world, AsyncClient(world.genesis) as client:
        buyer, seller, arbiter = (world.key(name) for name in ("alice", "bob", "faucet"))
        names = [f"address:{format_address(key.public)}" for key in (seller, arbiter)]
        deal = contracts.encode_arguments([*names, "u64:1000000"])
        code = contracts.build(EXAMPLES / "escrow")
        with pytest.raises(InsufficientBalance):
            await contracts.deploy(client, buyer, code, deal, value=10**16)
        escrow, _ = await contracts.deploy(client, buyer, code, deal, value=5_000_000)
        with pytest.raises(ContractReverted, match="not for you to say"):
            await contracts.call(client, seller, escrow, "release")
        world.kill(3)
        released = await contracts.call(client, arbiter, escrow, "release")
        assert [topic for _, topic, _ in released.events] == [b"released"]

        access, _ = await contracts.deploy(client, buyer, contracts.build(EXAMPLES / "data_access"))
        await contracts.call(client, seller, access, "request", b"a look")
        grant = contracts.encode_arguments([names[0], "u64:1000000"])
        granted = await contracts.call(client, buyer, access, "grant", grant)
        allowed = await contracts.query(client, access, "allowed", contracts.encode_arguments(names[:1]))
        assert allowed["output"] == "01"

        assert await contracts.stored(client, access, b"N", at_least_height=granted.height) == (2).to_bytes(4, "little")

        world.start(3)
        await world.wait_in_step()
        assert (await same_everywhere(world, escrow))["balance"] == "0"
        assert (await same_everywhere(world, access))["owner"] == format_address(buyer.public)
        await world.wait_equal_roots()
