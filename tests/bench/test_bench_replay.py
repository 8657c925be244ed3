"""`bench replay`, small: every figure that has a bar is there, and both ways lead to the past's root."""

from __future__ import annotations

from blockcloud.bench.replay import MEMBERS, run


def test_a_short_past_is_replayed_in_each_way() -> None:
    report = run(transfers=360, per_level=12, accounts=40, runs=1)
    figures = report["figures"]
    assert set(report["bars"]) <= set(figures)
    # The last levels of a past are not decided in it.
    assert 300 <= figures["transfers"] <= 360
    assert figures["commits"] >= 360 // 12 - MEMBERS
    assert 0 < figures["vouched_blocks_percent"] <= 100
    assert all(figure > 0 for figure in figures.values())
    assert report["ratio"] == figures["cost_of_a_signature"]
    assert report["peer"]["ed25519_verify_us"] > 0
