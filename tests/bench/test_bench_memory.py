"""The pure parts of `bench memory`, and one small real run."""

from __future__ import annotations

import pytest

from blockcloud.bench.memory import Resident, growth_mib, resident_of, run

STATUS = """Name:\tpython
VmPeak:\t  700000 kB
VmHWM:\t  409600 kB
VmRSS:\t  307200 kB
RssAnon:\t  204800 kB
RssFile:\t  102400 kB
"""


def test_memory_is_read_in_mebibytes() -> None:
    assert resident_of(STATUS) == Resident(resident=300, anonymous=200, peak=400)


def test_growth_is_that_of_the_second_half() -> None:
    filling = [(1_000_000, 100), (2_000_000, 300), (3_000_000, 400)]
    flat = [(4_000_000, 400), (5_000_000, 400), (6_000_000, 400)]
    assert growth_mib(filling + flat) == 0.0
    rising = [(number * 1_000_000, 100 + 7 * number) for number in range(1, 11)]
    assert growth_mib(rising) == pytest.approx(7.0)
    assert growth_mib([(1, 5)]) == 0.0
    assert growth_mib([]) == 0.0


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("validators", [1, 4])
def test_the_memory_of_a_small_validator(validators: int) -> None:
    report = run(keys=12_000, operations=6_000, validators_count=validators, every=3_000)
    rows = report["figures"]["memory"]
    assert [row["at"] for row in rows] == ["started", "filled", "working", "working"]
    assert [row["operations"] for row in rows] == [0, 0, 3_000, 6_000]
    assert all(0 < row["anonymous_mib"] <= row["resident_mib"] <= row["peak_mib"] for row in rows)
    assert rows[-1]["height"] > rows[0]["height"]
