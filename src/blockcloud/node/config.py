"""The configuration of one node: `blockcloud.toml` in its home folder.

Paths are relative to the home folder. An unknown key is an error with a suggestion, because a misspelt key that is
silently ignored is found out on a bad day. Ports: `reference/parameters.md`, "Places and ports".
"""

from __future__ import annotations

import difflib
import tomllib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Final

from blockcloud.node.resource_config import RESOURCES_TABLE, ResourceConfig, read_resources
from blockcloud.node.routing_config import ROUTING_TABLE, RoutingConfig, read_routing
from blockcloud.primitives.errors import BadConfiguration

CONFIG_FILE: Final = "blockcloud.toml"
ONION_FILE: Final = "onion.pem"  # beside the node key
CONFIG_BYTES: Final = 64 * 1024
BASE_PORT: Final = 8_700
NO_RESOURCES: Final = "# No [resources] table: this node stakes its bond only. See `blockcloud node init --help`.\n"
NOT_VALUES: Final = ("home", ROUTING_TABLE, RESOURCES_TABLE)
LOG_LEVELS: Final = ("debug", "info", "warning", "error")


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """Where a validator listens and keeps its things. Ports are 0 (any free one) to 65535; `0` threads: by cores."""

    home: Path
    api_host: str = "127.0.0.1"
    api_port: int = BASE_PORT
    link_host: str = "127.0.0.1"
    link_port: int = BASE_PORT + 1
    genesis_file: str = "genesis.json"
    key_file: str = "keys/validator.pem"
    data_dir: str = "data"
    control_socket: str = "control.sock"
    verify_threads: int = 0
    log_level: str = "info"
    archive: bool = False
    routing: RoutingConfig = field(default_factory=RoutingConfig)
    resources: ResourceConfig | None = None

    def __post_init__(self) -> None:
        for name in ("api_port", "link_port"):
            if not 0 <= getattr(self, name) <= 65_535:
                raise BadConfiguration("a port is between 0 and 65535", key=name, value=getattr(self, name))
        if not 0 <= self.verify_threads <= 64:
            raise BadConfiguration("verify_threads is between 0 and 64", value=self.verify_threads)
        if self.log_level not in LOG_LEVELS:
            raise BadConfiguration(f"log_level is one of {', '.join(LOG_LEVELS)}", value=self.log_level)

    @property
    def genesis_path(self) -> Path:
        return self.home / self.genesis_file

    @property
    def key_path(self) -> Path:
        return self.home / self.key_file

    @property
    def onion_path(self) -> Path:
        """The secret of this node's hash onion, beside its key."""
        return self.key_path.parent / ONION_FILE

    @property
    def data_path(self) -> Path:
        return self.home / self.data_dir

    @property
    def snapshots_path(self) -> Path:
        """Where the snapshots are that this node made or fetched."""
        return self.home / "snapshots"

    @property
    def control_path(self) -> Path:
        return self.home / self.control_socket

    def to_toml(self) -> str:
        """The text of `blockcloud.toml` that reads back as this configuration."""
        lines = ["# A validator of BlockCloud. Paths are relative to this folder; unknown keys are errors.", ""]
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name not in NOT_VALUES:
                lines.append(f"{_COMMENTS[item.name]}\n{item.name} = {_toml(value)}\n")
        lines.append(self.routing.to_toml())
        lines.append(NO_RESOURCES if self.resources is None else self.resources.to_toml())  # a table comes last
        return "\n".join(lines)


def read_config(home: Path) -> NodeConfig:
    """The configuration in `home`/blockcloud.toml. Raises BadConfiguration."""
    path = home / CONFIG_FILE
    try:
        with path.open("rb") as file:
            text = file.read(CONFIG_BYTES + 1)
    except OSError as error:
        raise BadConfiguration(f"cannot read the configuration: {error.strerror}", path=str(path)) from None
    if len(text) > CONFIG_BYTES:
        raise BadConfiguration("the configuration is larger than its limit", path=str(path), limit=CONFIG_BYTES)
    try:
        values = tomllib.loads(text.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadConfiguration(f"not a TOML file: {error}", path=str(path)) from None
    resources = read_resources(values.pop(RESOURCES_TABLE)) if RESOURCES_TABLE in values else None
    routing = read_routing(values.pop(ROUTING_TABLE, {}))
    types = {item.name: str(item.type) for item in fields(NodeConfig) if item.name not in NOT_VALUES}
    for key, value in values.items():
        if key not in types:
            near = difflib.get_close_matches(key, types, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise BadConfiguration(f"unknown key{hint}", key=key, path=str(path))
        if type(value).__name__ != types[key]:
            raise BadConfiguration(f"the value must be of type {types[key]}", key=key, value=value, path=str(path))
    return NodeConfig(home=home, routing=routing, resources=resources, **values)


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    escaped = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


_COMMENTS: Final = {
    "api_host": "# Where the HTTP API listens. Keep it on loopback unless a proxy with TLS stands in front.",
    "api_port": "# Port of the HTTP API.",
    "link_host": "# Where other validators reach this one (TLS, only keys of the committee get in).",
    "link_port": "# Port of the validators' links.",
    "genesis_file": "# The genesis of the chain: the same file at every node.",
    "key_file": "# The validator's private key: PKCS#8 PEM, readable by its owner only. Keep it out of backups.",
    "data_dir": "# The ledger and the state (RocksDB).",
    "control_socket": "# Unix socket for the administration of this node.",
    "verify_threads": "# Threads that verify signatures; 0 chooses by the number of cores.",
    "log_level": "# debug, info, warning or error.",
    "archive": "# Keep the blocks and commits of all eras, instead of the newest only.",
}
