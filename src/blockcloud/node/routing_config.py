"""The `[routing]` table of `blockcloud.toml`: how much a node keeps of service files and address records, and where.

Credentials of an object store are not in it. They come from where its other programs find them: the environment, or
the file of shared credentials (`object_store`).
"""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass, fields
from typing import Any, Final
from urllib.parse import urlsplit

from blockcloud.primitives.errors import BadConfiguration
from blockcloud.primitives.limits import SERVICE_FILE_BYTES
from blockcloud.routing.holding import FULL_BYTES, Limits
from blockcloud.routing.placement import REPLICAS, REPLICAS_MAX
from blockcloud.routing.store import FILES_MAX, RECORDS_MAX

ROUTING_TABLE: Final = "routing"
CACHE_BYTES: Final = 64 * 1024 * 1024
BYTES_MAX: Final = 2**40
S3_SCHEME: Final = "s3"
FILE_SCHEME: Final = "file"
LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True, slots=True)
class RoutingConfig:
    """Beyond `full_files`, `full_records` or `full_bytes` the node keeps what placement gives it instead of everything.
    `store` is empty (files are in the node's own data), a folder, `file://` or `s3://BUCKET/PREFIX`."""

    replicas: int = REPLICAS
    full_files: int = FILES_MAX // 2
    full_records: int = RECORDS_MAX // 2
    full_bytes: int = FULL_BYTES
    store: str = ""
    store_endpoint: str = ""
    store_region: str = ""
    store_timeout_ms: int = 5_000
    cache_bytes: int = CACHE_BYTES

    def __post_init__(self) -> None:
        for name, lowest, highest in (
            ("replicas", 1, REPLICAS_MAX),
            ("full_files", 0, FILES_MAX),
            ("full_records", 0, RECORDS_MAX),
            ("full_bytes", 0, BYTES_MAX),
            ("store_timeout_ms", 100, 60_000),
            ("cache_bytes", 4 * SERVICE_FILE_BYTES, BYTES_MAX),
        ):
            value = getattr(self, name)
            if not lowest <= value <= highest:
                raise BadConfiguration(f"{name} is between {lowest} and {highest}", key=name, value=value)
        parts = _url("store", self.store)
        if "://" in self.store and parts.scheme not in (S3_SCHEME, FILE_SCHEME):
            raise BadConfiguration("store is a folder, file:///FOLDER or s3://BUCKET/PREFIX", value=self.store)
        if parts.scheme == S3_SCHEME and not parts.netloc:
            raise BadConfiguration("store names no bucket: s3://BUCKET/PREFIX", value=self.store)
        if "@" in parts.netloc:
            raise BadConfiguration("credentials belong into the environment or the file of shared credentials")
        endpoint = _url("store_endpoint", self.store_endpoint)
        if self.store_endpoint and (endpoint.scheme not in ("http", "https") or "@" in endpoint.netloc):
            raise BadConfiguration("store_endpoint is an https URL without credentials", key="store_endpoint")
        if endpoint.scheme == "http" and endpoint.hostname not in LOOPBACK:
            raise BadConfiguration("http only reaches a store on this machine; use https", value=self.store_endpoint)

    @property
    def limits(self) -> Limits:
        """Up to where the node keeps everything."""
        return Limits(self.full_files, self.full_records, self.full_bytes)

    def to_toml(self) -> str:
        """The table as text, with what each value means."""
        lines = [f"{_TABLE_COMMENT}\n[{ROUTING_TABLE}]"]
        lines += [
            f"{_COMMENTS[item.name]}\n{item.name} = {json.dumps(getattr(self, item.name), ensure_ascii=False)}\n"
            for item in fields(self)
        ]
        return "\n".join(lines)


def read_routing(table: object) -> RoutingConfig:
    """The configuration in a TOML table. Raises BadConfiguration."""
    if not isinstance(table, dict):
        raise BadConfiguration("[routing] is a table", key=ROUTING_TABLE)
    values: dict[str, Any] = table
    types = {item.name: str(item.type) for item in fields(RoutingConfig)}
    for key, value in values.items():
        if key not in types:
            near = difflib.get_close_matches(key, types, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; [{ROUTING_TABLE}] has {', '.join(types)}"
            raise BadConfiguration(f"unknown key{hint}", key=f"{ROUTING_TABLE}.{key}")
        if type(value).__name__ != types[key]:
            raise BadConfiguration(f"the value must be of type {types[key]}", key=f"{ROUTING_TABLE}.{key}", value=value)
    return RoutingConfig(**values)


def _url(key: str, text: str) -> Any:
    try:
        return urlsplit(text)
    except ValueError as error:
        raise BadConfiguration(f"not a URL: {error}", key=key) from None


_TABLE_COMMENT: Final = "# What this node keeps of service files and address records, and where."
_COMMENTS: Final = {
    "replicas": "# How many nodes keep each of them once nobody keeps all; the same at all nodes of a network.",
    "full_files": "# This node keeps everything up to so many service files,",
    "full_records": "# so many address records,",
    "full_bytes": "# and so many bytes of both; beyond that, its share.",
    "store": '# Where the files are beyond the cache: "" (here), a folder, or s3://BUCKET/PREFIX. Credentials come\n'
    "# from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or from the shared credentials file and AWS_PROFILE.",
    "store_endpoint": "# URL of the store if it speaks S3 and is not Amazon's.",
    "store_region": "# Region of the store; empty: as the environment says.",
    "store_timeout_ms": "# How long the store may take to answer.",
    "cache_bytes": "# Bytes of files that are here too if there is a store; also what may wait for it.",
}
