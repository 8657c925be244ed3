"""`blockcloud.toml`: what is written reads back, and what is wrong is refused with a way out."""

from __future__ import annotations

from pathlib import Path

import pytest

from blockcloud.node.config import CONFIG_BYTES, CONFIG_FILE, NodeConfig, read_config
from blockcloud.node.routing_config import RoutingConfig
from blockcloud.primitives.errors import BadConfiguration


def test_a_written_configuration_reads_back(tmp_path: Path) -> None:
    config = NodeConfig(
        home=tmp_path,
        api_port=1,
        link_host="::1",
        key_file='a "quoted" \\ key.pem',
        verify_threads=3,
        log_level="debug",
        archive=True,
        routing=RoutingConfig(replicas=5, full_files=7, store="s3://bucket/pre fix", store_endpoint="https://s3.test"),
    )
    (tmp_path / CONFIG_FILE).write_text(config.to_toml(), encoding="utf-8")
    assert read_config(tmp_path) == config
    assert config.key_path == tmp_path / 'a "quoted" \\ key.pem'


def test_defaults_hold_where_nothing_is_said(tmp_path: Path) -> None:
    (tmp_path / CONFIG_FILE).write_text("", encoding="utf-8")
    assert read_config(tmp_path) == NodeConfig(home=tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("api_prot = 1", "did you mean 'api_port'"),
        ("colour = 'red'", "unknown key"),
        ("home = '/elsewhere'", "unknown key"),
        ("api_port = '1'", "must be of type int"),
        ("api_port = true", "must be of type int"),
        ("api_port = 70000", "between 0 and 65535"),
        ("verify_threads = -1", "between 0 and 64"),
        ("log_level = 'loud'", "one of debug"),
        ("[routing]\nreplica = 4", "did you mean 'replicas'"),
        ("[routing]\ncolour = 1", "has replicas, full_files"),
        ("[routing]\nreplicas = '4'", "must be of type int"),
        ("[routing]\nreplicas = 0", "between 1 and 16"),
        ("[routing]\nfull_files = -1", "between 0 and"),
        ("[routing]\nstore = 'gs://bucket'", "s3://BUCKET/PREFIX"),
        ("[routing]\nstore = 's3:///prefix'", "names no bucket"),
        ("[routing]\nstore = 's3://key:secret@bucket'", "credentials belong into the environment"),
        ("[routing]\nstore = 's3://b'\nstore_endpoint = 'http://10.0.0.1:9000'", "use https"),
        ("[routing]\nstore = 's3://b'\nstore_endpoint = 'ftp://x'", "an https URL"),
        ("routing = 3", "is a table"),
        ("api_port = ", "not a TOML file"),
        ("#" * (CONFIG_BYTES + 1), "larger than its limit"),
    ],
)
def test_mistakes_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / CONFIG_FILE).write_text(text, encoding="utf-8")
    with pytest.raises(BadConfiguration, match=message):
        read_config(tmp_path)


def test_a_missing_or_binary_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadConfiguration, match="cannot read"):
        read_config(tmp_path)
    (tmp_path / CONFIG_FILE).write_bytes(b"\xff\xfe")
    with pytest.raises(BadConfiguration, match="not a TOML file"):
        read_config(tmp_path)
