"""The whole state from running nodes into a file: every piece is verified before it is written.

The file is `service_chain/snapshot_file.py`'s. One piece is in memory at a time. Whoever serves a wrong one is passed
over: several nodes have the same snapshot, because all cut the same tree in the same places.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, BinaryIO, Final

from blockcloud.primitives import codec
from blockcloud.primitives.certificates import Statement
from blockcloud.primitives.errors import BlockCloudError, PeerFault
from blockcloud.sdk.errors import BadAnswer, ConflictingHandovers, Refused
from blockcloud.sdk.transport import MSGPACK, decode_object
from blockcloud.service_chain.handover import HANDOVER_BYTES, Handover, WrongEra
from blockcloud.service_chain.snapshot import Manifest, manifest_digest, open_manifest
from blockcloud.service_chain.snapshot_file import NoSnapshot, SnapshotWriter
from blockcloud.service_chain.state.snapshot import BadSnapshot, Part, open_chunk

if TYPE_CHECKING:
    from blockcloud.sdk.light_client import TrustedState
    from blockcloud.sdk.reading import AsyncReader

OFFERS: Final = 16  # that are tried
HIGHEST: Final = 2**53
OCTETS: Final = "application/octet-stream"


async def export_snapshot(client: AsyncReader, file: BinaryIO) -> Manifest:
    """Write the newest snapshot that a node has into the empty `file`, certificates and all.

    Raises NoSnapshot, Unreachable, or what is wrong with what all nodes answered: then the file is worth nothing.
    """
    failure: BlockCloudError | None = None
    for era, digest in await _offers(client):
        file.seek(0)
        file.truncate()
        try:
            return await _export(client, file, era, digest)
        except (PeerFault, Refused) as error:  # whoever offers what does not hold is not to hide what others have
            failure = failure or error
    raise failure or NoSnapshot()


async def _export(client: AsyncReader, file: BinaryIO, era: int, digest: bytes) -> Manifest:
    writer = SnapshotWriter(file.write, client.chain_id, era)
    statement = await _handovers(client, era, writer)

    async def manifest(url: str) -> bytes:
        data = await _piece(client, url, digest, 0)
        if manifest_digest(data) != digest:
            raise BadSnapshot("not the manifest that was asked for")
        return data

    raw = await client.transport.first(manifest)
    opened = await asyncio.to_thread(open_manifest, raw, statement)
    writer.add(raw)
    for number, part in enumerate(opened.parts, start=1):

        async def chunk(url: str, number: int = number, part: Part = part) -> bytes:
            data = await _piece(client, url, digest, number)
            await asyncio.to_thread(open_chunk, part, data)
            return data

        writer.add(await client.transport.first(chunk))
    return opened


def trusted_handovers(state: TrustedState) -> dict[int, Statement]:
    """What a trusted state says about hand-overs, by the era that they lead into."""
    return {one.plan.era: one.certificate.statement for one in state.handovers}


async def _piece(client: AsyncReader, url: str, digest: bytes, number: int) -> bytes:
    return await client.transport.once(url, "GET", f"/v1/snapshots/{digest.hex()}/{number}", accept=OCTETS)


async def _offers(client: AsyncReader) -> list[tuple[int, bytes]]:
    """(era, digest of the manifest) of the snapshots that nodes offer, newest first."""
    found: dict[tuple[int, bytes], None] = {}
    failure: BlockCloudError | None = None
    for url in client.transport.urls:
        try:
            found.update(dict.fromkeys(await _offers_of(client, url)))
        except BlockCloudError as error:  # one node that is down is no reason to give up
            failure = error
    if not found and failure is not None:
        raise failure
    return sorted(found, reverse=True)[:OFFERS]


async def _offers_of(client: AsyncReader, url: str) -> list[tuple[int, bytes]]:
    listed = decode_object(await client.transport.once(url, "GET", "/v1/snapshots")).get("snapshots")
    try:
        offers = [(int(item["era"]), bytes.fromhex(item["manifest"])) for item in listed or ()]
    except (TypeError, ValueError, KeyError):
        raise BadAnswer("a list of snapshots that is none", url=url) from None
    return [(era, digest) for era, digest in offers if 1 <= era < HIGHEST]


async def _handovers(client: AsyncReader, era: int, writer: SnapshotWriter) -> Statement:
    """Write the hand-overs into the eras 1 to `era`, verified from the genesis on; the statement of the last."""
    weights: Mapping[bytes, int] = client.genesis.committee().weights_by_key
    state = client.light_client.state()
    trusted = {} if state is None else trusted_handovers(state)
    number = 1
    while True:
        handover, data = await _handover(client, number, weights)
        statement = handover.certificate.statement
        if trusted.get(number, statement) != statement:
            raise ConflictingHandovers(era=number)
        writer.add(data)
        if number == era:
            return statement
        weights = handover.plan.committee().weights_by_key
        number += 1


async def _handover(client: AsyncReader, era: int, weights: Mapping[bytes, int]) -> tuple[Handover, bytes]:
    """The hand-over into `era`, which a quorum of `weights` has signed, and its bytes."""

    async def attempt(url: str) -> tuple[Handover, bytes]:
        data = await client.transport.once(url, "GET", f"/v1/handovers/{era}", accept=MSGPACK)
        handover = codec.decode(data, Handover, limit=HANDOVER_BYTES)
        await asyncio.to_thread(handover.verify, client.chain_id, weights)
        if handover.plan.era != era:
            raise WrongEra("not the hand-over that was asked for", era=era, answered=handover.plan.era)
        return handover, data

    return await client.transport.first(attempt)
