"""DAGs as text, and real blocks from it.

A block is named by its author's letter and its level; a prime for each further block of the same author and level
(an equivocation). `A1:[A0,B0,C0]` is the block of author A (committee index 0) at level 1 with three parents, the
author's own previous block first; level 0 is the genesis and has no blocks of its own. Blocks are separated by white
space, `#` starts a comment. Whatever a fuzzer finds is printed in this form and can be pasted into a test. The idea is
the DAG parser of Sui's consensus tests.

The blocks are the production ones: they encode, hash and (on request) sign as a validator's would.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import NamedTuple

from blockcloud.primitives import codec
from blockcloud.primitives.errors import BlockCloudError
from blockcloud.primitives.hashes import tagged_hash
from blockcloud.primitives.keys import SIGNATURE_BYTES, SigningKey
from blockcloud.primitives.limits import COMMITTEE_MEMBERS
from blockcloud.primitives.merkle import merkle_root
from blockcloud.transaction_chain.block import (
    DIGEST_DOMAIN,
    Block,
    BlockReference,
    Header,
    WireBlock,
    genesis_reference,
    sign_block,
)
from blockcloud.transaction_chain.committee import Committee, Member
from blockcloud.transaction_chain.dag import Dag

AUTHORS = 26
LEVEL_MS = 100
CHAIN_ID = tagged_hash("simulation/v1", b"chain")
GENESIS = tagged_hash("simulation/v1", b"genesis")
BEACON = tagged_hash("simulation/v1", b"beacon")

_NAME = re.compile(r"([A-Z])(\d+)('*)")
_BLOCK = re.compile(r"([A-Z]\d+'*):\[([^\]]*)\]")


class BadPlan(BlockCloudError):
    """The text does not describe a DAG."""

    code = "bad_plan"


class BlockName(NamedTuple):
    """Who a block in the text is. `fork` counts the primes."""

    level: int
    author: int
    fork: int = 0

    def __str__(self) -> str:
        return f"{chr(ord('A') + self.author)}{self.level}{self.fork * chr(39)}"


# In an order in which every block comes after its parents.
Plan = Mapping[BlockName, tuple[BlockName, ...]]


def parse_name(text: str) -> BlockName:
    """The name written as `text`, such as "B1'". Raises BadPlan."""
    match = _NAME.fullmatch(text.strip())
    if match is None:
        raise BadPlan("not a block name", text=text)
    return BlockName(int(match[2]), ord(match[1]) - ord("A"), len(match[3]))


def parse_plan(text: str) -> dict[BlockName, tuple[BlockName, ...]]:
    """The DAG written as `text`. Raises BadPlan, also for a parent that is not written before its child."""
    body = re.sub(r"#.*", "", text)
    rest = _BLOCK.sub("", body).strip()
    if rest:
        raise BadPlan("not a block", text=rest[:40])
    plan: dict[BlockName, tuple[BlockName, ...]] = {}
    for match in _BLOCK.finditer(body):
        name = parse_name(match[1])
        parents = tuple(parse_name(parent) for parent in match[2].split(","))
        if name in plan or name.level == 0:
            raise BadPlan("block written twice, or at level 0", block=str(name))
        unknown = [str(parent) for parent in parents if parent.level > 0 and parent not in plan]
        if unknown:
            raise BadPlan("parent is not written before its child", block=str(name), parent=unknown[0])
        plan[name] = parents
    return plan


def show_plan(plan: Plan) -> str:
    """`plan` as text, one line for each level. `parse_plan` reads it back."""
    levels: dict[int, list[str]] = {}
    for name, parents in sorted(plan.items()):
        levels.setdefault(name.level, []).append(f"{name}:[{','.join(map(str, parents))}]")
    return "\n".join("  ".join(blocks) for _, blocks in sorted(levels.items()))


def plan_of(blocks: Iterable[Block]) -> dict[BlockName, tuple[BlockName, ...]]:
    """Names for `blocks`; of one author's blocks at a level, the first given has no prime.

    A parent that is not among them counts as the author's first block of its level.
    """
    ordered = sorted(blocks, key=lambda block: block.level)
    names: dict[BlockReference, BlockName] = {}
    seen: dict[tuple[int, int], int] = {}
    for block in ordered:
        fork = seen.get((block.level, block.author), 0)
        seen[(block.level, block.author)] = fork + 1
        names[block.reference] = BlockName(block.level, block.author, fork)
    return {
        names[block.reference]: tuple(names.get(p, BlockName(p.level, p.author)) for p in block.parents)
        for block in ordered
    }


@lru_cache(maxsize=COMMITTEE_MEMBERS)
def simulated_key(author: int) -> SigningKey:
    """The signing key of committee index `author` in every simulation: not a secret."""
    return SigningKey(tagged_hash("simulation/v1", b"key" + author.to_bytes(2, "big")))


@lru_cache(maxsize=256)
def simulated_committee(weights: tuple[int, ...], resource_weights: tuple[int, ...] = ()) -> Committee:
    """A committee whose members hold `simulated_key`, these bonds and resource weights (default: equal)."""
    resources = resource_weights or (1,) * len(weights)
    return Committee(
        Member(simulated_key(author).public, bond, resource)
        for author, (bond, resource) in enumerate(zip(weights, resources, strict=True))
    )


class DagBuilder:
    """Builds blocks by name. Parents are named too; timestamps rise from level to level and differ between authors."""

    def __init__(self, members: int = 4, *, weights: tuple[int, ...] | None = None, signed: bool = False) -> None:
        if not 1 <= members <= AUTHORS:
            raise BadPlan("one to 26 authors have a letter", members=members)
        self.committee = simulated_committee(weights or (1,) * members)
        self.plan: dict[BlockName, tuple[BlockName, ...]] = {}
        self.blocks: dict[BlockName, Block] = {}
        self._signed = signed

    @property
    def authors(self) -> range:
        """The committee indexes."""
        return range(len(self.committee))

    def reference(self, name: BlockName) -> BlockReference:
        """The reference of a named block or genesis parent. Raises KeyError for one that was not added."""
        return genesis_reference(name.author, GENESIS) if name.level == 0 else self.blocks[name].reference

    def add(
        self,
        name: BlockName,
        parents: Iterable[BlockName],
        *,
        timestamp_ms: int | None = None,
        payload: tuple[bytes, ...] = (),
    ) -> Block:
        """Build the block `name` on `parents`, which exist already. Forks of one slot differ in their timestamp."""
        named = tuple(parents)
        if timestamp_ms is None:
            timestamp_ms = LEVEL_MS * name.level + (37 * name.author + 11 * name.level) % 50 + name.fork
        references = tuple(self.reference(parent) for parent in named)
        header = Header(CHAIN_ID, 0, name.author, name.level, references, timestamp_ms, merkle_root(payload))
        block = sign_block(header, payload, simulated_key(name.author)) if self._signed else _unsigned(header, payload)
        self.plan[name] = named
        self.blocks[name] = block
        return block

    def add_text(self, text: str) -> list[Block]:
        """Build every block of `text` (see the module's docstring). Parents may have been added earlier."""
        earlier = show_plan(self.plan)
        plan = parse_plan(f"{earlier}\n{text}")
        return [self.add(name, parents) for name, parents in plan.items() if name not in self.blocks]

    def add_level(
        self, level: int, authors: Iterable[int] | None = None, *, without: Iterable[BlockName] = ()
    ) -> list[Block]:
        """A block of each of `authors` (default: all) at `level` on every author's first block of the level before,
        but not on `without`. An author's own previous block, of whatever level, is always its first parent."""
        left_out = frozenset(without)
        return [
            self.add(BlockName(level, author), self.parents_for(level, author, left_out))
            for author in (self.authors if authors is None else authors)
        ]

    def parents_for(self, level: int, author: int, left_out: frozenset[BlockName]) -> list[BlockName]:
        """The parents that `add_level` gives."""
        before = [BlockName(level - 1, other) for other in self.authors]
        known = [name for name in before if (level == 1 or name in self.blocks) and name not in left_out]
        own = self.newest_of(author, level)
        return [own, *(name for name in known if name.author != author)]

    def newest_of(self, author: int, below: int) -> BlockName:
        """The author's first block of the highest level under `below`; the genesis if there is none."""
        for level in range(below - 1, 0, -1):
            if BlockName(level, author) in self.blocks:
                return BlockName(level, author)
        return BlockName(0, author)

    def dag(self, names: Iterable[BlockName] | None = None) -> Dag:
        """A production `Dag` with these blocks (default: all) added in the order given."""
        dag = Dag(self.committee, GENESIS)
        for name in self.blocks if names is None else names:
            dag.add(self.blocks[name])
        return dag

    def show(self, names: Iterable[BlockName] | None = None) -> str:
        """The blocks as text (default: all)."""
        return show_plan(self.plan if names is None else {name: self.plan[name] for name in names})


def _unsigned(header: Header, payload: tuple[bytes, ...]) -> Block:
    """A block signed with zeros, for cores whose callers check signatures: signing is most of a block's cost."""
    header_bytes = codec.encode(header)
    signature = bytes(SIGNATURE_BYTES)
    reference = BlockReference(header.level, header.author, tagged_hash(DIGEST_DOMAIN, header_bytes))
    return Block(header, payload, reference, signature, codec.encode(WireBlock(header_bytes, payload, signature)))
