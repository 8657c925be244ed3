"""Where is the peer? The ways to find it again, side by side, and the first that leads there ends the search.

    known       the addresses that the peer said last: at once, one at a time and relays beside, round after round
    registry    after a moment: the name is resolved again, and what is new there is dialled (the side that began)
    announce    after a moment, if the old link is still up: MOVED, so that the peer dials us (after a move of ours)

Nearly always the first way is there before the moment is over, so that a move does not touch ledger or registry. When
both ends have moved at once, none of the known addresses answers and none says so: then the moment is all that is lost.
DESIGN section 5.2.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
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

MOMENT_MS: Final = 25
FIRST_PAUSE_MS: Final = 20
LAST_PAUSE_MS: Final = 500
ROUNDS: Final = 100
ROUNDS_UNKNOWN: Final = 3  # so often the known addresses may say that they do not know the session

log = structlog.get_logger(__name__)


class PeerSearch:
    """One search for the peer of `session`. `wanted` says which of the known addresses are dialled (all)."""

    def __init__(
        self, endpoint: ServiceEndpoint, session: Session, wanted: Callable[[Address], bool] = lambda _: True
    ) -> None:
        self._endpoint, self._session, self._wanted = endpoint, session, wanted
        self._before = session.core.link
        self._dialled_now: dict[Address, None] = {}
        self._unknown_rounds = 0
        # Whether the registry has said all that it can: who does not ask it has heard it all.
        self._registry_heard = not self._asks_registry

    @property
    def _asks_registry(self) -> bool:
        return self._endpoint.resolver is not None and self._session.role is Role.INITIATOR

    async def run(self, *, limit_ms: float, rounds: int = ROUNDS, announce: bool = False) -> bool:
        """Whether the session has a new link; False when all ways have ended or `limit_ms` is over.

        `rounds` bounds how often the known addresses are tried. With `announce` the peer is told where we are.
        """
        ways = [self._known(rounds)]
        if self._asks_registry:
            ways.append(self._registry(rounds if not announce else ROUNDS))
        if announce and self._endpoint.addresses:
            ways.append(self._announce())
        loop = asyncio.get_running_loop()
        trying = asyncio.gather(*ways)
        attached = loop.create_task(self._session.attached_beyond(self._before))
        try:
            await asyncio.wait((trying, attached), timeout=limit_ms / 1_000, return_when=asyncio.FIRST_COMPLETED)
        finally:
            trying.cancel()
            attached.cancel()
            results = await asyncio.gather(trying, attached, return_exceptions=True)
        for error in results:
            if isinstance(error, Exception):
                raise error
        return self._session.core.link > self._before

    # --- the ways ---------------------------------------------------------------------------------------------------

    async def _known(self, rounds: int) -> None:
        pause_ms = FIRST_PAUSE_MS
        for number in range(rounds):
            if number:
                await asyncio.sleep(pause_ms / 1_000)
                pause_ms = min(2 * pause_ms, LAST_PAUSE_MS)
            addresses = [each for each in dialled(self._session.core.peer_addresses) if self._wanted(each)]
            answers = await self._try_all(addresses)
            self._unknown_rounds = self._unknown_rounds + 1 if "unknown_session" in answers.values() else 0
            self._give_up_if_unknown()

    async def _registry(self, rounds: int) -> None:
        pause_ms = MOMENT_MS
        for _ in range(rounds):
            await asyncio.sleep(pause_ms / 1_000)
            pause_ms = min(2 * pause_ms, LAST_PAUSE_MS)
            known = dialled(self._session.core.peer_addresses)
            found = await self._resolved()
            await self._try_all([each for each in found if each not in known and each not in self._dialled_now])
            self._registry_heard = True
            self._give_up_if_unknown()

    async def _announce(self) -> None:
        await asyncio.sleep(MOMENT_MS / 1_000)
        if self._session.linked and self._session.core.link == self._before:
            self._session.announce_move(self._endpoint.addresses)
        await self._session.attached_beyond(self._before)

    def _give_up_if_unknown(self) -> None:
        if self._unknown_rounds >= ROUNDS_UNKNOWN and self._registry_heard:
            self._session.lose("the instance has restarted and does not know the session any more")

    # --- steps ------------------------------------------------------------------------------------------------------

    async def _try_all(self, addresses: Sequence[Address]) -> dict[Address, str]:
        """Dial the addresses until the session has a link: what `_try` says of each."""
        answers: dict[Address, str] = {}

        async def attempt(some: Sequence[Address]) -> bool:
            for address in some:
                answers[address] = await self._try(address)
            return self._session.core.link > self._before

        await direct_or_relayed(addresses, attempt)
        return answers

    async def _try(self, address: Address) -> str:
        """Dial one address; "" if the session has a link now, else the code of what went wrong."""
        session = self._session
        if session.core.state not in (State.ATTACHED, State.DETACHED) or session.core.link > self._before:
            return ""
        self._dialled_now[address] = None
        try:
            await self._endpoint.resume(session, address, timeout_ms=self._endpoint.parameters.dead_after_ms)
        except SessionReset as refused:
            log.info("resume_refused", name=session.name, address=str(address), code=refused.reset_code)
            return refused.reset_code
        except BlockCloudError as error:
            log.info("resume_failed", name=session.name, address=str(address), reason=str(error))
            return error.code
        finally:
            del self._dialled_now[address]
        return ""

    async def _resolved(self) -> list[Address]:
        """Where the registry says that our peer is now. A key that the ledger no longer lists ends the session."""
        resolver, session = self._endpoint.resolver, self._session
        assert resolver is not None
        try:
            resolution = await resolver.resolve(session.name, max_age_s=0)
        except BlockCloudError as error:
            log.info("resolve_failed", name=session.name, reason=str(error))
            return []
        if session.peer_key not in resolution.instance_keys:
            session.abort("key_revoked", "the ledger does not list the instance's key any more")
            return []
        mine = [instance for instance in resolution.instances if instance.key == session.peer_key]
        return [address for instance in mine for address in dialled(instance.addresses())]
