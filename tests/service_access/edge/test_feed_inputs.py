"""Readings come in by MQTT, HTTP and CoAP, from programs that know nothing of us; what is acknowledged is durable."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import aiocoap
import aiomqtt
import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockcloud.primitives.errors import BadConfiguration
from blockcloud.service_access.edge.feed import senml
from blockcloud.service_access.edge.feed.coap_exchange import LIFETIME_MS, REMEMBERED, CoapExchanges, Request
from blockcloud.service_access.edge.feed.intake import now_us
from blockcloud.service_access.edge.feed.node import Feed, open_feed
from blockcloud.service_access.edge.feed.readings import Batch, Reading
from tests.service_access.access_world import bounded
from tests.service_access.edge.feed_world import (
    COAP_CLIENT,
    FEED,
    SETTINGS,
    mosquitto,
    needs_coap_client,
    needs_curl,
    needs_mosquitto,
    needs_mosquitto_pub,
    run,
    until_true,
)

TOKEN = b"0123456789abcdef"
PEER = ("127.0.0.1", 5683)


@pytest.fixture
async def feed(tmp_path: Path) -> AsyncIterator[Feed]:
    async with open_feed(FEED, tmp_path / "feed.sqlite", SETTINGS) as running:
        yield running


def newest(feed: Feed) -> dict[str, object]:
    return {name: each.state.newest.value for name, each in feed.core.series.items()}


# --- HTTP -----------------------------------------------------------------------------------------------------------


@needs_curl
async def test_curl_sends_a_reading(feed: Feed) -> None:
    host, port = await feed.take_http(("127.0.0.1", 0))
    url = f"http://{host}:{port}/readings/porch/t"
    code, output = await run("curl", "-sS", "-H", "content-type: application/json", "-d", "21.5", url)
    assert (code, output) == (0, '{"taken":1}\n')
    assert newest(feed) == {"porch/t": 21.5}
    assert feed.readers.tail.reached == 1  # durable before it was answered


async def test_http_takes_every_format_and_counts_a_repetition_once(feed: Feed) -> None:
    host, port = await feed.take_http(("127.0.0.1", 0))
    batch = Batch("porch-1", (Reading("porch/t", now_us(), 20.0), Reading("porch/h", now_us(), 40.0)), 7)
    bodies = [
        ("application/senml+json", senml.render_json(batch)),
        ("application/senml+cbor", senml.render_cbor(batch)),
    ]
    async with httpx2.AsyncClient(base_url=f"http://{host}:{port}") as client:
        taken = [
            (await client.post("/readings", content=body, headers={"content-type": kind})).json()["taken"]
            for kind, body in bodies
        ]
    assert taken == [2, 0]
    assert feed.core.counts["readings_duplicate"] == 2


@pytest.mark.parametrize(
    ("method", "path", "kind", "body", "status", "code"),
    [
        ("POST", "/readings/t", "application/json", b"[", 400, "bad_reading"),
        ("POST", "/readings/t", "text/plain", b"1", 415, "unknown_format"),
        ("POST", "/readings/t", "", b"1", 415, "unknown_format"),
        ("GET", "/readings/t", "application/json", b"", 405, "wrong_method"),
        ("POST", "/elsewhere", "application/json", b"1", 404, "unknown_path"),
        ("POST", "/readings/t", "application/json", b"1" * 70_000, 413, "oversized"),
        ("POST", "/readings/t", "application/json", b'{"value":1,"time":2000000000}', 422, "from_the_future"),
        ("POST", "/readings", "application/senml+json", b'[{"n":"a","v":1,"x_":1}]', 400, "senml_not_understood"),
    ],
)
async def test_http_refuses_with_a_reason(
    feed: Feed, method: str, path: str, kind: str, body: bytes, status: int, code: str
) -> None:
    host, port = await feed.take_http(("127.0.0.1", 0))
    async with httpx2.AsyncClient(base_url=f"http://{host}:{port}") as client:
        answer = await client.request(method, path, content=body, headers={"content-type": kind} if kind else {})
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert feed.intake.refused[code] == 1
    assert not feed.core.series


async def test_a_token_is_asked_for(feed: Feed) -> None:
    host, port = await feed.take_http(("127.0.0.1", 0), TOKEN)
    headers = {"content-type": "application/json"}
    async with httpx2.AsyncClient(base_url=f"http://{host}:{port}") as client:
        refused = await client.post("/readings/t", content=b"1", headers=headers)
        wrong = await client.post("/readings/t", content=b"1", headers=headers | {"authorization": "Bearer x"})
        right = await client.post(
            "/readings/t", content=b"1", headers=headers | {"authorization": f"Bearer {TOKEN.decode()}"}
        )
    assert [refused.status_code, wrong.status_code, right.status_code] == [401, 401, 200]


async def test_garbage_at_the_http_port_harms_nobody(feed: Feed) -> None:
    host, port = await feed.take_http(("127.0.0.1", 0))
    for size in (1, 100, 100_000):
        _, writer = await asyncio.open_connection(host, port)
        writer.write(os.urandom(size))
        writer.close()
    async with httpx2.AsyncClient(base_url=f"http://{host}:{port}") as client:
        answer = await client.post("/readings/t", content=b"1", headers={"content-type": "application/json"})
    assert answer.status_code == 200


# --- CoAP -----------------------------------------------------------------------------------------------------------


@needs_coap_client
async def test_coap_client_sends_a_reading(feed: Feed) -> None:
    host, port = await feed.take_coap(("127.0.0.1", 0))
    assert COAP_CLIENT is not None
    url = f"coap://{host}:{port}/readings/porch/t"
    code, output = await run(COAP_CLIENT, "-m", "put", "-t", "50", "-e", "21.5", "-B", "5", url)
    assert code == 0, output
    assert newest(feed) == {"porch/t": 21.5}
    _, output = await run(COAP_CLIENT, "-m", "get", "-B", "5", f"coap://{host}:{port}/.well-known/core")
    assert "</readings>" in output


async def test_aiocoap_sends_packs_and_learns_why_one_is_refused(feed: Feed) -> None:
    host, port = await feed.take_coap(("127.0.0.1", 0), TOKEN)
    url = f"coap://{host}:{port}/readings"
    pack = senml.render_cbor(Batch("coap-1", (Reading("porch/t", now_us(), 3.0),), 0))

    async def ask(payload: bytes, kind: int, query: str = f"?token={TOKEN.decode()}") -> aiocoap.Message:
        request = aiocoap.Message(
            code=aiocoap.POST, uri=url + query, payload=payload, content_format=aiocoap.ContentFormat(kind)
        )
        return await bounded(context.request(request).response)

    context = await aiocoap.Context.create_client_context()
    try:
        taken = await ask(pack, 112)
        refused = await ask(b"{", 110)
        unknown = await ask(b"1", 0)
        unasked = await ask(pack, 112, "")
    finally:
        await context.shutdown()
    assert taken.code is aiocoap.CHANGED
    assert (refused.code, refused.payload) == (aiocoap.BAD_REQUEST, b"bad_senml")
    assert unknown.code is aiocoap.UNSUPPORTED_CONTENT_FORMAT
    assert unasked.code is aiocoap.UNAUTHORIZED
    assert newest(feed) == {"porch/t": 3.0}


def message(number: int, payload: bytes = b"1", kind: object = aiocoap.CON, code: object = aiocoap.PUT) -> bytes:
    request = aiocoap.Message(code=code, payload=payload, uri_path=("readings", "t"))
    request.opt.content_format = aiocoap.ContentFormat(50)
    request.mtype, request.mid, request.token = kind, number, b"tk"
    return bytes(request.encode())


def test_a_retransmission_is_no_second_request() -> None:
    exchanges = CoapExchanges()
    first = exchanges.receive(message(1), PEER, 0)
    assert isinstance(first, Request)
    assert exchanges.receive(message(1), PEER, 1) is None  # under way
    answer = exchanges.accept(first.key)
    assert answer is not None
    decoded = aiocoap.Message.decode(answer)
    assert (decoded.mtype, decoded.mid, decoded.token) == (aiocoap.ACK, 1, b"tk")
    assert exchanges.receive(message(1), PEER, 2) == answer
    assert isinstance(exchanges.receive(message(1), ("127.0.0.2", 1), 2), Request)
    assert isinstance(exchanges.receive(message(1), PEER, LIFETIME_MS), Request)


def test_what_coap_remembers_is_bounded() -> None:
    exchanges = CoapExchanges()
    for number in range(REMEMBERED + 10):
        exchanges.receive(message(number), PEER, 0)
    assert len(exchanges._known) == REMEMBERED
    assert exchanges.accept((PEER, 0)) is None


def test_pings_options_and_blocks() -> None:
    exchanges = CoapExchanges()
    ping = exchanges.receive(b"\x40\x00\x00\x01", PEER, 0)
    assert isinstance(ping, bytes)
    assert ping[0] >> 4 & 3 == 3  # RST
    critical = aiocoap.Message(code=aiocoap.PUT, uri_path=("readings",), if_none_match=True)
    critical.mtype, critical.mid = aiocoap.CON, 2
    refused = exchanges.receive(bytes(critical.encode()), PEER, 0)
    assert isinstance(refused, bytes)
    assert aiocoap.Message.decode(refused).code is aiocoap.BAD_OPTION
    block = aiocoap.Message(code=aiocoap.PUT, uri_path=("readings",), block1=(0, True, 2))
    block.mtype, block.mid = aiocoap.CON, 3
    refused = exchanges.receive(bytes(block.encode()), PEER, 0)
    assert isinstance(refused, bytes)
    assert aiocoap.Message.decode(refused).code is aiocoap.REQUEST_ENTITY_TOO_LARGE


@given(st.binary(max_size=120))
def test_garbage_datagrams_are_counted_or_answered(datagram: bytes) -> None:
    exchanges = CoapExchanges()
    found = exchanges.receive(datagram, PEER, 0)
    assert found is not None or exchanges.garbage == 1


@given(st.integers(0, 40), st.integers(0, 255))
def test_a_damaged_request_has_an_end(place: int, byte: int) -> None:
    datagram = bytearray(message(1))
    datagram[place % len(datagram)] = byte
    CoapExchanges().receive(bytes(datagram), PEER, 0)


async def test_garbage_at_the_coap_port_harms_nobody(feed: Feed) -> None:
    host, port = await feed.take_coap(("127.0.0.1", 0))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)
        for number in range(100):  # what fits into the socket's buffer
            sender.sendto(os.urandom(number + 1), (host, port))
        sender.sendto(message(9), (host, port))
        async with asyncio.timeout(10):
            while aiocoap.Message.decode(await asyncio.get_running_loop().sock_recv(sender, 2_000)).mid != 9:
                pass
    assert newest(feed) == {"t": 1.0}


# --- MQTT -----------------------------------------------------------------------------------------------------------


async def publish(port: int, topic: str, *payloads: bytes, retain: bool = False) -> None:
    async with aiomqtt.Client("127.0.0.1", port) as client:
        for payload in payloads:
            await client.publish(topic, payload, qos=1, retain=retain)


@needs_mosquitto_pub
async def test_mosquitto_pub_sends_readings_in_every_form(feed: Feed, tmp_path: Path) -> None:
    async with mosquitto(tmp_path) as broker:
        source = feed.take_mqtt(("127.0.0.1", broker.port), ["home/#"], "feed-1")
        await bounded(source.connected.wait())
        base = ("mosquitto_pub", "-p", str(broker.port), "-q", "1")
        assert (await run(*base, "-t", "home/porch", "-m", "21.5"))[0] == 0
        pack = '[{"bn":"kitchen/","n":"t","u":"Cel","v":19},{"n":"h","v":55}]'
        assert (await run(*base, "-t", "home/kitchen", "-m", pack))[0] == 0
        assert (await run(*base, "-t", "home/door", "-m", '{"value":true}'))[0] == 0
        await until_true(lambda: feed.readers.tail.reached >= 4)
    assert newest(feed) == {"home/porch": 21.5, "kitchen/t": 19.0, "kitchen/h": 55.0, "home/door": True}


@needs_mosquitto
async def test_what_is_no_reading_is_acknowledged_and_counted(feed: Feed, tmp_path: Path) -> None:
    async with mosquitto(tmp_path) as broker:
        source = feed.take_mqtt(("127.0.0.1", broker.port), ["home/#"], "feed-1")
        await bounded(source.connected.wait())
        await publish(broker.port, "home/x", b"\xff\xfe", b"{", b'{"tiem":1}', b"", b"7")
        await until_true(lambda: feed.core.series)
        assert feed.intake.refused["bad_reading"] == 4


@needs_mosquitto
async def test_what_comes_while_the_feed_is_down_waits_at_the_broker(tmp_path: Path) -> None:
    path = tmp_path / "feed.sqlite"
    async with mosquitto(tmp_path) as broker:
        for turn in range(3):
            async with open_feed(FEED, path, SETTINGS) as feed:
                source = feed.take_mqtt(("127.0.0.1", broker.port), ["home/#"], "feed-1")
                await bounded(source.connected.wait())
                await until_true(lambda: feed.core.next_offset > 10 * turn)  # noqa: B023 - waited for here
                assert (
                    [each.value for each in feed.core.series["t"].last] == list(range(10 * turn))[-16:]
                    if turn
                    else True
                )
            payloads = [
                b'{"series":"t","value":%d,"sequence":%d}' % (number, number)
                for number in range(10 * turn, 10 * turn + 10)
            ]
            await publish(broker.port, "home/a", *payloads)


@needs_mosquitto
async def test_a_retained_message_counts_once_however_often_we_connect(tmp_path: Path) -> None:
    async with mosquitto(tmp_path) as broker:
        await publish(broker.port, "home/t", b"5", retain=True)
        for messages in (2, 1):  # what was not acknowledged would come again
            async with open_feed(FEED, tmp_path / "feed.sqlite", SETTINGS) as feed:
                source = feed.take_mqtt(("127.0.0.1", broker.port), ["home/#"], "feed-1")
                await bounded(source.connected.wait())
                await publish(broker.port, "home/u", b"6")
                await until_true(lambda: source.acknowledged == messages)  # noqa: B023 - waited for here
        assert feed.core.series["home/t"].state.readings == 1


@needs_mosquitto
async def test_a_broker_that_restarts_is_found_again(feed: Feed, tmp_path: Path) -> None:
    async with mosquitto(tmp_path) as broker:
        source = feed.take_mqtt(("127.0.0.1", broker.port), ["home/#"], "feed-1")
        await bounded(source.connected.wait())
        await broker.stop()
        await until_true(lambda: not source.connected.is_set())
        await broker.start()
        await bounded(source.connected.wait())
        await publish(broker.port, "home/t", b"5")
        await until_true(lambda: feed.core.series)


def test_an_mqtt_input_has_topics() -> None:
    from blockcloud.service_access.edge.feed.mqtt import MqttInput

    with pytest.raises(BadConfiguration):
        MqttInput(None, ("127.0.0.1", 1), [], "x")  # type: ignore[arg-type]  # never used
