"""What holds whatever is sent to the ledger: no micro-BLOC appears or is lost, and all nodes agree."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from blockcloud.primitives.amounts import GENESIS_SUPPLY_MICRO_BLOC
from blockcloud.service_chain.records import NameRecord
from blockcloud.service_chain.state_keys import file_key, name_key
from tests.service_chain.ledger_in_memory import MARKETS, NAMING, Ledger, small_genesis
from tests.service_chain.random_history import RandomHistory, agreed

ROOT = Path(__file__).parents[2]


@given(st.integers(0, 2**32))
@settings(max_examples=25)
def test_money_is_neither_made_nor_lost(seed: int) -> None:
    ledger = Ledger()
    history = RandomHistory(ledger, random.Random(seed))
    for _ in range(25):
        history.step()
        assert ledger.money() == ledger.chain.fees.supply
    assert ledger.chain.fees.supply > GENESIS_SUPPLY_MICRO_BLOC


@given(st.integers(0, 2**32))
@settings(max_examples=10)
def test_fees_are_what_the_receipts_say(seed: int) -> None:
    # Where names and namespaces have a price, that is burned too, and so is a part of what goes on in markets.
    genesis = small_genesis(replace(NAMING, namespace_price=0, name_price_max=0))
    ledger = Ledger(replace(genesis, market=replace(MARKETS, market_deposit=GENESIS_SUPPLY_MICRO_BLOC)))
    history = RandomHistory(ledger, random.Random(seed))
    for _ in range(20):
        history.step()
    ids = dict.fromkeys(transaction_id for result in ledger.results for transaction_id, _ in result.outcomes)
    fees = [receipt.fee for transaction_id in ids if (receipt := ledger.chain.receipt(transaction_id))]
    assert ledger.chain.fees.era_pot == sum(fee // 2 for fee in fees)
    assert ledger.chain.fees.burned == sum(fee - fee // 2 for fee in fees)


@given(st.integers(0, 2**32))
@settings(max_examples=10)
def test_announced_files_are_those_that_names_bind(seed: int) -> None:
    ledger = Ledger()
    history = RandomHistory(ledger, random.Random(seed))
    for _ in range(40):
        history.step()
    state = ledger.state()
    names = [key[1:].decode() for key in state if key[:1] == name_key("")]
    records: list[NameRecord] = [record for name in names if (record := ledger.chain.name(name))]
    bound = Counter(record.service_file_hash for record in records if record.service_file_hash)
    keys = [key for key in state if key[:1] == file_key(b"")]
    assert sorted(keys) == sorted(file_key(digest) for digest in bound)


@given(st.integers(0, 2**32), st.sets(st.integers(0, 29), max_size=6))
@settings(max_examples=15)
def test_restarts_change_nothing(seed: int, restarts: set[int]) -> None:
    steady, restarted = Ledger(), Ledger()
    for ledger in (steady, restarted):
        history = RandomHistory(ledger, random.Random(seed))
        for number in range(30):
            if ledger is restarted and number in restarts:
                ledger.restart()
            history.step()
    assert agreed(restarted) == agreed(steady)
    assert restarted.chain.checkpoint == steady.chain.checkpoint
    assert restarted.chain.height == steady.chain.height == 30


def test_random_histories_reach_most_reasons() -> None:
    """The properties above are worth something only if their histories get somewhere."""
    seen: Counter[str] = Counter()
    for seed in range(48):
        ledger = Ledger()
        history = RandomHistory(ledger, random.Random(seed))
        for _ in range(30):
            history.step()
        seen += Counter(code for result in ledger.results for _, code in result.outcomes)
    assert seen["ok"] > 300, seen
    assert len(seen) >= 30, seen
    assert {"too_few_signers", "candidate_keeps_key"} <= seen.keys(), seen
    assert {"out_of_fuel", "unknown_contract", "contract_reentered", "deposit_limit_exceeded"} <= seen.keys(), seen
    assert {"namespace_is_ready", "namespace_taken", "not_namespace_owner"} <= seen.keys(), seen


@pytest.mark.parametrize("seed", [7])
def test_two_processes_with_other_hash_seeds_agree(seed: int) -> None:
    def run(hash_seed: int) -> str:
        environment = {**os.environ, "PYTHONHASHSEED": str(hash_seed), "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
        command = [sys.executable, "-m", "tests.service_chain.random_history", str(seed)]
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout

    first = run(1)
    assert len(first.splitlines()) > 30
    assert run(2) == first
