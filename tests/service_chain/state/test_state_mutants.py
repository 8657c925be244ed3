"""P17: bugs planted in a copy of the package; the properties must notice every one of them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from blockcloud.primitives.errors import BlockCloudError
from tests.service_chain.state.model import check_past, check_proofs, check_tree

PACKAGE = "blockcloud.service_chain.state"
COPY = "spoilt_state"
# In the order in which they import each other.
MODULES = ("specification", "errors", "tables", "cache", "proof", "records", "tree", "paths", "undo", "versioned")

# (module, what stands there, what the bug makes of it)
BUGS = {
    "no tag in a node": ("tree", 'bytearray(b"N" + bytes', 'bytearray(b"M" + bytes'),
    "no tag in a pair": ("records", 'b"N" + ZERO * before', 'b"n" + ZERO * before'),
    "no collapse on delete, few": ("tree", "            elif held:\n", "            elif False:\n"),
    "no collapse on delete, many": ("tree", "if count >= INNER else", "if count >= LEAF else"),
    "stale flag, few": ("tree", "            kinds[index] = flag\n", "            kinds[index] |= flag\n"),
    "stale flag, many": ("tree", "        kinds[indices] = np", "        kinds[indices] |= np"),
    "wrong child, many": ("tree", "slots[groups, indices & 3]", "slots[groups, indices >> 2 & 3]"),
    "an emptied bucket keeps its hash": ("tree", "                hashes.append(ZERO)\n", "                continue\n"),
    "deleting is not counted": ("tree", "                        count -= 1\n", "                        pass\n"),
    "nested changes are lost": ("tree", "bucket.update(pending.get(index, {}))", "bucket.update({})"),
    "nested count forgets deletions": ("tree", "(leaf is not None) - (old != ZERO)", "(leaf is not None)"),
    "nested tree one digit off": ("tree", "offset = self.offset + self.depth\n", "offset = self.depth - 1\n"),
    "growth loses the last bucket": ("tree", "(self.records()), depth)", "(list(self.records())[:-1]), depth)"),
    "records unsorted": ("records", "at + HASH_BYTES] < hashed_key", "at + HASH_BYTES] > hashed_key"),
    "siblings of a bucket swapped": ("records", "if digit != taken)", "if digit == taken)"),
    "no check of kind 2's path": ("proof", " and int.from_bytes(other) >> shift == int.", " or int."),
    "kind 2 with the own key": ("proof", "return other != hashed_key and ", "return "),
    "spare bits allowed": ("proof", "or bitmap >> (3 * depth) ", ""),
    "length not checked": ("proof", " or len(rest) != siblings_at + bitmap.bit_count() * HASH_BYTES", ""),
    "value not checked": ("proof", "        if hashed_value == value_hash(value):\n", "        if hashed_value:\n"),
    "absence not asked for": ("proof", "if kind == OTHER and value is None and", "if kind == OTHER and"),
    "the newest undo record counts": (
        "undo",
        "leaves.setdefault(row[at:middle], ",
        "leaves.__setitem__(row[at:middle], ",
    ),
    "the newest top counts": (
        "undo",
        "self._tops.setdefault(first, (flag, digest))",
        "self._tops[first] = flag, digest",
    ),
    "undo spans one short": ("undo", "+ end * RECORD_BYTES\n", "+ (end - 1) * RECORD_BYTES\n"),
    "the past keeps what came later": ("paths", "            if old != ZERO:\n", "            if at < 0:\n"),
    "past members are live ones": ("paths", "walk(self._restored(place, bucket), place", "walk(bucket, place"),
    "history sees the future": ("versioned", "hashed_key + _inverted(height), hashed_key", "hashed_key, hashed_key"),
    "history finds another key": ("versioned", 'hashed_key + _inverted(0) + b"\\0"', 'b"\\xff" * 40'),
    "deleted means empty": ("versioned", "return value or None", "return value"),
    "nothing is dirty after a restart": ("versioned", "height_bytes(checkpoint + 1)):\n", "height_bytes(2**63)):\n"),
    "a restart takes everything in": (
        "versioned",
        "value_at(store, hashed_key, checkpoint)",
        "self._dirty[hashed_key]",
    ),
    "an undo record too few": (
        "versioned",
        "start, stop = height_bytes(height + 1)",
        "start, stop = height_bytes(height + 2)",
    ),
    "a write does not reach the cache": ("versioned", "        self._values.update(changes)\n", ""),
    "a write reaches the old cache only": ("cache", "self.young.update(entries)\n", "self._old.update(entries)\n"),
    "old views outlive the tree": (
        "versioned",
        "        self._dirty, self._pasts = {}, {}\n",
        "        self._dirty = {}\n",
    ),
}


@contextmanager
def spoilt(module: str, before: str, after: str) -> Iterator[SimpleNamespace]:
    """A copy of the package in which `before`, found exactly once in `module`, reads `after`."""
    names = SimpleNamespace()
    loaded = []
    try:
        sys.modules[COPY] = ModuleType(COPY)
        for name in MODULES:
            spec = find_spec(f"{PACKAGE}.{name}")
            assert spec is not None
            assert spec.origin is not None
            text = Path(spec.origin).read_text(encoding="utf-8")
            if name == module:
                assert text.count(before) == 1, f"{text.count(before)} times in {module}: {before}"
                text = text.replace(before, after)
            copy = ModuleType(f"{COPY}.{name}")
            loaded.append(copy.__name__)
            sys.modules[copy.__name__] = copy
            exec(compile(text.replace(PACKAGE, COPY), f"{COPY}/{name}.py", "exec"), copy.__dict__)
            names.__dict__.update(copy.__dict__)
        yield names
    finally:
        for name in [COPY, *loaded]:
            sys.modules.pop(name, None)


def fault_found(package: SimpleNamespace) -> bool:
    try:
        for seed, (depth, vector_nodes) in enumerate(((4, 1), (4, 10**9), (5, 48))):
            check_tree(package, seed, depth=depth, vector_nodes=vector_nodes)
        for size in (1, 5, 60, 700):
            check_proofs(package, size, size)
        for seed, size in enumerate((2, 12, 80, 500)):
            check_past(package, seed, size)
    except (AssertionError, BlockCloudError, LookupError, TypeError, ValueError, StopIteration, RecursionError):
        return True
    return False


def test_an_unspoilt_copy_passes() -> None:
    with spoilt("tree", "DEPTH_MIN: Final = 4", "DEPTH_MIN: Final = 4") as package:
        assert package.Tree.__module__ == f"{COPY}.tree"
        assert not fault_found(package)


@pytest.mark.parametrize("bug", BUGS)
def test_every_planted_bug_is_found(bug: str) -> None:
    with spoilt(*BUGS[bug]) as package:
        assert fault_found(package)
