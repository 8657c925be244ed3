"""What a validator and its agent say to each other, over the agent's standard input and output.

A frame is four bytes of length, big-endian, and canonical msgpack. The key never travels: the agent reads its file.
When the input ends, the validator is gone, and the agent ends too (`agent.py`).
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Final, TypeAlias, cast

from msgspec import Meta

from blockcloud.node.resources.frames import frame, read_frame
from blockcloud.primitives import codec
from blockcloud.primitives.codec import Struct
from blockcloud.service_chain.records import OpenRound
from blockcloud.transaction_chain.cloudpos.parameters import ChallengeParameters
from blockcloud.transaction_chain.cloudpos.sortition import CANDIDATES
from blockcloud.transaction_chain.cloudpos.stake import StakeClaim
from blockcloud.transaction_chain.cloudpos.verdicts import Verdicts

# An open round has a claim and an address for each candidate; it fits a value of the state, and so does this.
ORDER_BYTES: Final = 128 * 1024
NEWS_BYTES: Final = 16 * 1024


class Staking(Struct, frozen=True):
    """What the node sets aside (`config.ResourceConfig`), where its plot is kept, and where it answers examinations."""

    folder: str
    storage_bytes: int
    compute_permille: int
    compute_lanes: int
    data_rate: int
    gamma: int
    host: str
    port: int


# To the agent


class Begin(Struct, frozen=True, tag=1):
    """The first order. `staking`: None for a node that only examines others."""

    key_file: str
    chain_id: bytes
    parameters: ChallengeParameters
    log_level: str
    staking: Staking | None


class Prepare(Struct, frozen=True, tag=2):
    """A round is drawn: its challengers may ask from now on. It replaces the one before."""

    round: OpenRound


class Examine(Struct, frozen=True, tag=3):
    """The tests of the prepared round begin; this node is one of its challengers."""

    era: int
    number: int


class Forget(Struct, frozen=True, tag=4):
    """The prepared round is settled: nobody may ask any more."""


Order: TypeAlias = Begin | Prepare | Examine | Forget


# From the agent


class PlotProgress(Struct, frozen=True, tag=1):
    """So many chunks of the plot are made."""

    made: int
    chunks: int


class Staked(Struct, frozen=True, tag=2):
    """The resources are set aside: what to claim, and the port at which the agent is examined."""

    claim: StakeClaim
    port: Annotated[int, Meta(ge=1, le=65_535)]


class Examined(Struct, frozen=True, tag=3):
    """The verdicts of a round, a row for each candidate in the round's order."""

    era: int
    number: int
    rows: Annotated[tuple[Verdicts, ...], Meta(max_length=CANDIDATES)]


News: TypeAlias = PlotProgress | Staked | Examined


def framed(message: Order | News) -> bytes:
    """The bytes of a message, with its length before it."""
    return frame(codec.encode(message))


async def next_order(reader: asyncio.StreamReader) -> Order:
    """Raises IncompleteReadError at the end, Oversized, Malformed or NonCanonical."""
    return codec.decode(await read_frame(reader, ORDER_BYTES), cast("type[Order]", Order), limit=ORDER_BYTES)


async def next_news(reader: asyncio.StreamReader) -> News:
    """Raises IncompleteReadError at the end, Oversized, Malformed or NonCanonical."""
    return codec.decode(await read_frame(reader, NEWS_BYTES), cast("type[News]", News), limit=NEWS_BYTES)
