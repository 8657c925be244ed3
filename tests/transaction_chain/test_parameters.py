"""The relations between consensus parameters (the last column of `reference/parameters.md`)."""

from __future__ import annotations

import msgspec
import pytest

from blockcloud.primitives.errors import BadConfiguration
from blockcloud.primitives.limits import (
    ADDRESS_RECORD_BYTES,
    BLOCK_BYTES,
    BLOCK_OPERATIONS,
    BLOCK_PAYLOAD_BYTES,
    BLOCK_STATEMENTS,
    COMMITTEE_MEMBERS,
    FETCH_RETRY_MS,
    FRAME_BYTES,
    LEASE_SECONDS,
    SESSION_FRAME_BYTES,
    TRANSACTION_BYTES,
    TRANSACTION_OPERATIONS,
)
from blockcloud.transaction_chain.catch_up import CHUNK_RETRY_MS, LAG_LEVELS
from blockcloud.transaction_chain.core import ABSENT_LEVELS, REPEAT_MS
from blockcloud.transaction_chain.messages import ANSWER_BYTES
from blockcloud.transaction_chain.parameters import WAVE_LENGTH, Parameters
from blockcloud.transaction_chain.suspension import UNDER_WAY_MS

DEVNET = Parameters()
PUBLIC = Parameters(
    pacing_busy_ms=50,
    pacing_idle_ms=500,
    leader_timeout_ms=1_000,
    checkpoint_period=20,
    alarm_period=400,
    era_length=20_000,
)


@pytest.mark.parametrize("parameters", [DEVNET, PUBLIC], ids=["devnet", "public"])
def test_the_published_values_hold_together(parameters: Parameters) -> None:
    parameters.check(members=4)
    assert parameters.leader_timeout_ms > parameters.pacing_busy_ms
    assert parameters.gc_depth_levels > 2 * WAVE_LENGTH
    assert parameters.alarm_period > 4 * parameters.checkpoint_period


@pytest.mark.parametrize(
    "change",
    [
        {"leader_slots": 0},
        {"leader_slots": 5},
        {"pacing_busy_ms": 0},
        {"pacing_busy_ms": 300},
        {"leader_timeout_ms": 20},
        {"gc_depth_levels": 2 * WAVE_LENGTH},
        {"checkpoint_period": 0},
        {"alarm_period": 40},
    ],
    ids=str,
)
def test_a_broken_relation_is_refused(change: dict[str, int]) -> None:
    with pytest.raises(BadConfiguration):
        msgspec.structs.replace(DEVNET, **change).check(members=4)


def test_limits_of_the_ledger_fit_into_one_another() -> None:
    assert TRANSACTION_BYTES <= BLOCK_PAYLOAD_BYTES
    assert TRANSACTION_OPERATIONS <= BLOCK_OPERATIONS
    # References, the framing of each payload and statements of 1 KiB fit beside a full payload.
    assert BLOCK_PAYLOAD_BYTES + 64 * COMMITTEE_MEMBERS + 5 * BLOCK_OPERATIONS + 1_200 * BLOCK_STATEMENTS < BLOCK_BYTES
    assert BLOCK_BYTES < ANSWER_BYTES < FRAME_BYTES
    assert ADDRESS_RECORD_BYTES < SESSION_FRAME_BYTES < FRAME_BYTES
    assert LEASE_SECONDS <= 3_600


def test_times_of_the_core_fit_to_one_another() -> None:
    assert UNDER_WAY_MS < FETCH_RETRY_MS < CHUNK_RETRY_MS
    assert PUBLIC.pacing_idle_ms < REPEAT_MS, "a running validator never needs to repeat itself"
    # A leader that is not waited for is still far inside the DAG, and so is one that lags.
    assert ABSENT_LEVELS < LAG_LEVELS < DEVNET.gc_depth_levels
