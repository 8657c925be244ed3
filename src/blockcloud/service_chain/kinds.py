"""What kind of record stands under a state key: the other direction of `state_keys.py`, for whoever shows the state.

Nothing of the protocol depends on this table: a key that it does not know is shown as bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from blockcloud.primitives import codec
from blockcloud.primitives.addresses import format_address
from blockcloud.primitives.codec import Struct
from blockcloud.primitives.errors import PeerFault
from blockcloud.primitives.limits import STATE_VALUE_BYTES
from blockcloud.service_chain import records
from blockcloud.service_chain.agreements.records import Agreement, PotRecord, ProviderRecord
from blockcloud.service_chain.market.records import BookRecord, Calendar, MarketRecord, MarketTurn, OrderRecord, Page
from blockcloud.service_chain.proof_of_service.records import (
    CaseRecord,
    ServiceRecord,
    StandingRecord,
    VerificationEra,
    VerifierIndex,
    VerifierRecord,
)
from blockcloud.transaction_chain.cloudpos.verdicts import Report
from blockcloud.transaction_chain.era import EraPlan

UNKNOWN: Final = "unknown"
# What the rest of a key names.
ADDRESS: Final = "address"
NAME: Final = "name"
NUMBER: Final = "number"
NOTHING: Final = ""
_ADDRESS_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of record: its name, its shape, and what the key names behind the first letter."""

    name: str
    shape: type[Struct]
    subject: str = NOTHING


# By the first letter of the key, or by the first two where a letter has several.
KINDS: Final[dict[bytes, Kind]] = {
    b"a": Kind("account", records.Account, ADDRESS),
    b"h": Kind("account_keys", records.AccountKeys, ADDRESS),
    b"l": Kind("lane", records.Lane, ADDRESS),
    b"n": Kind("name", records.NameRecord, NAME),
    b"N": Kind("namespace", records.NamespaceRecord, NAME),
    b"p": Kind("preorder", records.PreorderRecord),
    b"s": Kind("service_file", records.FileRecord),
    b"f": Kind("fees", records.Fees),
    b"v": Kind("candidate", records.Candidate, ADDRESS),
    b"V": Kind("candidates", records.CandidateIndex),
    b"k": Kind("consensus_key", records.ConsensusKeyUse),
    b"E": Kind("current_era", records.CurrentEra),
    b"e": Kind("era", EraPlan, NUMBER),
    b"t": Kind("era_end", records.EraEnd, NUMBER),
    b"Z": Kind("frozen_candidates", records.FrozenCandidates),
    b"T": Kind("era_tally", records.EraTally),
    b"R": Kind("reveals", records.Reveals),
    b"U": Kind("upgrade", records.Upgrade),
    b"o": Kind("offence", records.Offence),
    b"r": Kind("stake", records.StakeRecord, ADDRESS),
    b"C": Kind("open_round", records.OpenRound),
    b"c": Kind("challenge_report", Report, ADDRESS),
    b"S": Kind("silent_challengers", records.SilentChallengers),
    b"x": Kind("contract", records.ContractRecord, ADDRESS),
    b"w": Kind("code", records.CodeRecord),
    b"d": Kind("storage", records.StorageCell, ADDRESS),
    b"y": Kind("policy", records.PolicyRecord, NAME),
    b"m": Kind("role", records.RoleRecord, NAME),
    b"g": Kind("revocations", records.RevocationRecord, NAME),
    b"A": Kind("agreement", Agreement),
    b"P": Kind("provider", ProviderRecord, ADDRESS),
    b"Q": Kind("verification_pot", PotRecord, NAME),
    b"M": Kind("market", MarketRecord),
    b"B": Kind("market_book", BookRecord),
    b"O": Kind("order", OrderRecord),
    b"L": Kind("market_calendar", Calendar),
    b"Ll": Kind("market_list", Page),
    b"Lb": Kind("order_list", Page),
    b"Lt": Kind("market_turn", MarketTurn),
    b"Y": Kind("verifier", VerifierRecord, ADDRESS),
    b"Iv": Kind("verifiers", VerifierIndex),
    b"Ie": Kind("verification_era", VerificationEra),
    b"G": Kind("verified_service", ServiceRecord, NAME),
    b"H": Kind("provider_standing", StandingRecord, ADDRESS),
    b"J": Kind("verification_case", CaseRecord),
}


def _kind(key: bytes) -> Kind | None:
    return KINDS.get(key[:2]) or KINDS.get(key[:1])


def kind_of(key: bytes) -> str:
    """The name of the kind of record that stands under `key`, or "unknown"."""
    kind = _kind(key)
    return UNKNOWN if kind is None else kind.name


def record_in(key: bytes, value: bytes) -> Struct | None:
    """The record in `value`, which stands under `key`; None if it is of no known kind or shape."""
    kind = _kind(key)
    if kind is None:
        return None
    try:
        return codec.decode(value, kind.shape, limit=STATE_VALUE_BYTES)
    except PeerFault:
        return None


def subject_of(key: bytes) -> tuple[str, bytes]:
    """(What the key names, the bytes of it): an address, a name, a number; ("", b"") where it names nothing."""
    kind = _kind(key)
    if kind is None or kind.subject == NOTHING:
        return NOTHING, b""
    return kind.subject, key[1 : 1 + _ADDRESS_BYTES] if kind.subject == ADDRESS else key[1:]


def name_view(record: records.NameRecord) -> dict[str, Any]:
    """A name as the registry holds it, and as everything that shows one has it: plain values, keys in hexadecimal."""
    return {
        "name": record.name,
        "owner": format_address(record.owner),
        "service_file_hash": record.service_file_hash.hex(),
        "instance_keys": [key.hex() for key in record.instance_keys],
        "registered_height": record.registered_height,
        "expires_height": record.expires_height,
        "held_until_height": record.held_until_height,
        "changed_height": record.changed_height,
        "previous_height": record.previous_height,
        "revoked": record.revoked,
    }
