"""What is proven about a name for whoever checks its responses: the keys that may sign them, and the fixed content."""

from __future__ import annotations

from typing import Final

from blockcloud.routing.service_file import content_digests, response_keys
from blockcloud.sdk.resolver import ChainResolver
from blockcloud.service_access.edge.trust import Trust

NAMES_KNOWN: Final = 1_024


class ResponseTrust:
    """Answers from what `resolver` has proven, at most a minute ago, and from service files checked by their hash."""

    def __init__(self, resolver: ChainResolver) -> None:
        self._resolver = resolver
        self._known: dict[str, tuple[object, Trust]] = {}

    async def of(self, name: str) -> Trust:
        """Raises as `ChainResolver.proven` and `ChainResolver.service_file`."""
        found = await self._resolver.proven(name)
        known = self._known.get(name)
        if known is not None and known[0] is found:
            return known[1]
        document = await self._resolver.service_file(found) if found.service_file_hash else {}
        trust = Trust((*found.instance_keys, *response_keys(document)), content_digests(document))
        if len(self._known) >= NAMES_KNOWN:
            self._known.clear()
        self._known[name] = found, trust
        return trust
