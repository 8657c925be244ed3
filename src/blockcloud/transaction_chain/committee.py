"""The committee of an era: who may write blocks, and with which weight.

Safety rests on `bond` (the quorum weight), leader draws on `resource_weight` (parts per million). Members are numbered
in the order in which the genesis or the hand-over lists them; an author is such a number.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property

from blockcloud.primitives.certificates import quorum_weight
from blockcloud.primitives.codec import Struct
from blockcloud.primitives.errors import BadConfiguration
from blockcloud.primitives.limits import COMMITTEE_MEMBERS


class Member(Struct, frozen=True):
    """One validator: its consensus key (Ed25519, 32 bytes), bond in micro-BLOC, and resource weight in ppm."""

    key: bytes
    bond: int
    resource_weight: int = 1_000_000


class Committee:
    """Members with their total weight and quorum. Immutable."""

    def __init__(self, members: Iterable[Member]) -> None:
        self.members = tuple(members)
        if not 1 <= len(self.members) <= COMMITTEE_MEMBERS:
            raise BadConfiguration("a committee has 1 to 100 members", members=len(self.members))
        if len({member.key for member in self.members}) != len(self.members):
            raise BadConfiguration("two committee members share a key")
        if any(member.bond < 1 or member.resource_weight < 1 or len(member.key) != 32 for member in self.members):
            raise BadConfiguration("a member has a key of 32 bytes, a bond and a resource weight of at least 1")
        self.weights = tuple(member.bond for member in self.members)
        self.total = sum(self.weights)
        self.quorum = quorum_weight(self.total)

    def __len__(self) -> int:
        return len(self.members)

    @cached_property
    def weights_by_key(self) -> dict[bytes, int]:
        """Key -> bond, the form that certificates are checked against."""
        return {member.key: member.bond for member in self.members}

    @cached_property
    def index_by_key(self) -> dict[bytes, int]:
        """Key -> number of the member."""
        return {member.key: index for index, member in enumerate(self.members)}

    def weight_of(self, authors: Iterable[int]) -> int:
        """Summed weight of `authors`, who must be distinct."""
        weights = self.weights
        return sum(weights[author] for author in authors)
