"""The MQTT input: subscribes at a broker, and acknowledges a message when its readings are durable. MQTT 5, aiomqtt.

The session at the broker outlives this process, so what comes for the topics while the feed is down waits there. A
message with QoS 1 that was taken, but whose PUBACK the broker never saw, comes again: a source that numbers its
readings is counted once all the same, one that does not may count twice (`readings.Batch`). Retained messages come at
the first subscription only. What is no reading is acknowledged and counted, or it would come for ever; what cannot be
taken now is not acknowledged, and comes again over the next connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

import aiomqtt
import structlog
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from blockcloud.primitives.errors import BadConfiguration, BlockCloudError, Busy, PeerFault, Unreachable
from blockcloud.service_access.addresses import HostPort
from blockcloud.service_access.edge.feed.intake import Intake, now_us
from blockcloud.service_access.edge.feed.plain import parse_any
from blockcloud.service_access.edge.feed.secret_files import Login

IN_FLIGHT: Final = 1_000  # the broker keeps to it (Receive Maximum), and so do we
UNACKNOWLEDGED_BYTES: Final = 128 * 1024  # beyond a message's limit a broker need not send: Maximum Packet Size
SESSION_SECONDS: Final = 7 * 24 * 3_600
RETRY_SECONDS: Final = (0.5, 1, 2, 5, 10)
TOPICS: Final = 64
KEEP_ALIVE_SECONDS: Final = 20
RETAINED_WHEN_NEW: Final = 1

log = structlog.get_logger(__name__)


class AcknowledgingClient(aiomqtt.Client):
    """aiomqtt's client, in which messages are acknowledged by hand: the library below has it, this one does not pass it
    on."""

    def __init__(self, broker: HostPort, identifier: str, login: Login | None) -> None:
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.SessionExpiryInterval = SESSION_SECONDS
        properties.ReceiveMaximum = IN_FLIGHT
        properties.MaximumPacketSize = UNACKNOWLEDGED_BYTES
        super().__init__(
            *broker,
            identifier=identifier,
            username=login.user if login is not None else None,
            password=login.password if login is not None else None,
            protocol=aiomqtt.ProtocolVersion.V5,
            clean_start=False,
            properties=properties,
            keepalive=KEEP_ALIVE_SECONDS,
            max_queued_incoming_messages=2 * IN_FLIGHT,  # so that only QoS 0 can be too much
        )
        self._client.manual_ack_set(True)

    def acknowledge(self, message: aiomqtt.Message) -> None:
        """The broker need not send `message` again."""
        self._client.ack(message.mid, message.qos)


class MqttInput:
    """Takes readings from the topics of a broker into `intake`."""

    def __init__(
        self, intake: Intake, broker: HostPort, topics: Sequence[str], identifier: str, login: Login | None = None
    ) -> None:
        """Raises BadConfiguration."""
        if not topics or len(topics) > TOPICS:
            raise BadConfiguration("an MQTT input has at least one topic", topics=len(topics), limit=TOPICS)
        self.connected = asyncio.Event()
        self.last_error = ""
        self.acknowledged = 0  # messages, since the start
        self._intake = intake
        self._broker = broker
        self._topics = tuple(topics)
        self._identifier = identifier
        self._login = login

    async def run(self) -> None:
        """Take readings until cancelled, over one connection after the other."""
        failures = 0
        while True:
            try:
                async with AcknowledgingClient(self._broker, self._identifier, self._login) as client:
                    await self._subscribe(client)
                    failures = 0
                    self.connected.set()
                    await self._take_all(client)
            except (aiomqtt.MqttError, Busy, Unreachable, BlockCloudError) as error:
                self.last_error = str(error)
                log.warning("mqtt_input_interrupted", broker="{}:{}".format(*self._broker), reason=str(error))
            finally:
                self.connected.clear()
            await asyncio.sleep(RETRY_SECONDS[min(failures, len(RETRY_SECONDS) - 1)])
            failures += 1

    async def _subscribe(self, client: AcknowledgingClient) -> None:
        for topic in self._topics:
            options = SubscribeOptions(qos=1, retainHandling=RETAINED_WHEN_NEW)
            codes = await client.subscribe(topic, options=options)
            if any(getattr(code, "is_failure", False) for code in codes):
                raise Unreachable("the broker refuses the subscription", topic=topic)

    async def _take_all(self, client: AcknowledgingClient) -> None:
        """Take messages, and acknowledge them in the order in which they came (MQTT 5 section 4.6)."""
        under_way: asyncio.Queue[tuple[aiomqtt.Message, asyncio.Task[None]]] = asyncio.Queue(IN_FLIGHT)
        acknowledging = asyncio.create_task(self._acknowledge(client, under_way))
        receiving = asyncio.create_task(self._receive(client, under_way))
        try:
            done, _ = await asyncio.wait((acknowledging, receiving), return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            tasks = [acknowledging, receiving]
            while not under_way.empty():
                tasks.append(under_way.get_nowait()[1])
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _receive(
        self, client: AcknowledgingClient, under_way: asyncio.Queue[tuple[aiomqtt.Message, asyncio.Task[None]]]
    ) -> None:
        async for message in client.messages:
            await under_way.put((message, asyncio.create_task(self._take(message))))

    async def _acknowledge(
        self, client: AcknowledgingClient, under_way: asyncio.Queue[tuple[aiomqtt.Message, asyncio.Task[None]]]
    ) -> None:
        while True:
            message, taking = await under_way.get()
            await taking
            if message.qos:
                client.acknowledge(message)
                self.acknowledged += 1

    async def _take(self, message: aiomqtt.Message) -> None:
        """Take a message's readings. Raises what says that they cannot be taken now."""
        topic = str(message.topic)
        try:
            batch = parse_any(message.payload, now_us(), topic[:256], topic.strip("/"))
        except PeerFault as error:
            self._intake.count_refusal(error)
            log.info("mqtt_message_refused", topic=topic[:80], code=error.code, reason=str(error)[:200])
            return
        try:
            await self._intake.take(batch)
        except PeerFault as error:
            log.info("mqtt_message_refused", topic=topic[:80], code=error.code, reason=str(error)[:200])
