"""Names to verified instances: what the service access layer asks before it dials.

The name's record comes with a proof of the ledger, no older than a minute; the instances come from address records,
each signed by a key that the proven record lists. Nodes that answer wrongly are noted and passed over. Those that
should hold something are asked first (`keepers`), then the others. Several routing nodes are asked at once, one more
than may lie, so that one alone cannot hide the newest place.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import msgspec

from blockcloud.primitives import codec
from blockcloud.primitives.errors import BlockCloudError, PeerFault
from blockcloud.primitives.limits import CLOCK_SKEW_SECONDS, INSTANCE_KEYS, RESOLUTION_AGE_SECONDS, STATE_VALUE_BYTES
from blockcloud.primitives.names import parse_name
from blockcloud.routing.address_record import AddressRecord, read_record, verify_record
from blockcloud.routing.errors import HashMismatch, InvalidServiceFile, NotAnnounced
from blockcloud.routing.posted_price import PostedPrice, read_price
from blockcloud.routing.service_file import declared_ports, parse_service_file, service_file_hash
from blockcloud.routing.store import slot_of
from blockcloud.sdk.errors import BadAnswer, NotFound
from blockcloud.sdk.keepers import Keepers
from blockcloud.sdk.light_client import Proven
from blockcloud.sdk.reading import AsyncReader
from blockcloud.sdk.transport import MSGPACK
from blockcloud.service_access.resolution import Instance, NoInstances, Resolution, UnknownName
from blockcloud.service_chain.records import NameRecord
from blockcloud.service_chain.rejections import NameExpired, NameRevoked
from blockcloud.service_chain.state_keys import name_key

NAMES_KEPT: Final = 1_024
FILES_KEPT: Final = 256

_record_list = msgspec.msgpack.Decoder(list[bytes])


class _Entry:
    """What is known of one name. The lock lets one caller ask and the others wait for its answer."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.resolution: Resolution | None = None
        self.at_s = float("-inf")
        self.records: dict[bytes, AddressRecord] = {}
        self.proven: Resolution | None = None  # without instances


class ChainResolver:
    """The Resolver of the service access layer over `client`. `now_s` is Unix time, for leases."""

    def __init__(self, client: AsyncReader, *, now_s: Callable[[], int] = lambda: int(time.time())) -> None:
        self._client = client
        self._now_s = now_s
        self._keepers = Keepers(client.light_client)
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._files: OrderedDict[bytes, dict[str, Any]] = OrderedDict()

    async def resolve(self, name: str, *, max_age_s: int = RESOLUTION_AGE_SECONDS) -> Resolution:
        """A verified answer that was made at most `max_age_s` ago; its proof is at most a minute old in any case.

        Raises InvalidName, UnknownName, NameRevoked, NameExpired, NoInstances, or why no node's answer was accepted.
        """
        asked_at_s = asyncio.get_running_loop().time()
        entry = self._entry(name)
        known = entry.resolution
        if known is not None and self._still_good(entry, known, asked_at_s, max_age_s):
            return known
        async with entry.lock:
            if entry.resolution is None or not self._still_good(entry, entry.resolution, asked_at_s, max_age_s):
                entry.resolution = None
                entry.resolution = await self._resolve(name, entry)
                entry.at_s = asyncio.get_running_loop().time()
            return entry.resolution

    async def proven(self, name: str) -> Resolution:
        """As `resolve`, without instances, so that it does not matter whether one lives: for whoever only has to know
        which keys are the name's. Raises InvalidName, UnknownName, NameRevoked, NameExpired, or why nobody proves it.
        """
        entry = self._entry(name)
        async with entry.lock:
            known = entry.proven
            if known is not None and self._now_s() * 1_000 - known.proven_at_ms <= RESOLUTION_AGE_SECONDS * 1_000:
                return known
            entry.proven = None
            proven = await self._client.proven(name_key(name), max_age_s=RESOLUTION_AGE_SECONDS)
            found = entry.proven = _resolution(self._active(name, proven), (), proven)
            return found

    def _entry(self, name: str) -> _Entry:
        """What is kept of a name; whoever is in the table has been parsed. Raises InvalidName."""
        entry = self._entries.get(name)
        if entry is not None:
            self._entries.move_to_end(name)
            return entry
        entry = self._entries[parse_name(name)] = _Entry()
        while len(self._entries) > NAMES_KEPT:
            self._entries.popitem(last=False)
        return entry

    async def service_file(self, resolution: Resolution) -> dict[str, Any]:
        """The service file that the ledger announces for a name, checked by its hash.

        Raises NotFound if the name has none or nobody holds it, HashMismatch if only altered ones are offered, or
        what `parse_service_file` raises.
        """
        wanted = resolution.service_file_hash
        if not wanted:
            raise NotFound("the name announces no service file", name=resolution.name)
        document = self._files.get(wanted)
        if document is None:

            async def attempt(url: str) -> bytes:
                data = await self._client.transport.once(url, "GET", f"/v1/service-files/{wanted.hex()}", accept="*/*")
                if service_file_hash(data) != wanted:
                    raise HashMismatch("the service file was altered", url=url, wanted=wanted.hex()[:16])
                return data

            transport = self._client.transport
            order = self._keepers.order(transport.urls, [wanted])
            document = self._files[wanted] = parse_service_file(await transport.first(attempt, order=order))
            while len(self._files) > FILES_KEPT:
                self._files.popitem(last=False)
        if document["bc:name"] != resolution.name:
            raise InvalidServiceFile("the service file is another name's", name=document["bc:name"])
        return document

    async def ports(self, resolution: Resolution) -> tuple[int, ...]:
        """The ports at which programs expect the service; none if it has no file, or one that names none.

        Raises what `service_file` raises, but for the file that is not there.
        """
        try:
            return declared_ports(await self.service_file(resolution))
        except NotFound:
            return ()

    async def price(self, resolution: Resolution) -> PostedPrice | None:
        """What the service posts; None if it posts nothing or has no file.

        Raises what `service_file` raises, also where nobody holds the file: what is asked is not known then.
        """
        return read_price(await self.service_file(resolution)) if resolution.service_file_hash else None

    def known_price(self, resolution: Resolution) -> PostedPrice | None:
        """The same without asking anybody; None also if the file is not at hand."""
        document = self._files.get(resolution.service_file_hash)
        return read_price(document) if document is not None and document["bc:name"] == resolution.name else None

    def _still_good(self, entry: _Entry, resolution: Resolution, asked_at_s: float, max_age_s: int) -> bool:
        """Whether a cached answer may be given: young enough, made while we waited, or made just now."""
        age_s = asked_at_s - entry.at_s
        now_s = self._now_s()
        proof_holds = now_s * 1_000 - resolution.proven_at_ms <= RESOLUTION_AGE_SECONDS * 1_000
        alive = all(item.lease_until_s + CLOCK_SKEW_SECONDS > now_s for item in resolution.instances)
        return proof_holds and alive and (age_s <= max_age_s if max_age_s > 0 else age_s <= 0)

    async def _resolve(self, name: str, entry: _Entry) -> Resolution:
        proven = await self._client.proven(name_key(name), max_age_s=RESOLUTION_AGE_SECONDS)
        record = self._active(name, proven)
        found = _resolution(record, (), proven)
        instances = await self._instances(record, entry)
        if not instances:
            raise NoInstances(name=name, resolution=found)
        return replace(found, instances=instances)

    def _active(self, name: str, proven: Proven) -> NameRecord:
        if proven.value is None:
            raise UnknownName(name=name)
        record = codec.decode(proven.value, NameRecord, limit=STATE_VALUE_BYTES)
        if record.revoked:
            raise NameRevoked(name=name)
        if not record.is_active(proven.height):
            raise NameExpired(name=name, height=proven.height, expired=record.expires_height)
        return record

    async def _instances(self, record: NameRecord, entry: _Entry) -> tuple[Instance, ...]:
        """The live instances, newest record of each key, least loaded first. Raises why there may be others."""
        listed = self._client.transport.urls
        slots = [slot_of(record.name, key) for key in record.instance_keys]
        urls = self._keepers.order(listed, slots)
        enough = (len(listed) - 1) // 3 + 1
        first = max(enough, self._keepers.spread(slots, enough))  # each instance may be at other nodes
        # Records seen before still count: a node cannot take an instance back to an older place.
        newest = {key: known for key, known in entry.records.items() if key in record.instance_keys}
        problem: BlockCloudError | None = None
        answered = 0
        for asked in (urls[:first], *(urls[start : start + enough] for start in range(first, len(urls), enough))):
            for answer in await asyncio.gather(*(self._records_at(url, record) for url in asked)):
                if isinstance(answer, BlockCloudError):
                    problem = answer if problem is None or isinstance(answer, PeerFault) else problem
                    continue
                answered += 1
                for found in answer:
                    known = newest.get(found.instance_key)
                    if known is None or found.sequence > known.sequence:
                        newest[found.instance_key] = found
            if answered >= enough and _live(newest, self._now_s()):
                break
        entry.records = newest
        live = _live(newest, self._now_s())
        if not live and problem is not None and (not answered or isinstance(problem, PeerFault)):
            raise problem
        return tuple(
            Instance(item.instance_key, item.endpoints, item.sequence, item.expires_s, item.load, item.draining)
            for item in sorted(live, key=lambda item: (item.load, item.instance_key))
        )

    async def _records_at(self, url: str, record: NameRecord) -> list[AddressRecord] | BlockCloudError:
        """The records that one node has and that hold; or why it has none. What does not hold is noted."""
        transport = self._client.transport
        try:
            data = await transport.once(url, "GET", f"/v1/address-records/{record.name}", accept=MSGPACK)
            raws = _decode_list(data)
        except BlockCloudError as error:
            if isinstance(error, PeerFault):
                transport.refused.append((url, error))
            return error
        found: list[AddressRecord] = []
        fault: PeerFault | None = None
        for raw in raws:
            try:
                found.append(self._checked(raw, record))
            except PeerFault as error:
                fault = error
                transport.refused.append((url, error))
        return fault if fault is not None and not found else found

    def _checked(self, raw: bytes, record: NameRecord) -> AddressRecord:
        """The address record in `raw`, if it is by a key that the proven record lists for this name."""
        found = verify_record(raw, self._now_s())
        if found.name != record.name or found.instance_key not in record.instance_keys:
            raise NotAnnounced(
                "an address record by a key that the ledger does not list for the name",
                name=record.name,
                key=found.instance_key.hex()[:16],
            )
        return found


class HttpAnnouncer:
    """The Announcer of the service access layer: sends an address record to the routing nodes that should hold it, to
    all if they are few; one is enough."""

    def __init__(self, client: AsyncReader) -> None:
        self._client = client
        self._keepers = Keepers(client.light_client)

    async def announce(self, record: bytes) -> None:
        """Raises the first refusal if no node took the record, or why none could be reached."""
        known, signed = self._client.transport.urls, read_record(record)
        takers = self._keepers.takers(known, slot_of(signed.name, signed.instance_key))
        await self._client.transport.everywhere("PUT", "/v1/address-records", record, first=takers)


def _resolution(record: NameRecord, instances: tuple[Instance, ...], proven: Proven) -> Resolution:
    hash_, keys = record.service_file_hash, record.instance_keys
    return Resolution(record.name, record.owner, hash_, keys, instances, proven.height, proven.time_ms)


def _live(records: dict[bytes, AddressRecord], now_s: int) -> list[AddressRecord]:
    """Records whose lease runs and that say a place; one without endpoints withdraws its instance."""
    return [item for item in records.values() if item.endpoints and item.expires_s + CLOCK_SKEW_SECONDS > now_s]


def _decode_list(data: bytes) -> list[bytes]:
    try:
        raws = _record_list.decode(data)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise BadAnswer(f"not a list of records: {error}") from None
    if len(raws) > INSTANCE_KEYS:
        raise BadAnswer("more records than a name can have", records=len(raws), limit=INSTANCE_KEYS)
    return raws
