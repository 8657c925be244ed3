"""The SOCKS5 proxy: `socks` over sockets. One CONNECT is one session."""

from __future__ import annotations

import asyncio
from typing import Final

from blockcloud.primitives.errors import BlockCloudError
from blockcloud.service_access.connector import Connector
from blockcloud.service_access.front import Front, Room
from blockcloud.service_access.proxy.errors import SocksRefused
from blockcloud.service_access.proxy.names import ServiceNames
from blockcloud.service_access.proxy.socks import Reply, SocksConversation, SocksRequest, reply, reply_to
from blockcloud.service_access.splice import TcpSide, splice

GREETING_SECONDS: Final = 10.0


class SocksProxy(Front):
    """See the module's text. `token`, where there is one, is the password that programs must show."""

    kind = "socks"

    def __init__(
        self, connector: Connector, names: ServiceNames, *, token: bytes = b"", room: Room | None = None
    ) -> None:
        super().__init__(room)
        self._connector = connector
        self._names = names
        self._token = token

    async def serve(self, tcp: TcpSide) -> None:
        async with asyncio.timeout(GREETING_SECONDS):
            request = await self._request(tcp)
        if request is None:
            tcp.close()
            return
        try:
            session = await self._connector.connect(self._names.service(request.host))
        except BlockCloudError as error:
            self.failed(error)
            await tcp.write([memoryview(reply_to(error))])
            tcp.close()
            return
        await tcp.write([memoryview(reply(Reply.SUCCEEDED))])
        ended = await splice(session, tcp)
        if ended is not None:
            self.failed(ended)

    async def _request(self, tcp: TcpSide) -> SocksRequest | None:
        """What the program asks for; None if it leaves, or was refused."""
        conversation = SocksConversation(self._token)
        while conversation.request is None:
            data = await tcp.receive()
            if not data:
                return None
            try:
                answer = conversation.receive(data)
            except SocksRefused as error:
                self.failed(error)
                await tcp.write([memoryview(error.answer)])
                return None
            if answer:
                await tcp.write([memoryview(answer)])
        tcp.put_back(conversation.rest)
        return conversation.request
