"""One random history, executed by several processes that must agree on everything.

Run as a program, it judges the code that it finds: it makes a history of `--operations` random operations, valid and
invalid ones of every kind, and has it executed by

1. two processes side by side with different hash seeds, which check every signature as a node does with new blocks;
2. a node that catches up: another hash seed, nothing but what a quorum vouches for is checked (ADR 18), and in the
   middle it is killed and goes on from its database.

Each is a chain of its own over RocksDB, begun at the genesis. A process prints a line for each commit: height, digest
of the changes, state root, and a digest of all receipts, outcomes, events and the next era's plan. Different lines
are a verdict: the program prints the seed and the first commit that differs, and ends with 1.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from random import Random
from typing import Final

from blockcloud.node.storage import RECEIPTS, RocksStore
from blockcloud.primitives import codec
from blockcloud.primitives.codec import Struct
from blockcloud.primitives.hashes import sha256
from blockcloud.primitives.storage import Batch
from blockcloud.service_chain.machine import ServiceChain
from blockcloud.service_chain.transaction import parse_transaction
from blockcloud.transaction_chain.block import parse_own
from blockcloud.transaction_chain.commit import Commit, CommitRecord
from blockcloud.transaction_chain.machine import Result
from tests.service_chain.random_eras import Coverage, EraHistory, HistoryLedger, history_genesis

ROOT: Final = Path(__file__).parents[2]
LENGTH_BYTES: Final = 4
ENTRY_BYTES: Final = 8 * 1024 * 1024
PROCESS_SECONDS: Final = 800
WAYS: Final = ("checked", "vouched")


class Entry(Struct, frozen=True):
    """A commit in the file of a history: its record and its blocks as they travel."""

    record: CommitRecord
    blocks: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Made:
    """A history in a file: how many commits, what is in it, and what its author got for each commit."""

    commits: int
    coverage: Coverage
    lines: list[str]


def line_of(result: Result, batch: Batch) -> str:
    """All that nodes must agree on after a commit."""
    receipts = [(key, value) for table, key, value in batch.writes if table == RECEIPTS]
    what = codec.encode((result.outcomes, result.events, receipts, result.next_era))
    root = result.state_root.hex() if result.state_root is not None else "-"
    return f"{result.height} {result.change_digest.hex()} {root} {sha256(what).hex()}"


def make(path: Path, seed: int, operations: int) -> Made:
    """Write the history of `seed` with at least so many operations into the file `path`."""
    coverage, lines = Coverage(), []
    with tempfile.TemporaryDirectory(dir=path.parent) as folder, path.open("wb") as file:
        store = RocksStore(Path(folder))

        def applied(commit: Commit, result: Result, batch: Batch) -> None:
            entry = codec.encode(Entry(commit.record, tuple(block.raw for block in commit.blocks)))
            file.write(len(entry).to_bytes(LENGTH_BYTES) + entry)
            lines.append(line_of(result, batch))
            payloads = [payload for block in commit.blocks for payload in block.payload]
            paid = {key for table, key, _ in batch.writes if table == RECEIPTS}
            for payload, (transaction_id, code) in zip(payloads, result.outcomes, strict=True):
                coverage.add(parse_transaction(payload).body.operations, code, paid=transaction_id in paid)

        history = EraHistory(HistoryLedger(store, applied), Random(seed))
        while coverage.operations < operations:
            history.step()
        store.close()
    return Made(len(lines), coverage, lines)


def entries(path: Path) -> Iterator[Entry]:
    """The commits in the file of a history."""
    with path.open("rb") as file:
        while length := file.read(LENGTH_BYTES):
            yield codec.decode(file.read(int.from_bytes(length)), Entry, limit=ENTRY_BYTES)


def execute(history: Path, data: Path, way: str, until: int) -> None:
    """Go on from the chain in `data` and print a line for each commit. At height `until` the process is gone from one
    moment to the next, as when it is killed; 0: go on to the end."""
    store = RocksStore(data)
    chain = ServiceChain(history_genesis(), store)
    check = chain.check if way == "checked" else chain.check_vouched
    for entry in entries(history):
        if entry.record.height <= chain.height:
            continue
        blocks = tuple(map(parse_own, entry.blocks))
        for block in blocks:
            for payload in block.payload:
                check(payload)
        batch = Batch()
        result = chain.execute(Commit(entry.record, entry.record.digest(), blocks), batch)
        store.write(batch, sync=False)
        sys.stdout.write(line_of(result, batch) + "\n")
        if entry.record.height == until:
            sys.stdout.flush()
            os._exit(0)
    store.close()


def started(history: Path, data: Path, way: str, hash_seed: int, until: int = 0) -> subprocess.Popen[str]:
    """A process that executes the history. It finds the packages where this one does."""
    path = os.pathsep.join([*filter(None, [os.environ.get("PYTHONPATH")]), str(ROOT / "src"), str(ROOT)])
    environment = {**os.environ, "PYTHONHASHSEED": str(hash_seed), "PYTHONPATH": path}
    command = [sys.executable, "-m", "tests.service_chain.determinism", "run"]
    command += [str(history), str(data), "--way", way, "--until", str(until)]
    return subprocess.Popen(command, cwd=data.parent, env=environment, stdout=subprocess.PIPE, text=True)


def lines_of(processes: Sequence[subprocess.Popen[str]]) -> list[list[str]]:
    """What the processes printed, after all of them ended well."""
    try:
        printed = [process.communicate(timeout=PROCESS_SECONDS)[0].splitlines() for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()
    assert all(process.returncode == 0 for process in processes), [process.returncode for process in processes]
    return printed


def executions(history: Path, commits: int) -> dict[str, list[str]]:
    """The lines of each execution of the history, by what it is called."""
    folder = history.parent
    names = ["hash seed 1", "hash seed 2"]
    both = [started(history, folder / f"data{number}", "checked", number) for number in (1, 2)]
    executed = dict(zip(names, lines_of(both), strict=True))
    (before,) = lines_of([started(history, folder / "data3", "vouched", 3, until=max(1, commits // 2))])
    (after,) = lines_of([started(history, folder / "data3", "vouched", 4)])
    executed["catching up, with a restart"] = before + after
    return executed


def difference(expected: list[str], executed: dict[str, list[str]]) -> str:
    """The first commit about which an execution says something else than its author; empty: there is none."""
    for name, lines in executed.items():
        for want, have in zip_longest(expected, lines, fillvalue="nothing"):
            if want != have:
                return f"{name}: {have}, its author: {want}"
    return ""


def judge(seed: int, operations: int) -> str:
    """The difference between the executions of a new history."""
    with tempfile.TemporaryDirectory(prefix="determinism-") as folder:
        path = Path(folder) / "history"
        made = make(path, seed, operations)
        return difference(made.lines, executions(path, made.commits))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run")
    run.add_argument("history", type=Path)
    run.add_argument("data", type=Path)
    run.add_argument("--way", choices=WAYS, default="checked")
    run.add_argument("--until", type=int, default=0)
    judging = commands.add_parser("judge")
    judging.add_argument("--seed", type=int, default=1)
    judging.add_argument("--operations", type=int, default=3_000)
    arguments = parser.parse_args()
    if arguments.command == "run":
        execute(arguments.history, arguments.data, arguments.way, arguments.until)
        return 0
    found = judge(arguments.seed, arguments.operations)
    print(f"seed {arguments.seed}: {found or 'all agree'}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
