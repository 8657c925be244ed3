"""What the state map holds: one frozen struct for each kind of record, in canonical encoding.

Amounts are in micro-BLOC, heights are of commits. A rule reads a record, makes a new one and puts it back.
"""

from __future__ import annotations

from typing import Final

from blockcloud.primitives.codec import Struct

REGISTERED: Final = "registered"
REVOKED: Final = "revoked"


class Account(Struct, frozen=True):
    """Accounts are never removed: their sequence keeps old transactions from being replayed."""

    balance: int
    sequence: int = 0  # of lane 0: what the next transaction must carry
    highest_lane: int = 0  # the highest number that a lane was ever opened under


class Lane(Struct, frozen=True):
    """A further line of transactions of one account, under a key of its own. `cap` is what it may still spend."""

    key: bytes
    allowed: tuple[int, ...]
    cap: int
    expires_height: int
    deposit: int
    sequence: int = 0


class PreorderRecord(Struct, frozen=True):
    """A commitment to register a name, and when it was made."""

    height: int


class NameRecord(Struct, frozen=True):
    """A name and what it binds. Good while `is_active`; what else may be done to it when is in `names.TRANSITIONS`."""

    name: str
    owner: bytes
    service_file_hash: bytes  # empty: none
    instance_keys: tuple[bytes, ...]
    registered_height: int
    expires_height: int
    changed_height: int
    status: str  # REGISTERED or REVOKED
    deposit: int
    previous_height: int  # of the change before this one, 0 for none: the history is a chain

    @property
    def revoked(self) -> bool:
        """Whether its owner gave it up."""
        return self.status == REVOKED

    def is_active(self, height: int) -> bool:
        """Whether it binds anything at `height`: neither revoked nor expired."""
        return self.status == REGISTERED and height < self.expires_height


class FileRecord(Struct, frozen=True):
    """How many names bind a service file."""

    names: int


class ValidatorRecord(Struct, frozen=True):
    """A member of the committee: its bond, and where its client API is."""

    bond: int
    resource_weight: int
    api_url: str
    link_address: str


class Fees(Struct, frozen=True):
    """The whole money side of the chain in one record. `supply` is what was ever issued; `burned` is gone from it."""

    base_fee: int  # micro-BLOC for one unit of weight
    era_pot: int
    burned: int
    supply: int


Record = Account | Lane | PreorderRecord | NameRecord | FileRecord | ValidatorRecord | Fees
