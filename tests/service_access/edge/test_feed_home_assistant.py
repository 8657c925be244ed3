"""What Home Assistant would see at the broker, read by a plain MQTT client and held against its rules."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import aiomqtt
import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockcloud.service_access.edge.feed import home_assistant
from blockcloud.service_access.edge.feed.core import Sample
from blockcloud.service_access.edge.feed.intake import now_us
from blockcloud.service_access.edge.feed.node import open_feed
from blockcloud.service_access.edge.feed.readings import Batch, Data, Reading
from tests.service_access.access_world import bounded
from tests.service_access.edge.feed_samples import NAMES, NOW_US
from tests.service_access.edge.feed_world import FEED, SETTINGS, mosquitto, needs_mosquitto
from tests.service_access.edge.home_assistant_schema import CLASS_UNITS, SCHEMAS, TOPIC


def check(topic: str, payload: dict[str, Any]) -> None:
    """Raise unless Home Assistant would take the discovery message."""
    matched = TOPIC.fullmatch(topic)
    assert matched is not None, topic
    jsonschema.validate(payload, SCHEMAS[matched["component"]])
    if "device_class" in payload:
        assert payload["unit_of_measurement"] in CLASS_UNITS[payload["device_class"]]


@given(
    NAMES,
    st.one_of(st.just(1.5), st.booleans(), st.just("open")),
    st.one_of(st.sampled_from(sorted(home_assistant.UNITS)), st.just(""), st.just("bogus")),
)
def test_every_series_has_a_message_that_home_assistant_takes(name: str, value: float | bool | str, unit: str) -> None:
    check(*home_assistant.config(FEED, Sample(Reading(name, NOW_US, value, unit), ""), "1"))


def test_the_check_would_see_a_wrong_message() -> None:
    topic, payload = home_assistant.config(FEED, Sample(Reading("a", NOW_US, 1.0, "Cel"), ""), "1")
    for bad in (
        payload | {"device": {"name": "x"}},
        payload | {"unknown": 1},
        payload | {"state_topic": "a/#"},
        {key: value for key, value in payload.items() if key != "state_topic"},
    ):
        with pytest.raises(jsonschema.ValidationError):
            check(topic, bad)
    with pytest.raises(AssertionError):
        check(topic, payload | {"unit_of_measurement": "W"})


@given(st.lists(NAMES, min_size=2, max_size=2, unique=True))
def test_no_two_series_share_an_id(names: list[str]) -> None:
    assert home_assistant.object_id(FEED, names[0]) != home_assistant.object_id(FEED, names[1])


def test_what_cannot_be_shown_is_not() -> None:
    for value in (None, Data(b"x"), "x" * 256):
        assert not home_assistant.can_show(Sample(Reading("a", NOW_US, value), ""))


@needs_mosquitto
async def test_a_plain_client_finds_the_series_and_their_values(tmp_path: Path) -> None:
    async with mosquitto(tmp_path) as broker:
        async with open_feed(FEED, tmp_path / "feed.sqlite", SETTINGS) as feed:
            feed.show_home_assistant(("127.0.0.1", broker.port))
            found = (
                Reading("porch/t", now_us(), 21.5, "Cel"),
                Reading("porch/door", now_us(), True),
                Reading("porch/state", now_us(), "idle"),
            )
            await feed.intake.take(Batch("a", found))
            configs, states, availability = await seen_at(broker.port, 3)
        for topic, payload in configs.items():
            check(topic, payload)
        by_name = {payload["name"]: (topic.split("/")[1], payload) for topic, payload in configs.items()}
        assert {name: component for name, (component, _) in by_name.items()} == {
            "porch t": "sensor",
            "porch door": "binary_sensor",
            "porch state": "sensor",
        }
        assert by_name["porch t"][1]["device_class"] == "temperature"
        assert {payload["unique_id"] for payload in configs.values()} == {
            payload["unique_id"] for _, payload in by_name.values()
        }
        values = {name: states[payload["state_topic"]]["value"] for name, (_, payload) in by_name.items()}
        assert values == {"porch t": 21.5, "porch door": True, "porch state": "idle"}
        assert availability == "online"
        assert (await seen_at(broker.port, 3))[2] == "offline"  # the feed has ended


async def seen_at(port: int, wanted: int) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]], str]:
    """The retained messages at the broker: discovery, states and availability, once there are `wanted` of each."""
    configs: dict[str, dict[str, Any]] = {}
    states: dict[str, dict[str, Any]] = {}
    availability = ""

    async def collect() -> None:
        nonlocal availability
        async with aiomqtt.Client("127.0.0.1", port) as client:
            await client.subscribe("homeassistant/#")
            await client.subscribe("blockcloud/#")
            async for message in client.messages:
                topic = str(message.topic)
                if topic.endswith("/config"):
                    configs[topic] = json.loads(message.payload)
                elif topic.endswith("/state"):
                    states[topic] = json.loads(message.payload)
                else:
                    availability = message.payload.decode()
                if len(configs) == len(states) == wanted and availability:
                    return

    await bounded(collect())
    await asyncio.sleep(0)
    return configs, states, availability
