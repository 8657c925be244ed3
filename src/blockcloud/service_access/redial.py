"""How a session gets a new link after it lost one: known addresses first, then the registry, until it gives up.

The side that began the session dials at once. The other waits half the dead time first, so that not both dial; it can
only dial where its peer listens. One task a session, one address at a time, a growing pause between rounds, and an end:
the core gives up after `give_up_ms`. The name is resolved again only when no known address answers: chain and registry
are never in the path of a move.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import structlog

from blockcloud.primitives.errors import BlockCloudError
from blockcloud.service_access.addresses import Address, dialled
from blockcloud.service_access.detours import direct_or_relayed
from blockcloud.service_access.errors import SessionReset
from blockcloud.service_access.session import Role, State
from blockcloud.service_access.stream import Session

if TYPE_CHECKING:
    from blockcloud.service_access.endpoint import ServiceEndpoint

FIRST_PAUSE_MS: Final = 20
LAST_PAUSE_MS: Final = 500
ROUNDS: Final = 100
ROUNDS_UNKNOWN: Final = 3  # so often all addresses may say that they do not know the session

log = structlog.get_logger(__name__)


class Redialler:
    """One task for each session that needs a link."""

    def __init__(self, endpoint: ServiceEndpoint) -> None:
        self._endpoint = endpoint
        self._tasks: dict[bytes, asyncio.Task[None]] = {}

    def start(self, session: Session) -> None:
        """Look for a link for `session`, unless that is under way."""
        session_id = session.core.session_id
        if session_id not in self._tasks:
            task = asyncio.get_running_loop().create_task(self._run(session))
            self._tasks[session_id] = task
            task.add_done_callback(lambda done: self._done(session, done))

    def stop(self, session: Session) -> None:
        """The session is over."""
        task = self._tasks.get(session.core.session_id)
        if task is not None:
            task.cancel()

    def close(self) -> None:
        """Stop all."""
        for task in self._tasks.values():
            task.cancel()

    def tasks(self) -> list[asyncio.Task[None]]:
        """Those that run."""
        return list(self._tasks.values())

    def _done(self, session: Session, task: asyncio.Task[None]) -> None:
        self._tasks.pop(session.core.session_id, None)
        if task.cancelled():
            return
        if task.exception() is not None:
            log.error("redial_failed", name=session.name, error=repr(task.exception()))
        elif self._wanted(session):  # lost again in the moment in which the task ended
            self._endpoint.link_needed(session)

    def _wanted(self, session: Session) -> bool:
        core = session.core
        return core.state is State.DETACHED or (core.state is State.ATTACHED and core.dial_due_ms is not None)

    async def _run(self, session: Session) -> None:
        core, endpoint = session.core, self._endpoint
        if core.dial_due_ms is not None:
            await asyncio.sleep(max(0.0, core.dial_due_ms - endpoint.now_ms()) / 1_000)
        elif core.role is Role.RESPONDER:
            await asyncio.sleep(endpoint.parameters.dead_after_ms / 2_000)
        pause_ms = FIRST_PAUSE_MS
        unknown = 0
        for _ in range(ROUNDS):
            if not self._wanted(session):
                return
            answers: dict[Address, str] = {}
            if await self._try_all(session, dialled(core.peer_addresses), answers):
                return
            others = [each for each in await self._resolve(session) if each not in answers]
            if await self._try_all(session, others, answers) or not self._wanted(session):
                return
            core.dial_due_ms = None
            if core.state is State.ATTACHED:
                return  # the peer asked to be dialled, nobody answered there, and the old link still works
            unknown = unknown + 1 if "unknown_session" in answers.values() else 0
            if unknown >= ROUNDS_UNKNOWN:
                session.lose("the instance has restarted and does not know the session any more")
                return
            await asyncio.sleep(pause_ms / 1_000)
            pause_ms = min(2 * pause_ms, LAST_PAUSE_MS)

    async def _try_all(self, session: Session, addresses: Sequence[Address], answers: dict[Address, str]) -> bool:
        """Dial the addresses until the session needs no link any more; whether it does not. `answers`: see `_try`."""

        async def attempt(some: Sequence[Address]) -> bool:
            for address in some:
                answers[address] = await self._try(session, address)
            return not self._wanted(session)

        return await direct_or_relayed(addresses, attempt)

    async def _try(self, session: Session, address: Address) -> str:
        """Dial one address; "" if the session has a link now, else the code of what went wrong."""
        if not self._wanted(session):
            return ""
        try:
            await self._endpoint.resume(session, address, timeout_ms=self._endpoint.parameters.dead_after_ms)
        except SessionReset as refused:
            log.info("resume_refused", name=session.name, address=str(address), code=refused.reset_code)
            return refused.reset_code
        except BlockCloudError as error:
            log.info("resume_failed", name=session.name, address=str(address), reason=str(error))
            return error.code
        return ""

    async def _resolve(self, session: Session) -> list[Address]:
        """Where the registry says that our peer is now. A key that the ledger no longer lists ends the session."""
        resolver = self._endpoint.resolver
        if resolver is None or session.role is not Role.INITIATOR:
            return []
        try:
            resolution = await resolver.resolve(session.name, max_age_s=0)
        except BlockCloudError as error:
            log.info("resolve_failed", name=session.name, reason=str(error))
            return []
        if session.peer_key not in resolution.instance_keys:
            session.abort("key_revoked", "the ledger does not list the instance's key any more")
            return []
        return [
            address
            for instance in resolution.instances
            if instance.key == session.peer_key
            for address in instance.addresses()
        ]
