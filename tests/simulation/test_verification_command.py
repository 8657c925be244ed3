"""`blockcloud sim verification`: who cheats loses, where the economics page says so; and what makes no sense."""

from __future__ import annotations

import json

import pytest

from blockcloud.cli.app import run
from blockcloud.simulation.verification.scenario import SCENARIOS
from blockcloud.simulation.verification.trial import run_trial

COSTLY = ("drop-5", "throttle", "select-50", "select-90", "shield", "own-keys")


@pytest.mark.long
@pytest.mark.parametrize("name", COSTLY)
def test_a_provider_that_cheats_is_convicted_and_loses(name: str) -> None:
    found = run_trial(SCENARIOS[name], 25, 1)
    assert found["convictions"] >= 1
    assert found["provider_gain_bloc"] < 0


def test_a_verifier_that_does_not_probe_loses_its_bond_to_audits() -> None:
    found = run_trial(SCENARIOS["lazy"], 25, 1)
    assert found["verifier_gain_bloc"] < 0
    assert found["verifier_lost_of_its_bond_bloc"] > 0


def test_a_quarter_cannot_convict_the_good(run_seed: int) -> None:
    found = run_trial(SCENARIOS["smear"], 8, run_seed)
    assert (found["convictions"], found["provider_gain_bloc"]) == (0, 0)


def test_the_command_shows_one_object_and_names_the_scenarios(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["sim", "verification", "--scenario", "drop-5", "--eras", "6", "--json"]) == 0
    first = capsys.readouterr().out
    assert json.loads(first)["drop-5"]["eras"] == 6
    assert run(["sim", "verification", "--scenario", "drop-5", "--eras", "6", "--json"]) == 0
    assert capsys.readouterr().out == first
    assert run(["sim", "verification", "--scenario", "none"]) != 0
    assert "lazy" in capsys.readouterr().err
