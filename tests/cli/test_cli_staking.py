"""The options by which people stake resources: into the home of a new node, and into every home of a new devnet."""

from __future__ import annotations

from pathlib import Path

import pytest

from blockcloud.node.config import read_config
from blockcloud.node.devnet import SMALL_STAKE, create_devnet
from blockcloud.node.resource_config import ResourceConfig
from tests.cli.cli_world import Result, command


@pytest.fixture
def genesis(tmp_path: Path) -> str:
    return create_devnet(tmp_path / "net", 1, base_port=8_700, resources=SMALL_STAKE).genesis


def init(genesis: str, folder: Path, *more: str) -> Result:
    return command("node", "init", "--genesis", genesis, "--home", str(folder), "--json", *more)


def test_a_new_node_stakes_what_it_is_told(genesis: str, tmp_path: Path) -> None:
    options = "--base-port 8900 --storage 16MiB --compute 150% --data-rate 1MB/s".split()
    made = init(genesis, tmp_path / "node", *options)
    assert made.code == 0, made.err
    resources = read_config(tmp_path / "node").resources
    assert resources == ResourceConfig(16 * 1024**2, 1_500, 2, 1_000_000, examination_port=8_907)
    assert made.report["stakes"] == {
        "storage_bytes": 16 * 1024**2,
        "compute_permille": 1_500,
        "data_rate": 1_000_000,
        "examination_port": 8_907,
    }


def test_a_new_node_stakes_nothing_unless_told(genesis: str, tmp_path: Path) -> None:
    made = init(genesis, tmp_path / "node")
    assert "stakes" not in made.report
    assert read_config(tmp_path / "node").resources is None


@pytest.mark.parametrize("options", ["--storage 16XB", "--compute 5", "--data-rate 1MB/h", "--compute 6500%"])
def test_what_is_no_amount_is_refused_before_anything_is_made(genesis: str, tmp_path: Path, options: str) -> None:
    made = init(genesis, tmp_path / "node", *options.split())
    assert made.code == 1
    assert "bad_configuration" in made.err
    assert not (tmp_path / "node").exists()


def test_every_validator_of_a_staking_devnet_stakes_a_little(genesis: str) -> None:
    resources = read_config(Path(genesis).parent / "node0").resources
    assert resources is not None
    assert resources.examination_port == 8_707
    # What a devnet may stake, so that the tests of four fit on two cores.
    assert resources.storage_bytes <= 16 * 1024**2
    assert resources.compute_permille <= 50
    assert resources.data_rate <= 1_000_000
