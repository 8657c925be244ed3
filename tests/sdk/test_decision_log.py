"""The decision log: bounded, chained across files and restarts, and harmless when the disk refuses."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockcloud.sdk.decision_log import DecisionLog


def lines(path: Path) -> list[bytes]:
    """All lines that are kept, oldest first."""
    files = [path.with_name(f"{path.name}.{number}") for number in range(9, 0, -1)] + [path]
    return [line for file in files if file.exists() for line in file.read_bytes().splitlines()]


def chained(kept: list[bytes]) -> bool:
    before = [hashlib.sha256(line).hexdigest() for line in kept]
    return all(msgspec.json.decode(line)["previous"] == digest for line, digest in zip(kept[1:], before, strict=False))


@given(sizes=st.lists(st.integers(0, 300), min_size=1, max_size=60), restart=st.integers(0, 60))
def test_the_newest_lines_are_kept_in_bounded_files_and_chained(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], restart: int
) -> None:
    folder = tmp_path_factory.mktemp("log")
    log = DecisionLog(folder / "log.jsonl", file_bytes=1_000, files=3)
    for number, size in enumerate(sizes):
        if number == restart:
            log = DecisionLog(folder / "log.jsonl", file_bytes=1_000, files=3)
        log.add({"number": number, "allowed": True, "text": "x" * size})
    kept = lines(log.path)
    numbers = [msgspec.json.decode(line)["number"] for line in kept]
    assert numbers == list(range(len(sizes) - len(kept), len(sizes)))
    assert chained(kept)
    assert log.digest == hashlib.sha256(kept[-1]).digest()
    assert len(list(folder.iterdir())) <= 3
    assert all(file.stat().st_size <= 1_000 for file in folder.iterdir())


def test_a_line_that_is_taken_out_is_noticed(tmp_path: Path) -> None:
    log = DecisionLog(tmp_path / "log.jsonl")
    for number in range(3):
        log.add({"number": number, "allowed": False})
    kept = lines(log.path)
    assert chained(kept)
    assert not chained([kept[0], kept[2]])


def test_a_disk_that_refuses_does_not_decide(tmp_path: Path) -> None:
    log = DecisionLog(tmp_path / "folder" / "log.jsonl")
    log.path.mkdir()
    log.add({"allowed": True})
    assert log.counts["allowed"] == 1
