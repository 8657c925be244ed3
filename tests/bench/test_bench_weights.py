"""`bench weights`, small: each operation is measured, beside a transfer."""

from __future__ import annotations

import pytest

from blockcloud.bench.weights import TOO_HEAVY, TOO_LIGHT, run
from blockcloud.service_chain.fees import OPERATION_WEIGHTS
from blockcloud.service_chain.operations import OPERATIONS

ROUNDED = 0.01  # figures are given in hundredths


@pytest.fixture(scope="module")
def report() -> dict[str, object]:
    return run(members=8, accounts=60, runs=1)


def test_each_operation_has_a_row_or_is_said_to_be_missing(
    report: dict[str, dict[str, list[dict[str, object]]]],
) -> None:
    figures = report["figures"]
    measured = [row["operation"] for row in figures["operations"]]
    assert len(measured) == len(set(measured)) >= 28
    assert {*measured, *figures["not_measured"]} == {kind.__name__ for kind in OPERATIONS}
    weights = {kind.__name__: weight for kind, weight in OPERATION_WEIGHTS.items()}
    assert all(row["weight"] == weights[str(row["operation"])] for row in figures["operations"])


def test_a_weight_is_proposed_only_where_it_is_far_off(report: dict[str, dict[str, list[dict[str, object]]]]) -> None:
    rows = report["figures"]["operations"]
    (transfer,) = [row for row in rows if row["operation"] == "Transfer"]
    assert transfer["relative"] == 1
    for row in rows:
        near = TOO_HEAVY + ROUNDED < float(str(row["relative"])) < TOO_LIGHT - ROUNDED
        assert not near or row["fitting"] == row["weight"], row
