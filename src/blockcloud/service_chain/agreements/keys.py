"""Where the records of agreements stand in the state map, and what names an agreement."""

from __future__ import annotations

from blockcloud.primitives import codec
from blockcloud.primitives.hashes import tagged_hash


def agreement_key(agreement_id: bytes) -> bytes:
    """The Agreement of an id."""
    return b"A" + agreement_id


def provider_key(provider: bytes, name: str) -> bytes:
    """The ProviderRecord of an account under a name."""
    return b"P" + provider + name.encode()


def pot_key(name: str) -> bytes:
    """The PotRecord of a name."""
    return b"Q" + name.encode()


def agreement_id(client: bytes, salt: bytes, height: int) -> bytes:
    """The id of what `client` opened with `salt` in the commit at `height`. No id comes twice, so a voucher of an
    agreement that is over never counts again."""
    return tagged_hash("agreement/v1", codec.encode((client, salt, height)))


def matched_id(match: bytes, height: int) -> bytes:
    """The id of what a match (32 bytes that name it) opened in the commit at `height`."""
    return tagged_hash("agreement-match/v1", codec.encode((match, height)))
