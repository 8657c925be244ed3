"""The how-to on markets, typed in the order in which it stands there, on a small devnet of its own."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.docs.documents import ROOT, command_lines
from tests.docs.programs import typed

HOW_TO = ROOT / "docs" / "how-to" / "trade-in-a-market.md"


@pytest.mark.long
async def test_the_how_to_on_markets_works_as_written(tmp_path: Path) -> None:
    lines = "\n".join(command_lines(HOW_TO, "blockcloud")).replace("--validators 4", "--validators 2").splitlines()
    up, register, opening, listing, ask, bid, book, agreements, cancel, down = lines
    async with AsyncExitStack() as stack:
        stack.push_async_callback(typed, tmp_path, down)
        await typed(tmp_path, up)
        await typed(tmp_path, register)
        opened = await typed(tmp_path, opening)
        assert (opened["price"], opened["deposit"], opened["delivery_bond"]) == ("0.01", "10", "0.001")
        assert [market["market"] for market in (await typed(tmp_path, listing))["markets"]] == [opened["market"]]
        assert (await typed(tmp_path, ask))["order"]["held"] == "1.1"
        bought = await typed(tmp_path, bid)
        (agreement,) = bought["agreements"]
        assert (agreement["name"], agreement["unit_price"], agreement["deposited"]) == ("thermo", "0.01", "0.4")
        seen = await typed(tmp_path, book)
        assert (seen["last_clearing"]["units"], seen["order"]["left"]) == (40, 60)
        (again,) = (await typed(tmp_path, agreements))["agreements"]
        assert again["agreement"] == agreement["agreement"]
        assert (await typed(tmp_path, cancel))["order"]["status"] == "cancelled"
