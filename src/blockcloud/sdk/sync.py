"""The synchronous client: the asynchronous one on an event loop in a thread of its own. Same methods, same errors."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

from blockcloud.primitives.keys import SigningKey
from blockcloud.sdk.client import AsyncClient
from blockcloud.sdk.light_client import Proven
from blockcloud.sdk.past import NameAt
from blockcloud.sdk.reading import TIMEOUT_SECONDS
from blockcloud.sdk.resolver import ChainResolver
from blockcloud.sdk.submission import Outcome, Wait
from blockcloud.service_access.resolution import Resolution
from blockcloud.service_chain.genesis import Genesis
from blockcloud.service_chain.operations import Operation
from blockcloud.service_chain.receipts import Receipt
from blockcloud.service_chain.records import Account, NameRecord
from blockcloud.service_chain.transaction import TransactionBody

T = TypeVar("T")


class Client:
    """As `AsyncClient`, for programs without an event loop. May be used from several threads. Close it after use."""

    def __init__(self, genesis: Genesis, endpoints: Sequence[str] | None = None, **how: Any) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="blockcloud-client", daemon=True)
        self._thread.start()
        try:
            self._client = self._run(_make(genesis, endpoints, how))
        except BaseException:
            self._stop()
            raise
        self._resolver = ChainResolver(self._client)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections and end the thread. May be called again."""
        if not self._loop.is_closed():
            try:
                self._run(self._client.close())
            finally:
                self._stop()

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, call: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(call, self._loop).result()

    def proven(self, key: bytes, **how: Any) -> Proven:
        """As `AsyncClient.proven`."""
        return self._run(self._client.proven(key, **how))

    def account(self, public_key: bytes, **how: Any) -> Account | None:
        """As `AsyncClient.account`."""
        return self._run(self._client.account(public_key, **how))

    def account_keys(self, public_key: bytes, **how: Any) -> tuple[int, tuple[bytes, ...]]:
        """As `AsyncClient.account_keys`."""
        return self._run(self._client.account_keys(public_key, **how))

    def name(self, name: str, **how: Any) -> NameRecord | None:
        """As `AsyncClient.name`."""
        return self._run(self._client.name(name, **how))

    def resolve(self, name: str, **how: Any) -> Resolution:
        """As `ChainResolver.resolve`."""
        return self._run(self._resolver.resolve(name, **how))

    def service_file(self, resolution: Resolution) -> dict[str, Any]:
        """As `ChainResolver.service_file`."""
        return self._run(self._resolver.service_file(resolution))

    def status(self) -> dict[str, Any]:
        """As `AsyncClient.status`."""
        return self._run(self._client.status())

    def checkpoint(self) -> dict[str, Any]:
        """As `AsyncClient.checkpoint`."""
        return self._run(self._client.checkpoint())

    def account_view(self, public_key: bytes) -> dict[str, Any]:
        """As `AsyncClient.account_view`."""
        return self._run(self._client.account_view(public_key))

    def name_view(self, name: str, height: int | None = None) -> dict[str, Any]:
        """As `AsyncClient.name_view`."""
        return self._run(self._client.name_view(name, height))

    def name_at(self, name: str, height: int, **how: Any) -> NameAt:
        """As `AsyncClient.name_at`."""
        return self._run(self._client.name_at(name, height, **how))

    def name_history(self, name: str, **how: Any) -> dict[str, Any]:
        """As `AsyncClient.name_history`."""
        return self._run(self._client.name_history(name, **how))

    def value_view(self, key: bytes, height: int | None = None) -> tuple[bytes | None, int]:
        """As `AsyncClient.value_view`."""
        return self._run(self._client.value_view(key, height))

    def changes(self, height: int, **how: Any) -> dict[str, Any]:
        """As `AsyncClient.changes`."""
        return self._run(self._client.changes(height, **how))

    def all_changes(self, height: int) -> list[dict[str, Any]]:
        """As `AsyncClient.all_changes`, all of them at once."""

        async def gathered() -> list[dict[str, Any]]:
            return [change async for change in self._client.all_changes(height)]

        return self._run(gathered())

    def markets(self, **how: Any) -> dict[str, Any]:
        """As `AsyncClient.markets`."""
        return self._run(self._client.markets(**how))

    def market(self, market: bytes, account: bytes | None = None) -> dict[str, Any]:
        """As `AsyncClient.market`."""
        return self._run(self._client.market(market, account))

    def agreements(self, party: bytes, **how: Any) -> dict[str, Any]:
        """As `AsyncClient.agreements`."""
        return self._run(self._client.agreements(party, **how))

    def receipt(self, transaction_id: bytes) -> Receipt | None:
        """As `AsyncClient.receipt`."""
        return self._run(self._client.receipt(transaction_id))

    def submit(
        self, transactions: Sequence[bytes], *, wait: Wait = "committed", timeout_s: float = TIMEOUT_SECONDS
    ) -> list[Outcome]:
        """As `AsyncClient.submit`."""
        return self._run(self._client.submit(transactions, wait=wait, timeout_s=timeout_s))

    def signed(self, key: SigningKey, *operations: Operation, **how: Any) -> bytes:
        """As `AsyncClient.signed`."""
        return self._run(self._client.signed(key, *operations, **how))

    def unsigned(self, account: bytes, *operations: Operation, **how: Any) -> TransactionBody:
        """As `AsyncClient.unsigned`."""
        return self._run(self._client.unsigned(account, *operations, **how))

    def acts_for(self, key: SigningKey, sender: bytes | None = None) -> bytes:
        """As `AsyncClient.acts_for`."""
        return self._client.acts_for(key, sender)

    def transact(self, key: SigningKey, *operations: Operation, **how: Any) -> Receipt:
        """As `AsyncClient.transact`."""
        return self._run(self._client.transact(key, *operations, **how))

    def submit_all(self, key: SigningKey, transactions: Sequence[Sequence[Operation]], **how: Any) -> list[Receipt]:
        """As `AsyncClient.submit_all`."""
        return self._run(self._client.submit_all(key, transactions, **how))

    def transfer(self, key: SigningKey, to: bytes, micro_bloc: int, **how: Any) -> Receipt:
        """As `AsyncClient.transfer`."""
        return self._run(self._client.transfer(key, to, micro_bloc, **how))

    def preorder_and_register(self, key: SigningKey, name: str, **how: Any) -> Receipt:
        """As `AsyncClient.preorder_and_register`."""
        return self._run(self._client.preorder_and_register(key, name, **how))

    def update_name(self, key: SigningKey, name: str, file_hash: bytes, **how: Any) -> Receipt:
        """As `AsyncClient.update_name`."""
        return self._run(self._client.update_name(key, name, file_hash, **how))

    def add_instance(self, key: SigningKey, name: str, instance_key: bytes, **how: Any) -> Receipt:
        """As `AsyncClient.add_instance`."""
        return self._run(self._client.add_instance(key, name, instance_key, **how))

    def remove_instance(self, key: SigningKey, name: str, instance_key: bytes, **how: Any) -> Receipt:
        """As `AsyncClient.remove_instance`."""
        return self._run(self._client.remove_instance(key, name, instance_key, **how))

    def transfer_name(self, key: SigningKey, name: str, to: bytes, **how: Any) -> Receipt:
        """As `AsyncClient.transfer_name`."""
        return self._run(self._client.transfer_name(key, name, to, **how))

    def renew_name(self, key: SigningKey, name: str, **how: Any) -> Receipt:
        """As `AsyncClient.renew_name`."""
        return self._run(self._client.renew_name(key, name, **how))

    def revoke_name(self, key: SigningKey, name: str, **how: Any) -> Receipt:
        """As `AsyncClient.revoke_name`."""
        return self._run(self._client.revoke_name(key, name, **how))

    def put_service_file(self, data: bytes) -> bytes:
        """As `AsyncClient.put_service_file`."""
        return self._run(self._client.put_service_file(data))


async def _make(genesis: Genesis, endpoints: Sequence[str] | None, how: dict[str, Any]) -> AsyncClient:
    """Made on the loop that it will live on."""
    return AsyncClient(genesis, endpoints, **how)
