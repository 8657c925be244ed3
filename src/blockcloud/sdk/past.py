"""The ledger as it was: values at past heights, names at any height, what a commit changed; and what of it is proven.

Roots are certified at checkpoints, so only these heights can be proved directly, and of them those that a node still
can (the newest 64). For a name there is more: its record says when it was changed last, and when before that. A record
that is proven at a later checkpoint and was changed last at or before height H is therefore what the name was at H; and
one that is proven before H is, if the next one names it as the change before. What remains is one node's word, and is
said to be that.

A proof of the past is never fresh: it says what was, not what is (`Proven.fresh`). DESIGN sections 3.6 and 4.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

from blockcloud.primitives.errors import PeerFault
from blockcloud.primitives.names import parse_name
from blockcloud.sdk.errors import BadAnswer, ForgottenEra, Refused, StaleProof
from blockcloud.sdk.transport import MSGPACK
from blockcloud.service_chain.handover import WrongEra
from blockcloud.service_chain.kinds import name_view
from blockcloud.service_chain.records import NameRecord, decode_record
from blockcloud.service_chain.state import NotACheckpoint, Pruned
from blockcloud.service_chain.state_keys import era_key, name_key
from blockcloud.transaction_chain.era import EraPlan

if TYPE_CHECKING:
    from blockcloud.sdk.light_client import Proven
    from blockcloud.sdk.reading import AsyncReader

HIGHEST: Final = 2**53
PLANS_KEPT: Final = 64  # of eras long past, by a client
BETWEEN: Final = "between_checkpoints"
_NO_PROOF: Final = (NotACheckpoint.code, Pruned.code)


@dataclass(frozen=True, slots=True)
class NameAt:
    """A name after the commit at `height`; `record` is None if it had never been registered until then.

    `proven_height` is the certified checkpoint that it follows from; None: it is one node's word, and `unproven` is the
    code of why ("between_checkpoints": it changed more often than there are checkpoints).
    """

    height: int
    record: NameRecord | None
    proven_height: int | None
    unproven: str = ""


async def proven_past(client: AsyncReader, key: bytes, place: str, height: int, timeout_s: float) -> Proven:
    """The proven value of a state key: where `place` is "height", at exactly that; "from": at the first provable height
    from it on; "until": at the last one up to it.

    Asks one node after another. Raises Refused (`pruned`, `not_a_checkpoint`, `future_height`), or why the last answers
    were refused (`LightClient.accept_past`).
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    heights = {"height": range(height, height + 1), "from": range(height, HIGHEST), "until": range(height + 1)}[place]
    params = {"key": key.hex(), place: str(height)}

    async def attempt(url: str) -> Proven:
        data = await client.transport.once(url, "GET", "/v1/proof", params=params, accept=MSGPACK)

        def verify() -> Proven:
            return client.light_client.accept_past(data, key, heights, client.now_ms(), client.past_plans)

        try:
            return await client.with_eras(verify, url, deadline)
        except ForgottenEra as forgotten:
            await _learn_plans(client, (forgotten.era, forgotten.era + 1), max(0.001, deadline - loop.time()))
            return await client.with_eras(verify, url, deadline)

    return await client.transport.first(attempt, timeout_s=timeout_s)


async def _learn_plans(client: AsyncReader, eras: tuple[int, ...], timeout_s: float) -> None:
    """Prove the plans of eras long past: the state keeps them, and a quorum of today vouches for it."""
    for era in eras:
        if era not in client.past_plans:
            plan = decode_record((await client.proven(era_key(era), timeout_s=timeout_s)).value, EraPlan)
            if plan is None:
                raise BadAnswer("the ledger has no plan of this era", era=era)
            client.past_plans[era] = plan
            while len(client.past_plans) > PLANS_KEPT:
                del client.past_plans[min(client.past_plans.keys() - set(eras))]


async def value_view(client: AsyncReader, key: bytes, height: int | None = None) -> tuple[bytes | None, int]:
    """(value, height) of a state key as one node has it, now or after the commit at `height`."""
    params = None if height is None else {"height": str(height)}
    found = await client.transport.json(f"/v1/state/{key.hex()}", params)
    value, at = found.get("value"), found.get("height")
    if not isinstance(at, int) or not (height is None or at == height):
        raise BadAnswer("a value of another height", asked=height)
    if value is None:
        return None, at
    try:
        return bytes.fromhex(value), at
    except (TypeError, ValueError):
        raise BadAnswer("a value that is not hexadecimal") from None


async def name_at(client: AsyncReader, name: str, height: int, *, timeout_s: float) -> NameAt:
    """What a name was after the commit at `height`, proven where that can be. Raises Refused (`future_height`, or
    `pruned` if not even its value is known), or what a wrong proof raises."""
    key = name_key(parse_name(name))
    why = BETWEEN
    try:
        after = await _from(client, key, height, timeout_s)
        found = await _from_link(client, key, height, after, timeout_s)
        if found is not None:
            return found
    except Refused as error:
        if error.code not in _NO_PROOF:
            raise
        why = error.code
    except (WrongEra, StaleProof) as error:
        why = error.code
    value, _ = await value_view(client, key, height)
    try:
        return NameAt(height, decode_record(value, NameRecord), None, why)
    except PeerFault as fault:
        raise BadAnswer(f"a name's record that does not decode: {fault.message}", name=name) from None


async def _from(client: AsyncReader, key: bytes, height: int, timeout_s: float) -> Proven:
    """The proof nearest above `height`; where that is too long ago for this client, the newest."""
    try:
        return await proven_past(client, key, "from", height, timeout_s)
    except (WrongEra, StaleProof):
        newest = await client.proven(key, timeout_s=timeout_s)
        if newest.height < height:
            raise
        return newest


async def _from_link(client: AsyncReader, key: bytes, height: int, after: Proven, timeout_s: float) -> NameAt | None:
    """What the name was at `height`, as it follows from its record `after` it; None if it does not."""
    record = decode_record(after.value, NameRecord)
    if record is None or record.changed_height <= height:
        return NameAt(height, record, after.height)
    if record.previous_height == 0:
        return NameAt(height, None, after.height)  # that change was the first operation on it
    if record.previous_height > height:
        return None
    before = await proven_past(client, key, "until", height, timeout_s)
    earlier = decode_record(before.value, NameRecord)
    if earlier is None or earlier.changed_height != record.previous_height:
        return None
    return NameAt(height, earlier, before.height)


async def history_page(client: AsyncReader, name: str, before: int | None, limit: int | None) -> dict[str, Any]:
    """A page of a name's history as one node has it, oldest first; its entries are checked to be links of one chain.

    Raises NotFound, Refused (`pruned`) or BadAnswer.
    """
    params = {key: str(value) for key, value in (("before", before), ("limit", limit)) if value is not None}
    page = await client.transport.json(f"/v1/names/{parse_name(name)}/history", params or None)
    entries = page.get("history")
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        raise BadAnswer("a history without its entries", name=name)
    if any(
        later.get("previous_height") != earlier.get("height") or not _follows(earlier, later)
        for earlier, later in pairwise(entries)
    ):
        raise BadAnswer("the entries of a history do not follow one another", name=name)
    if before is not None and not _below(entries[-1].get("height"), before):
        raise BadAnswer("a history beyond what was asked for", name=name, before=before)
    return page


def _follows(earlier: dict[str, Any], later: dict[str, Any]) -> bool:
    return _below(earlier.get("height"), later.get("height"))


def _below(height: object, limit: object) -> bool:
    return isinstance(height, int) and isinstance(limit, int) and height < limit


async def prove_history(client: AsyncReader, name: str, page: dict[str, Any], *, timeout_s: float) -> dict[str, Any]:
    """`page` with a `proven_height` at each entry: the checkpoint that proves it, null where it is the node's word.

    One question or two an entry. Raises BadAnswer if a quorum vouches for something else than the node says.
    """
    entries = []
    for entry in page["history"]:
        found = await name_at(client, name, entry["height"], timeout_s=timeout_s)
        if found.proven_height is not None and not _says(entry, found.record):
            raise BadAnswer("the history is not what a quorum vouches for", name=name, height=entry["height"])
        entries.append({**entry, "proven_height": found.proven_height})
    return {**page, "history": entries}


def _says(entry: dict[str, Any], record: NameRecord | None) -> bool:
    """Whether an entry of a history, as the API shows it, is this record."""
    if record is None:
        return False
    facts = {"height": record.changed_height, **name_view(record)}
    return all(entry.get(field) == value for field, value in facts.items())


async def changes_page(client: AsyncReader, height: int, after: bytes | None, limit: int | None) -> dict[str, Any]:
    """One page of what the commit at `height` changed, as one node has it. Raises Refused (`pruned`,
    `future_height`) or BadAnswer."""
    params = {} if after is None else {"after": after.hex()}
    if limit is not None:
        params["limit"] = str(limit)
    page = await client.transport.json(f"/v1/changes/{height}", params or None)
    if not isinstance(page.get("changes"), list) or not isinstance(page.get("next"), str | None):
        raise BadAnswer("a page without its changes", height=height)
    return page


async def all_changes(client: AsyncReader, height: int) -> AsyncIterator[dict[str, Any]]:
    """Everything that the commit at `height` changed, in the order of the keys, page after page."""
    after: bytes | None = None
    while True:
        page = await changes_page(client, height, after, None)
        for change in page["changes"]:
            yield change
        if page["next"] is None:
            return
        try:
            cursor = bytes.fromhex(page["next"])
        except ValueError:
            raise BadAnswer("a cursor that is not hexadecimal") from None
        if after is not None and cursor <= after:
            raise BadAnswer("a cursor that does not go on", height=height)
        after = cursor
