"""The how-to on keys of accounts, typed in the order in which it stands there, on a small devnet of its own."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.docs.documents import ROOT, command_lines
from tests.docs.programs import REJECTED, typed

HOW_TO = ROOT / "docs" / "how-to" / "share-or-rotate-an-account.md"


@pytest.mark.long
async def test_the_how_to_on_keys_works_as_written(tmp_path: Path) -> None:
    lines = [line.replace("--validators 4", "--validators 2") for line in command_lines(HOW_TO, "blockcloud")]
    up, new, rotate, show, pay, *rest = lines
    share, read, sign_consumer, sign_faucet, send_share, show_shared, *rest = rest
    draft, sign_pay, send_pay, pay_together, back, down = rest
    async with AsyncExitStack() as stack:
        stack.push_async_callback(typed, tmp_path, down)
        await typed(tmp_path, up)
        made = await typed(tmp_path, new)
        rotated = await typed(tmp_path, rotate)
        assert rotated["keys"] == [made["address"]] != [rotated["address"]]
        shown = await typed(tmp_path, show)
        assert (shown["address"], shown["keys"]) == (rotated["address"], [made["address"]])
        assert (await typed(tmp_path, pay))["code"] == "ok"
        by_the_old_key = pay.replace("--key new.pem", "--key net/accounts/alice.pem")
        assert "wrong_signer" in await typed(tmp_path, by_the_old_key, REJECTED)

        assert len((await typed(tmp_path, share))["new_keys"]) == 3
        assert len((await typed(tmp_path, read))["signed_by"]) == 1
        await typed(tmp_path, sign_consumer)
        await typed(tmp_path, send_share, 1)
        await typed(tmp_path, sign_faucet)
        assert (await typed(tmp_path, send_share))["code"] == "ok"
        shared = await typed(tmp_path, show_shared)
        assert (shared["threshold"], len(shared["keys"])) == (2, 3)
        await typed(tmp_path, draft)
        assert "too_few_signers" in await typed(tmp_path, send_pay, REJECTED)
        await typed(tmp_path, sign_pay)
        assert (await typed(tmp_path, send_pay))["code"] == "ok"
        assert (await typed(tmp_path, pay_together))["code"] == "ok"
        alone = pay_together.partition(" --cosign")[0]
        assert "--draft" in await typed(tmp_path, alone, REJECTED)
        assert (await typed(tmp_path, back))["threshold"] == 1
        assert (await typed(tmp_path, alone))["code"] == "ok"
