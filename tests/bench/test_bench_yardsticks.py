"""The pure parts of the yardsticks, and real runs of those that are on this machine."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from blockcloud.bench.cometbft import comet_config, cometbft
from blockcloud.bench.etcd import etcd, etcd_command, parse_head
from blockcloud.bench.yardstick_programs import Window, YardstickFailed
from blockcloud.bench.yardsticks import beside

COMET = """log_level = "info"
[rpc]
laddr = "tcp://127.0.0.1:26657"
max_request_batch_size = 10
[p2p]
laddr = "tcp://0.0.0.0:26656"
persistent_peers = ""
allow_duplicate_ip = false
addr_book_strict = true
[consensus]
timeout_commit = "1s"
timeout_propose = "3s"
"""


def test_the_settings_of_cometbft_are_replaced_in_their_sections() -> None:
    changed = comet_config(COMET, 4_001, 4_002, "id@127.0.0.1:1").splitlines()
    assert changed[2] == 'laddr = "tcp://127.0.0.1:4001"'
    assert changed[5] == 'laddr = "tcp://127.0.0.1:4002"'
    assert 'persistent_peers = "id@127.0.0.1:1"' in changed
    assert 'timeout_commit = "0s"' in changed
    assert 'timeout_propose = "3s"' in changed
    assert len(changed) == len(COMET.splitlines())


def test_a_setting_that_is_gone_is_not_passed_over() -> None:
    with pytest.raises(YardstickFailed, match="timeout_commit"):
        comet_config(COMET.replace("timeout_commit", "timeout_other"), 1, 2, "")


def test_etcd_nodes_listen_on_loopback_only() -> None:
    command = etcd_command("etcd", Path("folder"), 1, [11, 12, 13], [21, 22, 23])
    assert "--listen-client-urls=http://127.0.0.1:12" in command
    assert "--initial-cluster=n0=http://127.0.0.1:21,n1=http://127.0.0.1:22,n2=http://127.0.0.1:23" in command
    assert all("0.0.0.0" not in part for part in command)


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 42\r\n\r\n", (200, 42)),
        (b"HTTP/1.1 503 Busy\r\nDate: x\r\ncontent-length:7\r\n\r\n", (503, 7)),
    ],
)
def test_the_head_of_an_answer(head: bytes, expected: tuple[int, int]) -> None:
    assert parse_head(head) == expected


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"SSH-2.0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n",
    ],
)
def test_an_answer_of_unknown_length_is_refused(head: bytes) -> None:
    with pytest.raises(YardstickFailed):
        parse_head(head)


def test_only_what_ends_in_the_window_counts() -> None:
    window = Window(seconds=1_000.0)
    window.opens_s = time.perf_counter() + 1_000
    window.done(time.perf_counter())
    assert window.report()["per_s"] == 0
    window.opens_s = time.perf_counter() - 1
    window.done(time.perf_counter(), 5_000)
    assert window.report()["per_s"] == 5


def test_what_is_not_there_is_skipped_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    found = beside(1.0)
    assert "etcd" in found["etcd"]["skipped"]
    assert "go" in found["cometbft"]["skipped"]


@pytest.mark.long
@pytest.mark.skipif(shutil.which("etcd") is None, reason="there is no etcd here")
def test_etcd_under_load() -> None:
    report = etcd(1.0)
    assert report["per_s"] > 0
    assert 0 < report["p50_ms"] <= report["p95_ms"]


@pytest.mark.long
@pytest.mark.skipif(shutil.which("cometbft") is None, reason="there is no cometbft here")
def test_cometbft_under_load() -> None:
    report = cometbft(3.0)
    assert report["per_s"] > 0
    assert 0 < report["p50_ms"] <= report["p95_ms"]
