"""Home Assistant's MQTT discovery: what a feed publishes so that its series appear there by themselves. Pure.

For each series a retained message at `homeassistant/<component>/<object id>/config` says where its state is published
and what it is; the state goes, retained, to a topic of the feed's own. `tests/service_access/edge/` has the rules of
these messages as a schema, with their source. SenML's units (RFC 8428 section 12.1) and Home Assistant's are not the
same, and a device class must come with one of the units it allows, so a class is given only where the unit says it.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any, Final

from blockcloud.service_access.edge.feed.core import Sample
from blockcloud.service_access.edge.feed.lines import describe
from blockcloud.service_access.edge.feed.readings import Data

PREFIX: Final = "homeassistant"
STATE_CHARACTERS: Final = 255  # Home Assistant refuses longer states
ONLINE, OFFLINE = "online", "offline"

# SenML's unit -> (Home Assistant's unit, device class); "" is no class.
UNITS: Final = {
    "Cel": ("°C", "temperature"),
    "K": ("K", "temperature"),
    "%RH": ("%", "humidity"),
    "%EL": ("%", "battery"),
    "lx": ("lx", "illuminance"),
    "W": ("W", "power"),
    "kW": ("kW", "power"),
    "J": ("J", "energy"),
    "Wh": ("Wh", "energy"),
    "kWh": ("kWh", "energy"),
    "V": ("V", "voltage"),
    "mV": ("mV", "voltage"),
    "A": ("A", "current"),
    "mA": ("mA", "current"),
    "Hz": ("Hz", "frequency"),
    "Pa": ("Pa", "pressure"),
    "hPa": ("hPa", "pressure"),
    "dBm": ("dBm", "signal_strength"),
    "dBW": ("dBW", ""),
    "ppm": ("ppm", ""),
    "m": ("m", "distance"),
    "kg": ("kg", "weight"),
    "m/s": ("m/s", "speed"),
    "s": ("s", "duration"),
    "/": ("", ""),
}
TOTAL_CLASSES: Final = frozenset(("energy",))


def object_id(feed: str, series: str) -> str:
    """An id of letters, digits, - and _, different for each series however alike the names are."""
    readable = re.sub(r"[^A-Za-z0-9_-]+", "_", f"{feed}_{series}")[:64]
    return f"{readable}_{hashlib.sha256(f'{feed}/{series}'.encode()).hexdigest()[:8]}"


def base_topic(feed: str) -> str:
    """Where a feed publishes."""
    return f"blockcloud/{feed}"


def availability_topic(feed: str) -> str:
    """Where a feed says whether it is there."""
    return f"{base_topic(feed)}/availability"


def state_topic(feed: str, series: str) -> str:
    """Where the newest value of a series is."""
    return f"{base_topic(feed)}/{object_id(feed, series)}/state"


def can_show(sample: Sample) -> bool:
    """Whether a sample's value is one that Home Assistant can show."""
    value = sample.reading.value
    return (
        value is not None
        and not isinstance(value, Data)
        and not (isinstance(value, str) and len(value) > STATE_CHARACTERS)
    )


def config(feed: str, sample: Sample, version: str) -> tuple[str, dict[str, Any]]:
    """The discovery message of a series: its topic and its payload."""
    reading = sample.reading
    identifier = object_id(feed, reading.series)
    payload: dict[str, Any] = {
        "name": reading.series.replace("/", " "),
        "unique_id": f"blockcloud_{identifier}",
        "state_topic": state_topic(feed, reading.series),
        "availability_topic": availability_topic(feed),
        "device": {"identifiers": [f"blockcloud_{feed}"], "name": feed, "manufacturer": "BlockCloud"},
        "origin": {"name": "blockcloud", "sw_version": version},
    }
    if isinstance(reading.value, bool):
        payload |= {"value_template": "{{ 'ON' if value_json.value else 'OFF' }}"}
        return f"{PREFIX}/binary_sensor/{identifier}/config", payload
    payload["value_template"] = "{{ value_json.value }}"
    if isinstance(reading.value, float):
        unit, device_class = UNITS.get(reading.unit, (reading.unit, ""))
        payload["state_class"] = "total_increasing" if device_class in TOTAL_CLASSES else "measurement"
        payload |= {"unit_of_measurement": unit} if unit else {}
        payload |= {"device_class": device_class} if device_class else {}
    return f"{PREFIX}/sensor/{identifier}/config", payload


def state(sample: Sample) -> dict[str, Any]:
    """The state message of a series."""
    shown = describe(sample)
    return {key: shown[key] for key in ("value", "time", "unit") if key in shown}
