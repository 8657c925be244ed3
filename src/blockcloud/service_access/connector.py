"""Late binding: from a name to a session with the best instance that proves itself.

The service table has the first word (DROP refuses, FORWARD names the addresses); otherwise the name is resolved and the
best three instances are raced, 150 ms apart or as soon as one has failed. Best means: lowest priority value, then the
measured time of earlier connects, then load. The first that authenticates wins, and its key, which must be one that the
ledger lists for the name, is pinned for the session.
"""

from __future__ import annotations

import asyncio
import os
from collections import OrderedDict
from typing import Final

from blockcloud.primitives.errors import BadSignature, BlockCloudError, TimedOut, Unreachable, WrongKey
from blockcloud.primitives.names import parse_name
from blockcloud.service_access.addresses import Address
from blockcloud.service_access.admission import NO_CREDENTIALS, Credentials, PolicyDenied
from blockcloud.service_access.detours import split
from blockcloud.service_access.endpoint import ServiceEndpoint
from blockcloud.service_access.resolution import Instance, NoInstances, Resolution, Resolver
from blockcloud.service_access.steering import TableResolver, steer
from blockcloud.service_access.stream import Session

CANDIDATES: Final = 3
RACE_STAGGER_MS: Final = 150
DIAL_TIMEOUT_MS: Final = 3_000
CONNECT_TIMEOUT_MS: Final = 10_000
FRESH_ANSWERS: Final = 3  # asked for after a failure, RACE_STAGGER_MS apart
MEASURED_INSTANCES: Final = 4_096
UNMEASURED_MS: Final = 50.0


class Connector:
    """Begins sessions by name over `endpoint`, with `credentials`. Remembers how long instances took to answer."""

    def __init__(
        self, endpoint: ServiceEndpoint, resolver: Resolver, credentials: Credentials = NO_CREDENTIALS
    ) -> None:
        self.credentials = credentials
        self._endpoint = endpoint
        self._resolver = TableResolver(resolver, endpoint)
        self._measured: OrderedDict[bytes, float] = OrderedDict()
        if endpoint.resolver is None:
            endpoint.resolver = self._resolver

    async def connect(self, name: str, *, timeout_ms: float = CONNECT_TIMEOUT_MS) -> Session:
        """A session with an instance of `name`.

        Raises InvalidName, AccessDenied, NoVerdict, TooManyWaiting, PolicyDenied, whatever the resolver raises,
        NoInstances, WrongKey or BadSignature (whoever answers is not the service), Unreachable, TimedOut.
        """
        parse_name(name)
        try:
            async with asyncio.timeout(timeout_ms / 1_000):
                return await self._connect(name)
        except TimeoutError:
            raise TimedOut("no session within the time allowed", name=name, timeout_ms=round(timeout_ms)) from None

    async def _connect(self, name: str) -> Session:
        addresses = await steer(self._endpoint, name)
        try:
            resolution = await self._resolver.resolve(name)
        except NoInstances as error:
            if not addresses or error.resolution is None:
                raise
            resolution = error.resolution
        try:
            return await self._race(resolution, addresses)
        except (Unreachable, TimedOut, WrongKey, BadSignature) as error:
            fresh = await self._changed(resolution)
            if fresh is None:
                raise error
            return await self._race(fresh, ())

    async def _changed(self, failed: Resolution) -> Resolution | None:
        """Another answer than the one that led nowhere, or None if there is none within a moment.

        It may have come from a cache, or the instances are moving just now and have not announced themselves yet.
        """
        for _ in range(FRESH_ANSWERS):
            fresh = await self._resolver.resolve(failed.name, max_age_s=0)
            if (fresh.instances, fresh.instance_keys) != (failed.instances, failed.instance_keys):
                return fresh
            await asyncio.sleep(RACE_STAGGER_MS / 1_000)
        return None

    async def _race(self, resolution: Resolution, forced: tuple[Address, ...]) -> Session:
        """The first of the candidates that authenticates; the others are stopped."""
        if forced:
            candidates: list[tuple[bytes | None, list[Address]]] = [(None, [each]) for each in forced[:CANDIDATES]]
        else:
            ways = [(each.key, split(each.addresses())) for each in self._ranked(resolution)[:CANDIDATES]]
            # Relays after all direct ways, and beside them: a direct dial into somebody's NAT ends only with its time.
            candidates = [(key, direct) for key, (direct, _) in ways if direct]
            candidates += [(key, relays) for key, (_, relays) in ways if relays]
        if not candidates:
            raise NoInstances("no instance of the name has a live address", name=resolution.name)
        waiting = list(candidates)
        running: set[asyncio.Task[Session]] = set()
        errors: list[BlockCloudError] = []
        try:
            while waiting or running:
                if waiting:
                    key, addresses = waiting.pop(0)
                    running.add(asyncio.create_task(self._try(resolution, key, addresses)))
                done, running = await asyncio.wait(
                    running,
                    timeout=RACE_STAGGER_MS / 1_000 if waiting else None,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                winners = [task.result() for task in done if task.exception() is None]
                for loser in winners[1:]:
                    loser.abort("closed", "another instance was faster")
                if winners:
                    return winners[0]
                errors += [_as_error(task.exception()) for task in done]
        finally:
            for task in running:
                task.cancel()
            late = await asyncio.gather(*running, return_exceptions=True)
            for each in late:
                if isinstance(each, Session):
                    each.abort("closed", "another instance was faster")
        raise _worst(errors, resolution.name)

    async def _try(self, resolution: Resolution, key: bytes | None, addresses: list[Address]) -> Session:
        """A session with one instance, at the first of its addresses that answers."""
        started_ms = self._endpoint.now_ms()
        last: BlockCloudError = Unreachable("the instance has no address", name=resolution.name)
        for address in addresses:
            try:
                session = await self._endpoint.open(
                    resolution.name,
                    address,
                    resolution.instance_keys,
                    timeout_ms=DIAL_TIMEOUT_MS,
                    credentials=self.credentials,
                    instance=key or b"",
                )
            except BlockCloudError as error:
                last = error
                continue
            self._endpoint.table.used(resolution.name, session.peer_key, self._endpoint.now_ms())
            self._measure(session.peer_key, self._endpoint.now_ms() - started_ms)
            return session
        if key is not None:
            self._measure(key, float(DIAL_TIMEOUT_MS))
        raise last

    def _ranked(self, resolution: Resolution) -> list[Instance]:
        """Instances whose key the ledger lists and that have an address, best first."""
        usable = [each for each in resolution.instances if each.key in resolution.instance_keys and each.addresses()]

        def rank(instance: Instance) -> tuple[int, float, int, bytes]:
            # Differences below 10 ms are noise; load decides then, and chance among equals.
            measured = self._measured.get(instance.key, UNMEASURED_MS) // 10
            return instance.priority(), measured, instance.load, os.urandom(4)

        return sorted(usable, key=rank)

    def _measure(self, key: bytes, took_ms: float) -> None:
        before = self._measured.pop(key, took_ms)
        self._measured[key] = 0.7 * before + 0.3 * took_ms
        if len(self._measured) > MEASURED_INSTANCES:
            self._measured.popitem(last=False)


def _as_error(error: BaseException | None) -> BlockCloudError:
    """Errors of ours are answers; anything else is a bug and goes on up."""
    if isinstance(error, BlockCloudError):
        return error
    raise error if error is not None else RuntimeError("a task without error has no session")


def _worst(errors: list[BlockCloudError], name: str) -> BlockCloudError:
    """What to tell: an impostor or a refusal by policy before anything else, then the last reason."""
    for error in errors:
        if isinstance(error, WrongKey | BadSignature | PolicyDenied):
            return error
    if len(errors) == 1:
        return errors[0]
    return Unreachable("no instance of the name could be reached", name=name, reasons=[str(each) for each in errors])
