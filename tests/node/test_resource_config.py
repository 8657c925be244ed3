"""The `[resources]` table: what is written reads back, amounts as people write them, and mistakes are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockcloud.node.config import CONFIG_FILE, NodeConfig, read_config
from blockcloud.node.resource_config import ResourceConfig, parse_bytes, parse_permille, parse_rate
from blockcloud.primitives.errors import BadConfiguration


def test_a_written_table_reads_back(tmp_path: Path) -> None:
    staked = ResourceConfig(2**24, 50, 2, 1_000_000, 900, 8_707)
    for config in (NodeConfig(home=tmp_path, resources=staked), NodeConfig(home=tmp_path)):
        (tmp_path / CONFIG_FILE).write_text(config.to_toml(), encoding="utf-8")
        assert read_config(tmp_path) == config


def test_an_empty_table_stakes_nothing(tmp_path: Path) -> None:
    (tmp_path / CONFIG_FILE).write_text("[resources]\n", encoding="utf-8")
    assert read_config(tmp_path).resources == ResourceConfig()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("resources = 1", "is a table"),
        ("[resources]\nstorage = 1", "unknown key"),
        ("[resources]\nstorage_bytes = '1'", "must be of type int"),
        ("[resources]\nstorage_bytes = true", "must be of type int"),
        ("[resources]\nstorage_bytes = -1", "between"),
        ("[resources]\nexamination_port = 65536", "between"),
        ("[resources]\ngamma = 1001", "between"),
        ("[resources]\ncompute_lanes = 0", "between"),
        ("[resources]\ncompute_permille = 1001", "at most one core"),
    ],
)
def test_mistakes_in_the_table_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / CONFIG_FILE).write_text(text, encoding="utf-8")
    with pytest.raises(BadConfiguration, match=message):
        read_config(tmp_path)


def test_amounts_as_people_write_them() -> None:
    assert parse_bytes("16MiB") == 16 * 1024**2
    assert parse_bytes("500 kB") == 500_000
    assert parse_bytes("1.5GiB") == 3 * 1024**3 // 2
    assert parse_bytes("0") == 0
    assert parse_rate("1MB/s") == 1_000_000
    assert parse_rate("250000") == 250_000
    assert parse_permille("5%") == 50
    assert parse_permille("2.5 %") == 25
    assert parse_permille("150%") == 1_500


@pytest.mark.parametrize("text", ["", "MiB", "-1", "1 EB", "1MB/h", "0x10", "1e3", "١MB"])
def test_what_is_no_size_is_refused(text: str) -> None:
    for parse in (parse_bytes, parse_rate):
        with pytest.raises(BadConfiguration):
            parse(text)


@pytest.mark.parametrize("text", ["5", "%", "-5%", "5.25%", "5 percent"])
def test_what_is_no_part_of_a_core_is_refused(text: str) -> None:
    with pytest.raises(BadConfiguration):
        parse_permille(text)


@given(st.integers(0, 10**15 - 1), st.sampled_from([("kB", 1_000), ("KiB", 1_024), ("TB", 10**12)]))
def test_a_size_is_its_number_times_its_unit(number: int, unit: tuple[str, int]) -> None:
    assert parse_bytes(f"{number}{unit[0]}") == number * unit[1]
