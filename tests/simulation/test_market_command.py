"""`blockcloud sim market` and `bench market`: one object, a picture that stands alone, and what they refuse."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from blockcloud.cli.app import run
from blockcloud.simulation.market.scenario import SCENARIOS, STANDARD
from blockcloud.simulation.market.trial import greedy_gain, run_trial


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_market_adds_up_and_the_same_seed_gives_the_same(scenario: str) -> None:
    trial = run_trial(SCENARIOS[scenario], 400, 7)
    assert 0 < trial.gain <= trial.optimum
    assert trial.paid - trial.received == trial.surplus >= 0
    assert sum(trial.trades_a_round) == trial.trades
    assert len(trial.prices) == len(trial.trades_a_round)
    assert trial == run_trial(SCENARIOS[scenario], 400, 7)
    assert trial.prices != run_trial(SCENARIOS[scenario], 400, 8).prices
    assert 0 < greedy_gain(SCENARIOS[scenario].traders(400, 7)) <= trial.optimum


def test_the_price_finds_its_way_from_a_wrong_start() -> None:
    trial = run_trial(STANDARD, 3_000, 1)
    # Values are drawn evenly up to 1,000,000; the market opens at 300,000.
    assert 400_000 < sum(trial.prices[-100:]) / 100 < 600_000
    assert trial.efficiency_percent >= 84


def test_the_picture_is_whole_svg(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "price.svg"
    assert run(["sim", "market", "--agents", "300", "--scenario", "shock", "--plot", str(path), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert len(report["price_path"]) == report["rounds"]
    picture = ElementTree.fromstring(path.read_text(encoding="utf-8"))
    (line,) = picture.findall("{http://www.w3.org/2000/svg}polyline")
    assert len(line.attrib["points"].split()) == report["rounds"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["market", "--agents", "3"], "10 to 20000 agents"),
        (["market", "--scenario", "none"], "thin, thick, shock"),
        (["market", "--plot", "price.gif"], ".svg"),
        (["--seed", "3", "market"], "go behind its name"),
    ],
)
def test_what_makes_no_sense_is_named(arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["sim", *arguments]) != 0
    assert told in capsys.readouterr().err


def test_the_benchmark_measures_each_part(capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--per-round", "20", "--rounds", "1", "--agents", "100", "--liars", "3", "--live", "40", "--json"]
    assert run(["bench", "market", *small]) == 0
    figures = json.loads(capsys.readouterr().out)["figures"]
    assert figures["orders_a_second"] > 0
    assert set(figures["in_execution"]) == {"us_to_enter", "us_to_wait_a_round", "us_a_trade"}
    assert set(figures["efficiency"]) == {"standard", "hurried", *SCENARIOS}
    assert figures["liars"]["ratchet: limit, arrival, departure"]["could_gain_percent"] == 0
