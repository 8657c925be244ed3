"""A conversation over UDP as one session: each UDP datagram is a datagram of the session, both ways.

UDP has no end, so silence is one: a flow that nothing passed through for a while is closed, and the next datagram of
the program begins another. The stream of the session carries nothing but its end.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Final

from blockcloud.primitives.limits import SESSION_DATAGRAM_BYTES
from blockcloud.service_access.errors import SessionEnded
from blockcloud.service_access.stream import Session

FLOWS: Final = 1_024
FLOW_IDLE_SECONDS: Final = 300.0  # RFC 4787: at least two minutes, better five; a CoAP exchange lives for four


class UdpFlow:
    """See the module's text. `deliver` takes what the peer sends to the program at this end.

    `lost["oversized"]` counts datagrams of the program that do not fit into one of a session.
    """

    def __init__(
        self, session: Session, deliver: Callable[[bytes], None], idle_seconds: float, lost: Counter[str]
    ) -> None:
        self.session = session
        self._lost = lost
        self._deliver = deliver
        self._idle_seconds = idle_seconds
        self._idle: asyncio.Timeout | None = None

    def send(self, data: bytes) -> None:
        """A datagram of the program; lost if it is too large, or the session is over."""
        if len(data) > SESSION_DATAGRAM_BYTES:
            self._lost["oversized"] += 1
        elif self.session.error is None:
            self.session.send_datagram(data)
            self._touch()

    async def run(self) -> SessionEnded | None:
        """Pass datagrams until either side is silent or ends; the session's error if it ended in one. It is closed."""
        watching = asyncio.get_running_loop().create_task(self._watch_stream())
        try:
            async with asyncio.timeout(self._idle_seconds) as self._idle:
                while True:
                    self._deliver(await self.session.receive_datagram())
                    self._touch()
        except TimeoutError:
            await self.session.close()
            return None
        except SessionEnded as ended:
            return ended if self.session.error is not None else None
        except asyncio.CancelledError:
            self.session.abort("closed", "the process stops")
            raise
        finally:
            watching.cancel()

    def _touch(self) -> None:
        if self._idle is not None and not self._idle.expired():
            self._idle.reschedule(asyncio.get_running_loop().time() + self._idle_seconds)

    async def _watch_stream(self) -> None:
        try:
            if await self.session.read():
                self.session.abort("wrong_transport", "a UDP service: forward it with --udp")
            else:
                await self.session.close()
        except SessionEnded:
            return  # `run` sees it, too
