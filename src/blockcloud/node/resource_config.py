"""The `[resources]` table of `blockcloud.toml`: what a node sets aside and stakes. Without the table it stakes nothing.

Also the texts in which people give such amounts: `16MiB`, `5%`, `1MB/s`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from typing import Any, Final

from blockcloud.primitives.errors import BadConfiguration
from blockcloud.transaction_chain.cloudpos.stake import COMPUTE_LANES_LIMIT, GAMMA_ONE, RESOURCE_LIMIT

RESOURCES_TABLE: Final = "resources"
PERMILLE_OF_ALL_LANES: Final = 1_000 * COMPUTE_LANES_LIMIT
_AMOUNT: Final = re.compile(r"([0-9]{1,15})(?:\.([0-9]{1,3}))?\s*([A-Za-z]*)", re.ASCII)
_UNITS: Final[dict[str, int]] = {"": 1, "b": 1} | {
    prefix + unit: base**power for unit, base in (("b", 1_000), ("ib", 1_024)) for power, prefix in enumerate("kmgt", 1)
}


@dataclass(frozen=True, slots=True)
class ResourceConfig:
    """What is set aside: bytes on disk, thousandths of a core in all, over how many cores, bytes a second. `gamma` is
    how much of it counts, in thousandths. `examination_port` 0: any free one."""

    storage_bytes: int = 0
    compute_permille: int = 0
    compute_lanes: int = 1
    data_rate: int = 0
    gamma: int = GAMMA_ONE
    examination_port: int = 0

    def __post_init__(self) -> None:
        for name, lowest, highest in (
            ("storage_bytes", 0, RESOURCE_LIMIT),
            ("compute_permille", 0, PERMILLE_OF_ALL_LANES),
            ("compute_lanes", 1, COMPUTE_LANES_LIMIT),
            ("data_rate", 0, RESOURCE_LIMIT),
            ("gamma", 0, GAMMA_ONE),
            ("examination_port", 0, 65_535),
        ):
            value = getattr(self, name)
            if not lowest <= value <= highest:
                raise BadConfiguration(f"{name} is between {lowest} and {highest}", key=name, value=value)
        if self.compute_permille > 1_000 * self.compute_lanes:
            raise BadConfiguration(
                "a lane is at most one core", compute_permille=self.compute_permille, lanes=self.compute_lanes
            )

    def to_toml(self) -> str:
        """The table as text, with what each value means."""
        lines = [f"{_TABLE_COMMENT}\n[{RESOURCES_TABLE}]"]
        lines += [f"{_COMMENTS[item.name]}\n{item.name} = {getattr(self, item.name)}\n" for item in fields(self)]
        return "\n".join(lines)


def read_resources(table: object) -> ResourceConfig:
    """The configuration in a TOML table. Raises BadConfiguration."""
    if not isinstance(table, dict):
        raise BadConfiguration("[resources] is a table", key=RESOURCES_TABLE)
    values: dict[str, Any] = table
    known = [item.name for item in fields(ResourceConfig)]
    for key, value in values.items():
        if key not in known:
            raise BadConfiguration(f"unknown key; [{RESOURCES_TABLE}] has {', '.join(known)}", key=key)
        if type(value) is not int:
            raise BadConfiguration("the value must be of type int", key=f"{RESOURCES_TABLE}.{key}", value=value)
    return ResourceConfig(**values)


def parse_bytes(text: str) -> int:
    """Bytes of a text such as `500000`, `500kB` (thousands) or `16MiB` (1,024 of them). Raises BadConfiguration."""
    match = _AMOUNT.fullmatch(text.strip())
    unit = None if match is None else _UNITS.get(match[3].lower())
    if match is None or unit is None:
        raise BadConfiguration("a size is a number with a unit such as kB, MB, MiB or GiB", text=text[:40])
    thousandths = int(match[1]) * 1_000 + int((match[2] or "").ljust(3, "0"))
    return thousandths * unit // 1_000


def parse_rate(text: str) -> int:
    """Bytes a second of a text such as `1MB/s`. Raises BadConfiguration."""
    return parse_bytes(text.strip().removesuffix("/s"))


def parse_permille(text: str) -> int:
    """Thousandths of a core of a text such as `5%` or `2.5%`. Raises BadConfiguration."""
    match = re.fullmatch(r"([0-9]{1,4})(?:\.([0-9]))?\s*%", text.strip(), re.ASCII)
    if match is None:
        raise BadConfiguration("a part of a core is a percentage such as 5% or 2.5%", text=text[:40])
    return int(match[1]) * 10 + int(match[2] or "0")


_TABLE_COMMENT: Final = (
    "# What this node sets aside for the network and is tested for; its share of leader turns and rewards follows\n"
    "# from it. Remove the table to stake nothing."
)
_COMMENTS: Final = {
    "storage_bytes": "# Disk for the plot, which takes minutes of processor time to make (in the background).",
    "compute_permille": "# Thousandths of one core; how much that is on this machine is measured once.",
    "compute_lanes": "# Over how many cores they are spread.",
    "data_rate": "# Bytes a second that it can send.",
    "gamma": "# How much of all this counts, in thousandths.",
    "examination_port": "# Where it is tested, on the host of the links; 0 takes any free port.",
}
