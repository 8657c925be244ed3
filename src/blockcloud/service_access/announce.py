"""Keeps the address record of one instance current: signed by the instance's key, refreshed at half its lease.

A move announces the new addresses at once, and so does a load that has changed much (`load`). Sequence numbers are the
clock in milliseconds, or one more than the last, so that they grow over restarts without a file.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

import structlog

from blockcloud.primitives.errors import BlockCloudError
from blockcloud.primitives.keys import SigningKey
from blockcloud.primitives.limits import LEASE_SECONDS
from blockcloud.routing.address_record import AddressRecord, Endpoint, sign_record
from blockcloud.service_access.addresses import RELAY, Address
from blockcloud.service_access.load import SAMPLE_MS, LoadMeter
from blockcloud.service_access.resolution import Announcer

DEFAULT_LEASE_S: Final = 120
RETRY_SECONDS: Final = 1.0
RELAY_PRIORITY: Final = 100

log = structlog.get_logger(__name__)


def address_record(
    name: str,
    key: SigningKey,
    addresses: tuple[Address, ...],
    *,
    sequence: int,
    now_s: int,
    lease_s: int,
    service_file_hash: bytes = b"",
    load: int = 0,
    draining: bool = False,
) -> bytes:
    """The signed record that the instance with `key` serves `name` at `addresses` until the lease ends."""
    endpoints = tuple(Endpoint(each.kind, each.host, each.port, _priority(each)) for each in addresses)
    record = AddressRecord(
        name, key.public, sequence, now_s, now_s + lease_s, service_file_hash, endpoints, load, draining
    )
    return sign_record(record, key)


def _priority(address: Address) -> int:
    """A relay is for those who cannot come on a direct way."""
    return RELAY_PRIORITY if address.kind == RELAY else 0


class AddressAnnouncer:
    """Announces until it is closed; `close` withdraws the record. `addresses` is asked every time."""

    def __init__(
        self,
        name: str,
        key: SigningKey,
        addresses: Callable[[], tuple[Address, ...]],
        announcer: Announcer,
        *,
        lease_s: int = DEFAULT_LEASE_S,
        service_file_hash: bytes = b"",
        sessions: Callable[[], int] = lambda: 0,
        meter: LoadMeter | None = None,
    ) -> None:
        if not 1 < lease_s <= LEASE_SECONDS:
            raise ValueError(f"a lease has 2 to {LEASE_SECONDS} seconds")
        self._name = name
        self._key = key
        self._addresses = addresses
        self._announcer = announcer
        self._lease_s = lease_s
        self._service_file_hash = service_file_hash
        self._sessions = sessions
        self._meter = meter or LoadMeter()
        self._sequence = 0
        self.draining = False  # what the next records say
        self._now = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Announce once, and go on in the background. Raises what the announcer raises the first time."""
        await self._announce(self._addresses())
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._run()), loop.create_task(self._watch_load())]

    def announce_now(self) -> None:
        """The addresses have changed, or whether it drains."""
        self._now.set()

    async def close(self) -> None:
        """Withdraw the record: whoever resolves the name does not find this instance any more."""
        if not self._tasks:
            return
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        try:
            await self._announce(())
        except BlockCloudError as error:  # the lease ends by itself
            log.info("withdraw_failed", name=self._name, reason=str(error))

    async def _announce(self, addresses: tuple[Address, ...]) -> None:
        now_ms = time.time_ns() // 1_000_000
        self._sequence = max(self._sequence + 1, now_ms)
        record = address_record(
            self._name,
            self._key,
            addresses,
            sequence=self._sequence,
            now_s=now_ms // 1_000,
            lease_s=self._lease_s,
            service_file_hash=self._service_file_hash,
            load=self._meter.load,
            draining=self.draining,
        )
        self._meter.told(asyncio.get_running_loop().time() * 1_000)
        await self._announcer.announce(record)

    async def _watch_load(self) -> None:
        """Sample the load: how many sessions there are, and how much later than asked this task is woken."""
        loop = asyncio.get_running_loop()
        while True:
            due_s = loop.time() + SAMPLE_MS / 1_000
            await asyncio.sleep(SAMPLE_MS / 1_000)
            self._meter.sample(self._sessions(), (loop.time() - due_s) * 1_000)
            if self._meter.is_worth_telling(loop.time() * 1_000):
                self._now.set()

    async def _run(self) -> None:
        wait_s: float = self._lease_s / 2
        while True:
            try:
                async with asyncio.timeout(wait_s):
                    await self._now.wait()
            except TimeoutError:
                pass
            self._now.clear()
            try:
                await self._announce(self._addresses())
                wait_s = self._lease_s / 2
            except BlockCloudError as error:
                log.warning("announce_failed", name=self._name, reason=str(error))
                wait_s = RETRY_SECONDS
