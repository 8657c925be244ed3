"""What the state map holds: one frozen struct for each kind of record, in canonical encoding.

Amounts are in micro-BLOC, heights are of commits. A rule reads a record, makes a new one and puts it back.
"""

from __future__ import annotations

from typing import Final, TypeVar

from blockcloud.primitives import codec
from blockcloud.primitives.codec import Struct
from blockcloud.primitives.limits import STATE_VALUE_BYTES
from blockcloud.service_chain.agreements.records import Agreement, PotRecord, ProviderRecord
from blockcloud.service_chain.market.records import (
    BookRecord,
    Calendar,
    MarketRecord,
    MarketTurn,
    OrderRecord,
    Page,
)
from blockcloud.service_chain.name_price import PriceRule
from blockcloud.service_chain.proof_of_service.records import (
    CaseRecord,
    ServiceRecord,
    StandingRecord,
    VerificationEra,
    VerifierIndex,
    VerifierRecord,
)
from blockcloud.transaction_chain.cloudpos.sortition import ChallengeRound
from blockcloud.transaction_chain.cloudpos.stake import Resources, StakeClaim
from blockcloud.transaction_chain.cloudpos.verdicts import Report
from blockcloud.transaction_chain.era import EraPlan

REGISTERED: Final = "registered"
REVOKED: Final = "revoked"


class Account(Struct, frozen=True):
    """Accounts are never removed: their sequence keeps old transactions from being replayed."""

    balance: int
    sequence: int = 0  # of lane 0: what the next transaction must carry
    highest_lane: int = 0  # the highest number that a lane was ever opened under
    rekeyed: bool = False  # there is an AccountKeys record; else the account's own key signs, and nothing is looked up


class AccountKeys(Struct, frozen=True):
    """Who signs on lane 0 of an account whose keys were changed: exactly `threshold` of `keys` (ascending). Its lanes
    up to number `ended_lanes` are over."""

    threshold: int
    keys: tuple[bytes, ...]
    ended_lanes: int = 0


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
    held_until_height: int  # expiry and grace: below it nobody else may register the name, unless it is revoked

    @property
    def revoked(self) -> bool:
        """Whether its owner gave it up."""
        return self.status == REVOKED

    def is_active(self, height: int) -> bool:
        """Whether it binds anything at `height`: neither revoked nor expired."""
        return self.status == REGISTERED and height < self.expires_height

    def is_held(self, height: int) -> bool:
        """Whether it is somebody's at `height`: active, or in the time in which its owner may still renew it."""
        return self.status == REGISTERED and height < self.held_until_height


class NamespaceRecord(Struct, frozen=True):
    """A namespace and the rules of the names directly below it; its status is `namespaces.namespace_status`."""

    label: str
    owner: bytes
    rule: PriceRule
    lifetime: int
    grace: int
    revealed_height: int
    lapses_height: int  # unless it is ready before
    ready_height: int  # 0: not yet
    deposit: int


class FileRecord(Struct, frozen=True):
    """How many names bind a service file."""

    names: int


class Candidate(Struct, frozen=True):
    """Who may sit in a committee: a node key with a bond, where its links and its client API are, the onion it reveals
    and the consensus keys it named (`staking.py`, `eras.py`). Bonds in micro-BLOC."""

    bond: int
    link_address: str
    api_url: str
    unbonding: tuple[tuple[int, int], ...] = ()  # (first era in which it can be withdrawn, amount), ascending
    keys: tuple[tuple[int, bytes], ...] = ()  # (era, consensus key it was ready with), ascending; only the last eras
    onion: bytes = b""  # the last known layer, at first the tip; empty: reveals nothing
    onion_start: int = 0  # era of the onion's first reveal: in era e comes reveal number e - onion_start + 1
    onion_reveals: int = 0  # number of the reveal that `onion` is; 0: the tip
    next_onion: bytes = b""  # a tip that counts from era `next_onion_start` on; empty: none
    next_onion_start: int = 0
    jailed_era: int = -1  # the era in which it was jailed; -1: it is not
    offences: int = 0  # proven lies so far
    protocol_version: int = 1  # the highest it said it can run
    kept_era: int = -1  # the last era in which a seat that stayed weighed more than the bond; -1: none
    placement_salt: bytes = b""  # from its first seat on, the same for all its seats; empty before

    @property
    def jailed(self) -> bool:
        """Whether it is kept out of committees until it asks back in."""
        return self.jailed_era >= 0

    @property
    def at_stake(self) -> int:
        """What can be slashed: bond and unbonding amounts."""
        return self.bond + sum(amount for _, amount in self.unbonding)


class CandidateIndex(Struct, frozen=True):
    """The node keys of all candidates with a bond, ascending."""

    keys: tuple[bytes, ...]


class ConsensusKeyUse(Struct, frozen=True):
    """Whose consensus key this is, and in which era."""

    node_key: bytes
    era: int


class CurrentEra(Struct, frozen=True):
    """The number of the era that the next commit belongs to."""

    era: int


class EraEnd(Struct, frozen=True):
    """The commit time of an era's last commit, in ms."""

    time_ms: int


class FrozenCandidates(Struct, frozen=True):
    """Who was ready for `era` at the freeze of the era before: (node key, consensus key, bond), highest bond first."""

    era: int
    entries: tuple[tuple[bytes, bytes, int], ...]


class Upgrade(Struct, frozen=True):
    """The protocol version that a quorum of the next committee could run, as of the last era's end."""

    protocol_version: int


class EraTally(Struct, frozen=True):
    """What the members of an era did so far, by their numbers: micro-BLOC of emission earned, levels with a committed
    block, and the highest of these levels."""

    era: int
    earned: tuple[int, ...]
    levels: tuple[int, ...]
    highest: tuple[int, ...]


class Reveals(Struct, frozen=True):
    """The onion layers revealed in an era, in the order in which they came."""

    era: int
    values: tuple[bytes, ...]


class Offence(Struct, frozen=True):
    """A lie that was punished: the height at which it was reported, and micro-BLOC slashed."""

    height: int
    slashed: int


class StakeRecord(Struct, frozen=True):
    """The resources that a candidate puts up: what it claims, the "host:port" where it is examined, and what of the
    claim has been confirmed (`resources.py`)."""

    claim: StakeClaim
    address: str
    confirmed: Resources


class OpenRound(Struct, frozen=True):
    """The round of tests of an era, as it was drawn. The tests begin with the commit at `height`; the reports that are
    on the chain before the commit at `settle_height` count. `stakes` are the claims and addresses of the candidates, in
    their order. Node keys, each once. `drawn_ms` is the time of the commit that the draw belongs to."""

    era: int
    number: int
    height: int
    settle_height: int
    challengers: tuple[bytes, ...]
    candidates: tuple[bytes, ...]
    stakes: tuple[tuple[StakeClaim, str], ...]
    drawn_ms: int

    def drawn(self) -> ChallengeRound:
        """Who tests whom, and from when on."""
        return ChallengeRound(self.era, self.number, self.height, self.challengers, self.candidates)


class SilentChallengers(Struct, frozen=True):
    """The challengers of `era` that did not report, until the era's end. Node keys."""

    era: int
    node_keys: tuple[bytes, ...]


class Fees(Struct, frozen=True):
    """The whole money side of the chain in one record. `supply` is what was ever issued; `burned` is gone from it."""

    base_fee: int  # micro-BLOC for one unit of weight
    era_pot: int
    burned: int
    supply: int


class ContractRecord(Struct, frozen=True):
    """A contract. Its money is in the account of its address, its data in StorageCells; `deposit` is what was laid down
    for `stored_bytes`."""

    code_hash: bytes
    owner: bytes
    created_height: int
    stored_bytes: int
    deposit: int


class CodeRecord(Struct, frozen=True):
    """The module of one or more contracts, as it was deployed."""

    code: bytes


class StorageCell(Struct, frozen=True):
    """What a contract keeps under one of its keys."""

    value: bytes


class PolicyRecord(Struct, frozen=True):
    """The policy of a name. It counts while the name's `registered_height` is this one."""

    name: str
    text: str
    digest: bytes
    changed_height: int
    registered_height: int


class RoleRecord(Struct, frozen=True):
    """Who is in a role. It counts while the role's name has this owner and registration."""

    role: str
    owner: bytes
    registered_height: int
    members: tuple[bytes, ...]
    changed_height: int


class RevocationRecord(Struct, frozen=True):
    """The void grants of a name: each (revocation id, when it expires anyway), and all issued before
    `issued_after_s` (Unix time)."""

    name: str
    owner: bytes
    registered_height: int
    issued_after_s: int
    revoked: tuple[tuple[bytes, int], ...]
    changed_height: int


Record = (
    Account
    | AccountKeys
    | Lane
    | PreorderRecord
    | NameRecord
    | NamespaceRecord
    | FileRecord
    | Fees
    | Candidate
    | CandidateIndex
    | ConsensusKeyUse
    | CurrentEra
    | EraEnd
    | EraPlan
    | FrozenCandidates
    | EraTally
    | Reveals
    | Upgrade
    | Offence
    | StakeRecord
    | OpenRound
    | Report
    | SilentChallengers
    | ContractRecord
    | CodeRecord
    | StorageCell
    | PolicyRecord
    | RoleRecord
    | RevocationRecord
    | Agreement
    | ProviderRecord
    | PotRecord
    | MarketRecord
    | BookRecord
    | OrderRecord
    | Page
    | MarketTurn
    | Calendar
    | VerifierRecord
    | VerifierIndex
    | VerificationEra
    | ServiceRecord
    | StandingRecord
    | CaseRecord
)

R = TypeVar("R", bound=Struct)


def decode_record(value: bytes | None, shape: type[R]) -> R | None:
    """The record in the bytes of a state value; None where there is none."""
    return None if value is None else codec.decode(value, shape, limit=STATE_VALUE_BYTES)
