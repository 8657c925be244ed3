"""The client behind `--draft FILE`: what it would send it writes to the file, and the command ends there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Never

from blockcloud.cli.context import Drafted, options
from blockcloud.cli.drafting import write_draft
from blockcloud.primitives.errors import BadConfiguration
from blockcloud.primitives.keys import SigningKey
from blockcloud.sdk.client import FEE_LIMIT_MICRO_BLOC, AsyncClient
from blockcloud.sdk.drafts import VALID_COMMITS, Draft, described, keys_told
from blockcloud.service_chain.operations import Operation


class DraftingClient(AsyncClient):
    """Sends no transaction: raises Drafted instead, when the draft is in its file."""

    async def submit_all(self, key: SigningKey, transactions: Sequence[Sequence[Operation]], **how: Any) -> Never:
        """The one transaction, as a draft; signed by those keys at hand that the account or its change asks for."""
        if len(transactions) != 1:
            raise BadConfiguration("a draft holds one transaction", transactions=len(transactions))
        await self._write(key, tuple(transactions[0]), **how)

    async def signed(self, key: SigningKey, *operations: Operation, **how: Any) -> Never:
        """As `submit_all`."""
        await self._write(key, operations, **how)

    async def preorder_and_register(self, key: SigningKey, name: str, **how: Any) -> Never:
        """Two transactions with a secret between them: not for a draft."""
        raise BadConfiguration(
            "a name takes two transactions, which cannot be one draft; register it with a key of your own and give it "
            "to the account: `blockcloud name transfer NAME --to ADDRESS`"
        )

    async def _write(
        self,
        key: SigningKey,
        operations: tuple[Operation, ...],
        *,
        sender: bytes | None = None,
        cosigners: Sequence[SigningKey] | None = None,
        fee_limit: int = FEE_LIMIT_MICRO_BLOC,
        **_: Any,
    ) -> Never:
        if options.lane:
            raise BadConfiguration("a draft is for the keys of the account itself; leave --lane out", lane=options.lane)
        path = Path(options.draft)
        if path.exists():
            raise BadConfiguration("the file exists already; a draft gets a new one", path=str(path))
        account = self.acts_for(key, sender)
        draft = Draft.of(await self.unsigned(account, *operations, valid_commits=VALID_COMMITS, fee_limit=fee_limit))
        keys = (await keys_told(self, account))[1]
        able = [each for each in self._signers(key, cosigners) if each.public in (*keys, *draft.joining)]
        draft = draft.signed(*able)
        write_draft(path, draft)
        step = f"pass it on: `blockcloud tx read {path}`, `blockcloud tx sign {path}`; then `blockcloud tx send {path}`"
        raise Drafted({"draft": str(path), **described(draft)}, step)
