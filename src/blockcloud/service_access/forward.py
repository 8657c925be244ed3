"""`forward NAME --listen HOST:PORT`: unmodified TCP clients reach a service by connecting to a local port.

Every TCP connection is one session, so the client lives through moves of either side without knowing. When a session
ends in an error, its TCP connection is reset: the client sees an error, never a hang and never a short answer that
looks complete.
"""

from __future__ import annotations

from collections.abc import Callable

from blockcloud.service_access.connector import Connector
from blockcloud.service_access.front import Front, Room
from blockcloud.service_access.payment.purse import Wallet
from blockcloud.service_access.splice import ByteGate, TcpSide, splice


class Forwarder(Front):
    """A local listener for one name. `gate` makes what looks at the first bytes of each connection; `wallet` pays for
    services that want money."""

    kind = "forward"

    def __init__(
        self,
        name: str,
        connector: Connector,
        *,
        room: Room | None = None,
        gate: Callable[[], ByteGate] | None = None,
        wallet: Wallet | None = None,
    ) -> None:
        super().__init__(room)
        self._wallet = wallet
        self.name = name
        self._connector = connector
        self._gate = gate

    def side(self) -> TcpSide:
        return TcpSide(self._gate() if self._gate is not None else None)

    async def serve(self, tcp: TcpSide) -> None:
        session = await self._connector.connect(self.name)
        if self._wallet is not None:
            self._wallet.pays_for(session)
        ended = await splice(session, tcp)
        error = tcp.refusal or ended
        if error is not None:
            self.failed(error)

    def log_values(self) -> dict[str, str]:
        return {"name": self.name}
