"""Sessions that need a new link: one task each, which searches for the peer until the core gives up.

The side that began the session searches at once. The other waits half the dead time first, so that not both dial; it
can only dial where its peer listens. How peers are found: `peer_search`.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from blockcloud.service_access.peer_search import PeerSearch
from blockcloud.service_access.session import Role, State
from blockcloud.service_access.stream import Session

if TYPE_CHECKING:
    from blockcloud.service_access.endpoint import ServiceEndpoint

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
        if not self._wanted(session):
            return
        limit_ms = endpoint.parameters.give_up_ms
        if core.state is State.DETACHED:
            await PeerSearch(endpoint, session).run(limit_ms=limit_ms)
            return
        asked_ms = core.dial_due_ms
        await PeerSearch(endpoint, session).run(limit_ms=limit_ms, rounds=1)
        if core.dial_due_ms == asked_ms:
            core.dial_due_ms = None  # nobody answered where the peer asked to be dialled, and the old link still works
