"""`bench sal` measures every part with its yardstick beside it; small runs."""

from __future__ import annotations

import pytest

from blockcloud.bench.sal import PARTS, run


def test_resolution_is_measured_with_real_proofs() -> None:
    report = run(only=["resolution"], resolutions=3)
    assert set(report["figures"]) == {"resolution_cached_us", "resolution_verified_us"}
    assert all(value > 0 for value in report["figures"].values())


@pytest.mark.long
@pytest.mark.timeout(180)
def test_every_other_part_has_a_figure_and_a_yardstick() -> None:
    parts = [part for part in PARTS if part not in ("gaps", "resolution")]
    report = run(only=parts, connects=3, rounds=1, bulk_bytes=1_000_000, requests=64, sessions=20, watch_s=0.1)
    assert report["figures"]["requests_32_per_s"] > 0
    assert set(report["ratio"]) == {
        "bulk_forward",
        "bulk_quic",
        "bulk_session",
        "connect_first_byte",
        "idle_memory",
        "requests_1",
        "requests_1_awaiting",
        "requests_32",
        "requests_32_awaiting",
    }
