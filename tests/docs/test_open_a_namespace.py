"""The how-to on namespaces, typed in the order in which it stands there, on a small devnet of its own."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from blockcloud.primitives.keys import SigningKey
from blockcloud.sdk.namespaces import read_batch
from tests.docs.documents import ROOT, blocks, command_lines
from tests.docs.programs import typed

HOW_TO = ROOT / "docs" / "how-to" / "open-a-namespace.md"


def batch() -> str:
    (block,) = [block for block in blocks(HOW_TO) if block.language == "json"]
    return block.text


def test_the_batch_of_the_how_to_can_be_read() -> None:
    owner = SigningKey(bytes(32)).public
    assert [(entry.label, entry.owner) for entry in read_batch(batch().encode(), owner)] == [
        ("hammer", owner),
        ("anvil", owner),
    ]


@pytest.mark.long
async def test_the_how_to_on_namespaces_works_as_written(tmp_path: Path) -> None:
    (tmp_path / "batch.json").write_text(batch())
    lines = "\n".join(command_lines(HOW_TO, "blockcloud")).replace("--validators 4", "--validators 2").splitlines()
    up, opening, fill, ready, show, register, show_name, renew, delegate, add, remove, down = lines
    async with AsyncExitStack() as stack:
        stack.push_async_callback(typed, tmp_path, down)
        await typed(tmp_path, up)
        opened = await typed(tmp_path, opening)
        assert (opened["status"], opened["paid"]) == ("importing", "100")
        assert [step["price"] for step in opened["prices"]] == ["8", "4", "2", "1", "0.5"]
        filled = await typed(tmp_path, fill)
        assert [entry["name"] for entry in filled["names"]] == ["hammer.workshop", "anvil.workshop"]
        await typed(tmp_path, ready)
        assert (await typed(tmp_path, show))["status"] == "ready"
        registered = await typed(tmp_path, register)
        assert registered["renewal"]["price"] == "2"
        assert (await typed(tmp_path, show_name))["expires_height"] == registered["registered_height"] + 5000
        assert (await typed(tmp_path, renew))["expires_height"] > registered["expires_height"]
        handed = await typed(tmp_path, delegate)
        assert [entry["name"] for entry in handed["names"]] == ["hammer.saw.workshop", "anvil.saw.workshop"]
        assert len((await typed(tmp_path, add))["instance_keys"]) == 1
        assert (await typed(tmp_path, remove))["instance_keys"] == []
