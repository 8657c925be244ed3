"""Publishes a feed's series at an MQTT broker for Home Assistant (`home_assistant`), over a connection of its own."""

from __future__ import annotations

import asyncio
import importlib.metadata
from typing import Final

import aiomqtt
import msgspec
import structlog

from blockcloud.service_access.addresses import HostPort
from blockcloud.service_access.edge.feed import home_assistant
from blockcloud.service_access.edge.feed.board import Board
from blockcloud.service_access.edge.feed.core import Sample
from blockcloud.service_access.edge.feed.secret_files import Login

ROUND_SECONDS: Final = 1.0
RETRY_SECONDS: Final = 5.0

log = structlog.get_logger(__name__)


class HomeAssistantPublisher:
    """Keeps the discovery messages and states of `board` at the broker."""

    def __init__(self, feed: str, broker: HostPort, board: Board, login: Login | None = None) -> None:
        self.announced: dict[str, str] = {}  # topic of the discovery message, by series
        self._feed = feed
        self._broker = broker
        self._board = board
        self._user = login.user if login is not None else None
        self._password = login.password if login is not None else None

    async def run(self) -> None:
        """Publish until cancelled, over one connection after the other."""
        availability = home_assistant.availability_topic(self._feed)
        will = aiomqtt.Will(availability, home_assistant.OFFLINE, qos=1, retain=True)
        while True:
            try:
                async with aiomqtt.Client(
                    *self._broker, username=self._user, password=self._password, will=will
                ) as client:
                    self.announced.clear()
                    await client.publish(availability, home_assistant.ONLINE, qos=1, retain=True)
                    try:
                        await self._publish(client)
                    finally:
                        await client.publish(availability, home_assistant.OFFLINE, qos=1, retain=True)
            except aiomqtt.MqttError as error:
                log.warning("home_assistant_interrupted", feed=self._feed, reason=str(error))
            await asyncio.sleep(RETRY_SECONDS)

    async def _publish(self, client: aiomqtt.Client) -> None:
        seen = 0
        while True:
            for version, (_, entry) in self._board.changes(seen):
                if isinstance(entry, Sample) and home_assistant.can_show(entry):
                    await self._show(client, entry)
                seen = version
            await asyncio.sleep(ROUND_SECONDS)

    async def _show(self, client: aiomqtt.Client, sample: Sample) -> None:
        series = sample.reading.series
        topic, payload = home_assistant.config(self._feed, sample, importlib.metadata.version("blockcloud"))
        before = self.announced.get(series)
        if before != topic:
            if before is not None:  # it was a number and is a truth value now, or the other way round
                await client.publish(before, b"", qos=1, retain=True)
            await client.publish(topic, msgspec.json.encode(payload), qos=1, retain=True)
            self.announced[series] = topic
        state = msgspec.json.encode(home_assistant.state(sample))
        await client.publish(home_assistant.state_topic(self._feed, series), state, retain=True)
