"""What every test shares: the seed of the run, printed when something fails with the one command that repeats it.

Random tests (hypothesis, the simulator, the fuzzer) draw from one number, `run_seed`. CI always uses the same one, so
that a change is never refused for somebody else's rare fault; everyone else's runs explore.
"""

from __future__ import annotations

import os
import random

import pytest
from hypothesis import settings
from hypothesis.configuration import set_hypothesis_home_dir

CI_SEED = 0
SEED_BITS = 32

settings.register_profile("blockcloud", deadline=None, print_blob=True)
settings.register_profile("blockcloud-ci", parent=settings.get_profile("blockcloud"), database=None)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Choose the seed before hypothesis reads its option; pytest-xdist hands the same options to its workers."""
    in_ci = os.environ.get("CI", "").lower() in ("1", "true")
    set_hypothesis_home_dir(config.rootpath / ".hypothesis")
    settings.load_profile("blockcloud-ci" if in_ci else "blockcloud")
    if config.option.hypothesis_seed is None:
        config.option.hypothesis_seed = CI_SEED if in_ci else random.SystemRandom().getrandbits(SEED_BITS)


@pytest.fixture(scope="session")
def run_seed(request: pytest.FixtureRequest) -> int:
    """The number from which a test that is random without hypothesis draws everything."""
    return int(request.config.option.hypothesis_seed)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    failed = [report.nodeid for kind in ("failed", "error") for report in terminalreporter.stats.get(kind, [])]
    if failed:
        terminalreporter.section("to repeat this")
        names = " ".join(f"'{name}'" for name in dict.fromkeys(failed))
        long = " -m 'long or not long'"
        terminalreporter.write_line(
            f"python3 dev.py test{long} --hypothesis-seed={config.option.hypothesis_seed} {names}"
        )
