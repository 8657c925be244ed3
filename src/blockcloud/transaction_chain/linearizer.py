"""From committed leaders to an order of blocks (DESIGN section 3.2).

The committed leaders of one level bring all their ancestors that no commit before has brought and that are above the
collection level. They are ordered by level; within a level by H(beacon, level, author), so that no author is always
first; an equivocator's blocks by digest. The time of a commit is a weighted median, so that members of less than a
third of the weight cannot move it beyond what honest clocks say.
"""

from __future__ import annotations

from collections.abc import Container, Iterable

from blockcloud.primitives import codec
from blockcloud.primitives.hashes import tagged_hash
from blockcloud.transaction_chain.block import Block, BlockReference
from blockcloud.transaction_chain.committee import Committee
from blockcloud.transaction_chain.dag import Dag

ORDER_DOMAIN = "commit-order/v1"


class Linearised:
    """The references that commits have brought, above the collection level; what is below can be asked for no more."""

    def __init__(self, references: Iterable[BlockReference] = ()) -> None:
        self._levels: dict[int, dict[BlockReference, None]] = {}
        self.add(references)

    def __contains__(self, reference: object) -> bool:
        return isinstance(reference, BlockReference) and reference in self._levels.get(reference.level, ())

    def __len__(self) -> int:
        return sum(map(len, self._levels.values()))

    def add(self, references: Iterable[BlockReference]) -> None:
        """Remember `references`."""
        for reference in references:
            self._levels.setdefault(reference.level, {})[reference] = None

    def collect(self, gc_level: int) -> None:
        """Forget what is at or below `gc_level`."""
        for level in [level for level in self._levels if level <= gc_level]:
            del self._levels[level]


def linearise(
    dag: Dag, leaders: list[Block], already: Container[BlockReference], gc_level: int, beacon: bytes
) -> list[Block]:
    """The blocks of one commit in execution order: `leaders` and their ancestors above `gc_level` not in `already`."""
    reached: dict[BlockReference, Block] = {}
    waiting = [leader for leader in leaders if leader.reference not in already]
    for leader in waiting:
        reached[leader.reference] = leader
    while waiting:
        for parent in waiting.pop().parents:
            if parent.level <= gc_level or parent in reached or parent in already:
                continue
            block = dag.get(parent)
            assert block is not None, "the DAG is causally closed above its collection level"
            reached[parent] = block
            waiting.append(block)
    return sorted(reached.values(), key=lambda block: _position(block.reference, beacon))


def _position(reference: BlockReference, beacon: bytes) -> tuple[int, bytes, bytes]:
    author = tagged_hash(ORDER_DOMAIN, codec.encode((beacon, reference.level, reference.author)))
    return reference.level, author, reference.digest


def commit_time_ms(dag: Dag, leader: Block, committee: Committee, previous_ms: int) -> int:
    """max(time of the commit before, weighted median of the timestamps of the leader's parents one level below).

    A leader of level 1 has no such parents with a timestamp: its commit has the genesis time.
    """
    parents = [dag.get(parent) for parent in dag.links(leader.reference).values()]
    stamps = sorted((block.header.timestamp_ms, committee.weights[block.author]) for block in parents if block)
    half = sum(weight for _, weight in stamps)
    below = 0
    for timestamp_ms, weight in stamps:
        below += weight
        if 2 * below >= half:
            return max(previous_ms, timestamp_ms)
    return previous_ms
