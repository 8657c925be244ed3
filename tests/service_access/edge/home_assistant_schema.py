"""The rules of Home Assistant's MQTT discovery, as far as they concern sensors and binary sensors.

Source: the integration's own validation in github.com/home-assistant/core, `homeassistant/components/mqtt/schemas.py`
(MQTT_ENTITY_COMMON_SCHEMA; MQTT_ENTITY_DEVICE_INFO_SCHEMA: a device has identifiers or connections;
MQTT_ORIGIN_INFO_SCHEMA: an origin has a name) and `sensor.py`; the documentation in
github.com/home-assistant/home-assistant.io, `source/_integrations/sensor.mqtt.markdown` ("state_topic: required") and
`docs/mqtt/discovery` (the topic). Units of device classes: DEVICE_CLASS_UNITS in
`homeassistant/components/sensor/const.py`. Read in 2026; only what a feed may use.
"""

from __future__ import annotations

import re
from typing import Any

TOPIC = re.compile(r"homeassistant/(?P<component>sensor|binary_sensor)/(?P<object_id>[a-zA-Z0-9_-]+)/config")

TEXT: dict[str, Any] = {"type": "string", "minLength": 1}
TOPIC_TEXT: dict[str, Any] = {"type": "string", "pattern": r"^[^#+\x00]+$"}
COMMON: dict[str, Any] = {
    "availability_topic": TOPIC_TEXT,
    "payload_available": TEXT,
    "payload_not_available": TEXT,
    "device": {
        "type": "object",
        "properties": {
            "identifiers": {"type": "array", "items": TEXT, "minItems": 1},
            "connections": {"type": "array"},
            "manufacturer": TEXT,
            "model": TEXT,
            "name": TEXT,
            "sw_version": TEXT,
            "via_device": TEXT,
        },
        "anyOf": [{"required": ["identifiers"]}, {"required": ["connections"]}],
        "additionalProperties": False,
    },
    "origin": {
        "type": "object",
        "properties": {"name": TEXT, "sw_version": TEXT, "support_url": TEXT},
        "required": ["name"],
        "additionalProperties": False,
    },
    "name": TEXT,
    "unique_id": TEXT,
    "object_id": TEXT,
    "state_topic": TOPIC_TEXT,
    "value_template": TEXT,
    "icon": TEXT,
    "expire_after": {"type": "integer", "minimum": 0},
    "force_update": {"type": "boolean"},
}
CLASS_UNITS = {
    "temperature": {"°C", "°F", "K"},
    "humidity": {"%"},
    "battery": {"%"},
    "illuminance": {"lx"},
    "power": {"mW", "W", "kW", "MW", "GW", "TW"},
    "energy": {"J", "kJ", "MJ", "GJ", "mWh", "Wh", "kWh", "MWh", "GWh", "TWh", "cal", "kcal", "Mcal", "Gcal"},
    "voltage": {"µV", "mV", "V", "kV", "MV"},
    "current": {"mA", "A"},
    "frequency": {"Hz", "kHz", "MHz", "GHz"},
    "pressure": {"Pa", "hPa", "kPa", "bar", "cbar", "mbar", "mmHg", "inHg", "psi"},
    "signal_strength": {"dB", "dBm"},
    "distance": {"mm", "cm", "m", "km", "in", "ft", "yd", "mi"},
    "weight": {"µg", "mg", "g", "kg", "oz", "lb", "st"},
    "speed": {"ft/s", "in/d", "in/h", "in/s", "km/h", "kn", "m/s", "mph", "mm/d", "mm/s", "Beaufort"},
    "duration": {"d", "h", "min", "s", "ms"},
}
SENSOR: dict[str, Any] = {
    "type": "object",
    "properties": {
        **COMMON,
        "unit_of_measurement": TEXT,
        "device_class": {"enum": sorted(CLASS_UNITS)},
        "state_class": {"enum": ["measurement", "total", "total_increasing"]},
        "suggested_display_precision": {"type": "integer"},
    },
    # `device` works only with a unique id, and a state class only with numbers, which ours says by a template.
    "required": ["state_topic", "unique_id", "device"],
    "additionalProperties": False,
}
BINARY_SENSOR: dict[str, Any] = {
    "type": "object",
    "properties": {**COMMON, "payload_on": TEXT, "payload_off": TEXT, "device_class": TEXT},
    "required": ["state_topic", "unique_id", "device"],
    "additionalProperties": False,
}
SCHEMAS = {"sensor": SENSOR, "binary_sensor": BINARY_SENSOR}
