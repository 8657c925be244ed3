"""Who verifies which service in an era, and who judges: tickets of which the first kind is secret.

A verifier registers the tip of a hash onion before the beacon of the era is known. Layer by layer it is revealed, one
an era, so the value of an era is fixed and yet known to the verifier alone. It verifies a service iff
H(value, beacon, name) is below a threshold: the provider cannot know who tests it until the era is nearly over. One
ticket, one vote. DESIGN section 7.

Panels are drawn in public from the next beacon, which nobody knew when the case came up.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from blockcloud.primitives import codec
from blockcloud.primitives.hashes import tagged_hash

TICKETS = 2**256


def threshold(wanted: int, eligible: int) -> int:
    """Below which tickets win, so that of `eligible` verifiers `wanted` are drawn on average."""
    assert wanted >= 1, "somebody is drawn"
    return TICKETS if wanted >= eligible else TICKETS * wanted // eligible


def ticket(value: bytes, beacon: bytes, name: str) -> int:
    """The ticket of an onion's layer for a service in the era of `beacon`."""
    return int.from_bytes(tagged_hash("verifier-ticket/v1", codec.encode((value, beacon, name))))


def is_drawn(value: bytes, beacon: bytes, name: str, below: int) -> bool:
    """Whether the holder of the onion's layer `value` verifies the service."""
    return ticket(value, beacon, name) < below


def panel(owners: Mapping[bytes, bytes], case: bytes, beacon: bytes, size: int, barred: Iterable[bytes]) -> list[bytes]:
    """The judges of a case: keys of `owners` (verifier: owner), the `size` lowest tickets, at most one of each owner.
    None is, or belongs to, one of the `barred`."""
    taken = dict.fromkeys(barred)
    order = sorted(owners, key=lambda key: (tagged_hash("judge-ticket/v1", codec.encode((key, beacon, case))), key))
    judges: list[bytes] = []
    for key in order:
        owner = owners[key]
        if len(judges) < size and key not in taken and owner not in taken:
            judges.append(key)
            taken[owner] = None
    return judges
