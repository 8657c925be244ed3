"""Finality is counted on the virtual clock, so its figures are exact: three message delays for a leader's block."""

from __future__ import annotations

from blockcloud.bench.finality import MESSAGE_DELAYS_MAX, run


def test_finality_in_message_delays_and_over_regions() -> None:
    report = run(sizes=[4], levels=20)
    for case, delays in report["figures"]["message_delays"].items():
        assert delays["leaders_mean"] <= MESSAGE_DELAYS_MAX[case]
        assert 3.0 <= delays["leaders_mean"] <= delays["blocks_mean"] <= delays["blocks_p95"] <= 5.0
    wan = report["figures"]["wan_ms"]["4"]
    assert wan["leader_p50"] <= wan["block_p50"] <= wan["payload_p50"]
    # Nobody is faster than three ways to a quorum.
    assert wan["leader_p50"] >= report["peer"]["three_quorum_delays_ms"]["4"]
    assert report["ratio"] > 1
