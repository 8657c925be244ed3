"""The how-to on lanes, typed in the order in which it stands there, on a small devnet of its own."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.docs.documents import ROOT, command_lines
from tests.docs.programs import REJECTED, typed

HOW_TO = ROOT / "docs" / "how-to" / "give-a-device-a-key.md"


@pytest.mark.long
async def test_the_how_to_on_lanes_works_as_written(tmp_path: Path) -> None:
    lines = [line.replace("--validators 4", "--validators 2") for line in command_lines(HOW_TO, "blockcloud")]
    up, new, open_, pay, show, too_much, register, close, down = lines
    async with AsyncExitStack() as stack:
        stack.push_async_callback(typed, tmp_path, down)
        await typed(tmp_path, up)
        made = await typed(tmp_path, new)
        opened = await typed(tmp_path, open_)
        assert (opened["lane"], opened["key"]) == (1, made["address"])
        assert opened["allowed"] == ["transfer", "renew-name"]
        assert (await typed(tmp_path, pay))["code"] == "ok"
        shown = await typed(tmp_path, show)
        assert 1.4 < float(shown["cap"]) < 1.5, "its fee counts"
        assert (shown["sequence"], shown["ended"]) == (1, False)
        assert "spending_cap_exceeded" in await typed(tmp_path, too_much, REJECTED)
        assert "operation_not_allowed" in await typed(tmp_path, register, REJECTED)
        assert (await typed(tmp_path, close))["receipt"]["code"] == "ok"
        assert "unknown_lane" in await typed(tmp_path, pay, REJECTED)
