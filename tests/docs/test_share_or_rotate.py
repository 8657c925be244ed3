"""The how-to on keys of accounts, typed in the order in which it stands there, on a small devnet of its own."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.docs import programs
from tests.docs.documents import ROOT, command_lines
from tests.docs.programs import STEP_SECONDS

HOW_TO = ROOT / "docs" / "how-to" / "share-or-rotate-an-account.md"
REJECTED = 4


async def run(folder: Path, line: str, code: int = 0) -> Any:
    """The JSON that a command prints, or else what it says, where it must end with `code`."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("BLOCKCLOUD_")}
    started = programs.running(folder, "-m", *shlex.split(f"{line} --json"), environment=environment)
    async with started as process, asyncio.timeout(STEP_SECONDS):
        output, messages = await process.communicate()
    assert process.returncode == code, f"{line}: {messages.decode()}"
    return json.loads(output) if code == 0 else messages.decode()


@pytest.mark.long
async def test_the_how_to_on_keys_works_as_written(tmp_path: Path) -> None:
    lines = [line.replace("--validators 4", "--validators 2") for line in command_lines(HOW_TO, "blockcloud")]
    up, new, rotate, show, pay, *rest = lines
    share, read, sign_consumer, sign_faucet, send_share, show_shared, *rest = rest
    draft, sign_pay, send_pay, pay_together, back, down = rest
    async with AsyncExitStack() as stack:
        stack.push_async_callback(run, tmp_path, down)
        await run(tmp_path, up)
        made = await run(tmp_path, new)
        rotated = await run(tmp_path, rotate)
        assert rotated["keys"] == [made["address"]] != [rotated["address"]]
        shown = await run(tmp_path, show)
        assert (shown["address"], shown["keys"]) == (rotated["address"], [made["address"]])
        assert (await run(tmp_path, pay))["code"] == "ok"
        by_the_old_key = pay.replace("--key new.pem", "--key net/accounts/alice.pem")
        assert "wrong_signer" in await run(tmp_path, by_the_old_key, REJECTED)

        assert len((await run(tmp_path, share))["new_keys"]) == 3
        assert len((await run(tmp_path, read))["signed_by"]) == 1
        await run(tmp_path, sign_consumer)
        await run(tmp_path, send_share, 1)
        await run(tmp_path, sign_faucet)
        assert (await run(tmp_path, send_share))["code"] == "ok"
        shared = await run(tmp_path, show_shared)
        assert (shared["threshold"], len(shared["keys"])) == (2, 3)
        await run(tmp_path, draft)
        assert "too_few_signers" in await run(tmp_path, send_pay, REJECTED)
        await run(tmp_path, sign_pay)
        assert (await run(tmp_path, send_pay))["code"] == "ok"
        assert (await run(tmp_path, pay_together))["code"] == "ok"
        alone = pay_together.partition(" --cosign")[0]
        assert "--draft" in await run(tmp_path, alone, REJECTED)
        assert (await run(tmp_path, back))["threshold"] == 1
        assert (await run(tmp_path, alone))["code"] == "ok"
