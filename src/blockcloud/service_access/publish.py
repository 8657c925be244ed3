"""`publish NAME --to HOST:PORT`: an unmodified TCP server becomes a service with a name.

Every session is spliced to a TCP connection of its own to the server.
"""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from blockcloud.service_access.addresses import HostPort
from blockcloud.service_access.errors import SessionEnded
from blockcloud.service_access.listener import Listener
from blockcloud.service_access.payment.errors import NotPaid
from blockcloud.service_access.payment.till import Meter, Till
from blockcloud.service_access.splice import TcpSide, splice
from blockcloud.service_access.stream import Session

SERVER_CONNECT_SECONDS: Final = 5.0

log = structlog.get_logger(__name__)


async def publish(listener: Listener, server: HostPort, till: Till | None = None) -> None:
    """Pass every session of `listener` on to `server`, until cancelled; with `till`, those that pay."""
    running: set[asyncio.Task[None]] = set()
    try:
        async for session in listener:
            task = asyncio.get_running_loop().create_task(_serve(session, server, till))
            running.add(task)
            task.add_done_callback(running.discard)
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def _serve(session: Session, server: HostPort, till: Till | None) -> None:
    if till is None:
        await _pass_on(session, server, None)
        return
    meter = till.meter(session)
    keeping = [asyncio.create_task(meter.run()), asyncio.create_task(meter.watch())]
    try:
        await meter.room()  # a server is not troubled for somebody who never pays
        await _pass_on(session, server, meter)
    except NotPaid as error:
        session.abort(error.code, str(error))
    except SessionEnded as error:
        log.info("session_ended", name=session.name, code=error.code, reason=str(error))
    finally:
        for task in keeping:
            task.cancel()
        await asyncio.gather(*keeping, return_exceptions=True)


async def _pass_on(session: Session, server: HostPort, meter: Meter | None) -> None:
    tcp = TcpSide(meter=meter)
    host, port = server
    try:
        async with asyncio.timeout(SERVER_CONNECT_SECONDS):
            await asyncio.get_running_loop().create_connection(lambda: tcp, host, port)
    except OSError as error:  # TimeoutError is one
        log.warning("server_unreachable", name=session.name, server=f"{host}:{port}", reason=str(error))
        session.abort("server_unreachable", "the server behind the service does not answer")
        return
    ended = await splice(session, tcp)
    if ended is not None:
        log.info("session_ended", name=session.name, code=ended.code, reason=str(ended))
