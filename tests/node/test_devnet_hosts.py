"""A devnet whose validators listen on addresses of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from blockcloud.node.config import read_config
from blockcloud.node.devnet import create_devnet
from blockcloud.primitives.errors import BadConfiguration
from blockcloud.service_chain.genesis import Genesis

HOSTS = ["127.0.0.2", "127.0.0.3"]


def test_each_validator_listens_where_the_others_dial_it(tmp_path: Path) -> None:
    devnet = create_devnet(tmp_path / "net", 2, base_port=9_000, hosts=HOSTS)
    genesis = Genesis.from_json(Path(devnet.genesis).read_text(encoding="utf-8"))
    for host, validator in zip(HOSTS, devnet.validators, strict=True):
        config = read_config(Path(validator.home))
        assert (config.api_host, config.link_host) == (host, host)
        assert validator.api == f"http://{host}:{config.api_port}"
        assert validator.link == f"{host}:{config.link_port}"
    assert [(item.api_url, item.link_address) for item in genesis.validators] == [
        (item.api, item.link) for item in devnet.validators
    ]


def test_one_host_for_each_validator(tmp_path: Path) -> None:
    with pytest.raises(BadConfiguration):
        create_devnet(tmp_path / "net", 3, base_port=9_000, hosts=HOSTS)
    assert not (tmp_path / "net").exists()
