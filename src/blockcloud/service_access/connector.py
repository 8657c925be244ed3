"""Late binding: from a name to a session with the best instance that proves itself.

The service table has the first word (`steering`): DROP refuses, FORWARD names the addresses, DELAY waits. Otherwise the
name is resolved and the best three instances (`replica_choice`) are raced, 150 ms apart or as soon as one has failed.
The first that authenticates wins, and its key, which must be one that the ledger lists for the name, is pinned for the
session.
"""

from __future__ import annotations

import asyncio
from typing import Final, TypeAlias

import structlog

from blockcloud.primitives.errors import BadSignature, BlockCloudError, Busy, TimedOut, Unreachable, WrongKey
from blockcloud.primitives.names import parse_name
from blockcloud.service_access.addresses import Address
from blockcloud.service_access.admission import NO_CREDENTIALS, Credentials, PolicyDenied
from blockcloud.service_access.detours import split
from blockcloud.service_access.endpoint import ServiceEndpoint
from blockcloud.service_access.errors import SessionReset
from blockcloud.service_access.prices import Prices
from blockcloud.service_access.replica_choice import Candidate
from blockcloud.service_access.resolution import Instance, NoInstances, Resolution, Resolver
from blockcloud.service_access.session import Role
from blockcloud.service_access.steering import TableResolver, steer
from blockcloud.service_access.stream import Session

CANDIDATES: Final = 3
RACE_STAGGER_MS: Final = 150
DIAL_TIMEOUT_MS: Final = 3_000
CONNECT_TIMEOUT_MS: Final = 10_000
FRESH_ANSWERS: Final = 3  # asked for after a failure, RACE_STAGGER_MS apart
STICKY_PATIENCE_MS: Final = 1_000  # for the instance that a sticky consumer is to have
OBSERVE_MS: Final = 1_000.0
FOLLOW_SECONDS: Final = 10  # names with learned rules are resolved again, as old as this at most
FOLLOW_UNUSED_MS: Final = 120_000.0  # but not those that nobody has connected to for so long
FOLLOWED_NAMES: Final = 64
FRESHEN_SECONDS: Final = 1.0
ROUND_TRIPS: Final = 3  # that a session takes to begin over TCP: TCP's, TLS's, ours


# An instance's key, where one is meant, and the addresses to try.
Way: TypeAlias = tuple[bytes | None, list[Address]]

log = structlog.get_logger(__name__)


class Connector:
    """Begins sessions by name over `endpoint`, with `credentials`. Sessions for the same `sticky` (who asks, in any
    form) go to the same instance as long as it is healthy; empty: each to the best. `prices` are what instances are
    compared by, too, and what may forbid a session."""

    def __init__(
        self,
        endpoint: ServiceEndpoint,
        resolver: Resolver,
        credentials: Credentials = NO_CREDENTIALS,
        *,
        sticky: bytes = b"",
        prices: Prices | None = None,
    ) -> None:
        self.credentials = credentials
        self.sticky = sticky
        self._prices = prices
        self._endpoint = endpoint
        self._resolver = TableResolver(resolver, endpoint)
        self._observed_ms = float("-inf")
        if endpoint.resolver is None:
            endpoint.resolver = self._resolver

    async def connect(self, name: str, *, timeout_ms: float = CONNECT_TIMEOUT_MS) -> Session:
        """A session with an instance of `name`.

        Raises InvalidName, AccessDenied, NoVerdict, TooManyWaiting, PolicyDenied, whatever the resolver raises,
        NoInstances, PriceAboveMaximum, OtherPriceUnit, WrongKey or BadSignature (whoever answers is not the service),
        Unreachable, TimedOut.
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
        if self._prices is not None:
            await self._prices.check(resolution)
        if addresses:  # where the user wants it, or nowhere
            return await self._race(resolution, [(None, [each]) for each in addresses])
        try:
            return await self._race(resolution, self._ranked(resolution))
        except (Unreachable, TimedOut, WrongKey, BadSignature, SessionReset) as error:
            fresh = await self._changed(resolution)
            if fresh is None:
                raise error
            if self._prices is not None:
                await self._prices.check(fresh)
            return await self._race(fresh, self._ranked(fresh))

    async def keep_fresh(self) -> None:
        """Until cancelled: let the table follow new records and the ledger, and ask instances that have failed whether
        they are well again. For whoever connects more than once."""
        while True:
            now_ms = self._endpoint.now_ms()
            self._endpoint.table.expire(now_ms)
            self._observe(now_ms)
            for name in self._endpoint.table.names_used_since(now_ms - FOLLOW_UNUSED_MS)[:FOLLOWED_NAMES]:
                await self._freshen(name)
            await asyncio.sleep(FRESHEN_SECONDS)

    async def _freshen(self, name: str) -> None:
        try:
            resolution = await self._resolver.resolve(name, max_age_s=FOLLOW_SECONDS)
        except BlockCloudError as error:
            log.info("follow_failed", name=name, reason=str(error))
            return
        instances = {each.key: each for each in resolution.instances if each.addresses()}
        for key in self._endpoint.choice.probes(instances, self._endpoint.now_ms()):
            await self._probe(name, instances[key])

    async def _probe(self, name: str, instance: Instance) -> None:
        endpoint = self._endpoint
        try:
            address = instance.addresses()[0]
            took_ms = await endpoint.probe(name, address, instance.key, timeout_ms=DIAL_TIMEOUT_MS)
        except BlockCloudError as error:
            endpoint.choice.failed(instance.key, endpoint.now_ms())
            log.info("probe_failed", name=name, key=instance.key.hex()[:16], reason=str(error))
        else:
            endpoint.choice.measured(instance.key, took_ms, endpoint.now_ms())

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

    async def _race(self, resolution: Resolution, candidates: list[Way]) -> Session:
        """The first of the candidates that authenticates; the others are stopped."""
        if not candidates:
            raise NoInstances("no instance of the name has a live address", name=resolution.name)
        stagger_ms = STICKY_PATIENCE_MS if self.sticky else RACE_STAGGER_MS
        ways = [(key, split(addresses)) for key, addresses in candidates[:CANDIDATES]]
        # Relays after all direct ways, and beside them: a direct dial into somebody's NAT ends only with its time.
        waiting = [(key, direct) for key, (direct, _) in ways if direct]
        waiting += [(key, relays) for key, (_, relays) in ways if relays]
        if len(waiting) == 1:  # no race, and none of its tasks and timers
            session = await self._try(resolution, *waiting[0])
            self._won(session)
            return session
        running: set[asyncio.Task[Session]] = set()
        errors: list[BlockCloudError] = []
        try:
            while waiting or running:
                if waiting:
                    key, addresses = waiting.pop(0)
                    running.add(asyncio.create_task(self._try(resolution, key, addresses)))
                done, running = await asyncio.wait(
                    running,
                    timeout=stagger_ms / 1_000 if waiting else None,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                winners = [task.result() for task in done if task.exception() is None]
                for loser in winners[1:]:
                    loser.abort("closed", "another instance was faster")
                if winners:
                    self._won(winners[0])
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

    def _won(self, session: Session) -> None:
        endpoint = self._endpoint
        endpoint.table.used(session.name, session.peer_key, endpoint.now_ms())
        if self.sticky:
            endpoint.choice.stick(session.name, self.sticky, session.peer_key)

    async def _try(self, resolution: Resolution, key: bytes | None, addresses: list[Address]) -> Session:
        """A session with one instance, at the first of its addresses that answers."""
        endpoint = self._endpoint
        started_ms = endpoint.now_ms()
        last: BlockCloudError = Unreachable("the instance has no address", name=resolution.name)
        try:
            for address in addresses:
                try:
                    return await endpoint.open(
                        resolution.name,
                        address,
                        resolution.instance_keys,
                        timeout_ms=DIAL_TIMEOUT_MS,
                        credentials=self.credentials,
                        instance=key or b"",
                    )
                except BlockCloudError as error:
                    last = error
        except asyncio.CancelledError:
            if key is not None:
                endpoint.choice.outrun(key, (endpoint.now_ms() - started_ms) / ROUND_TRIPS, endpoint.now_ms())
            raise
        if key is not None and not isinstance(last, PolicyDenied | Busy):
            endpoint.choice.failed(key, endpoint.now_ms())
        raise last

    def _ranked(self, resolution: Resolution) -> list[Way]:
        """How to reach the instances whose key the ledger lists and that have an address, best first."""
        now_ms = self._endpoint.now_ms()
        self._observe(now_ms)
        usable = {
            each.key: each for each in resolution.instances if each.key in resolution.instance_keys and each.addresses()
        }
        price = self._prices.known_micro_bloc(resolution) if self._prices is not None else None
        candidates = [
            Candidate(each.key, each.load, each.priority(), each.weight(), price, each.draining)
            for each in usable.values()
        ]
        order = self._endpoint.choice.rank(resolution.name, candidates, now_ms, sticky=self.sticky)
        return [(each.key, usable[each.key].addresses()) for each in order]

    def _observe(self, now_ms: float) -> None:
        """Take the round trips that running sessions have measured since the last time."""
        if now_ms - self._observed_ms < OBSERVE_MS:
            return
        for session in self._endpoint.sessions.values():
            seen = session.statistics
            if session.role is Role.INITIATOR and seen.round_trip_at_ms > self._observed_ms:
                self._endpoint.choice.measured(session.peer_key, seen.round_trip_ms, now_ms)
        self._observed_ms = now_ms


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
