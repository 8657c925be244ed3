"""`blockcloud sim`: one line a seed, the seed and the command on every failure, one JSON object, exit codes."""

from __future__ import annotations

import json

import pytest

from blockcloud.cli.app import run
from blockcloud.simulation.network import Network


def test_many_seeds_are_a_line_each_and_a_summary(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["sim", "--seeds", "1..3", "--levels", "10"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:3] for line in lines[:3]] == [["seed", str(seed), "Pass"] for seed in (1, 2, 3)]
    assert any(line.startswith("events_per_cpu_second") for line in lines[3:])


def test_many_seeds_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["sim", "--seeds", "1..2", "--levels", "10", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["verdict"], report["runs"], report["passed"], report["failed"]) == ("Pass", 2, 2, [])
    assert report["events_per_cpu_second"] > 0


def test_a_failure_names_the_seed_and_the_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Network, "_parted", lambda self, one, other: self.now_ms > 300)
    assert run(["sim", "--seeds", "1..2", "--validators", "4", "--levels", "10"]) == 1
    captured = capsys.readouterr()
    assert "seed 1 NoProgress" in captured.out
    assert "repeat it: blockcloud sim --seed 2 --validators 4 --levels 10" in captured.err


def test_a_trace_is_a_line_for_each_event_and_leaves_json_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["sim", "--seed", "1", "--levels", "10", "--trace", "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["seed"] == 1
    assert "block of level 1" in captured.err
    assert run(["sim", "--seed", "1", "--levels", "10", "--trace"]) == 0
    assert "block of level 1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--seed"),
        (["--seed", "1", "--seeds", "1..2"], "--seeds"),
        (["--seeds", "2..1"], "FIRST..LAST"),
        (["--seeds", "7"], "FIRST..LAST"),
        (["--seeds", "1..2", "--trace", "--processes", "2"], "--processes"),
    ],
)
def test_what_makes_no_sense_is_a_matter_of_usage(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["sim", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_limits_are_errors(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["sim", "--seed", "1", "--validators", "27"]) == 1
    assert "1 to 26 validators" in capsys.readouterr().err
