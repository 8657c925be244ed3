"""Where each record stands in the state map: one letter for the kind, then what names the record.

These bytes are part of the protocol: light clients ask for proofs of them.
"""

from __future__ import annotations

from typing import Final

FEES_KEY: Final = b"f"
CURRENT_ERA_KEY: Final = b"E"
CANDIDATES_KEY: Final = b"V"
FROZEN_KEY: Final = b"Z"
TALLY_KEY: Final = b"T"
REVEALS_KEY: Final = b"R"
UPGRADE_KEY: Final = b"U"
ROUND_KEY: Final = b"C"
SILENT_CHALLENGERS_KEY: Final = b"S"


def account_key(public_key: bytes) -> bytes:
    """The Account of a public key (32 bytes)."""
    return b"a" + public_key


def account_keys_key(public_key: bytes) -> bytes:
    """The AccountKeys of an account."""
    return b"h" + public_key


def lane_key(public_key: bytes, lane: int) -> bytes:
    """The Lane number `lane` (1 and up) of an account."""
    return b"l" + public_key + lane.to_bytes(8)


def name_key(name: str) -> bytes:
    """The NameRecord of a name."""
    return b"n" + name.encode()


def namespace_key(label: str) -> bytes:
    """The NamespaceRecord of a label."""
    return b"N" + label.encode()


def preorder_key(commitment: bytes, sender: bytes) -> bytes:
    """The PreorderRecord of a commitment. The sender is part of the key, so that copying somebody's commitment out of
    the air does not get in the way of its author."""
    return b"p" + commitment + sender


def file_key(service_file_hash: bytes) -> bytes:
    """The FileRecord of a service file: how many names bind it."""
    return b"s" + service_file_hash


def candidate_key(node_key: bytes) -> bytes:
    """The Candidate of a node key."""
    return b"v" + node_key


def consensus_key_use_key(consensus_key: bytes) -> bytes:
    """The ConsensusKeyUse of a consensus key."""
    return b"k" + consensus_key


def era_key(era: int) -> bytes:
    """The EraPlan of an era. Never removed."""
    return b"e" + era.to_bytes(8)


def era_end_key(era: int) -> bytes:
    """The EraEnd of an era that is over. Never removed."""
    return b"t" + era.to_bytes(8)


def stake_key(node_key: bytes) -> bytes:
    """The StakeRecord of a candidate."""
    return b"r" + node_key


def challenge_report_key(node_key: bytes) -> bytes:
    """The Report of a challenger about the open round."""
    return b"c" + node_key


def offence_key(offence: bytes) -> bytes:
    """The Offence of this identity (`evidence.py`)."""
    return b"o" + offence


def contract_key(contract: bytes) -> bytes:
    """The ContractRecord of a contract's address."""
    return b"x" + contract


def code_key(code_hash: bytes) -> bytes:
    """The CodeRecord of the module with this SHA-256."""
    return b"w" + code_hash


def storage_key(contract: bytes, key: bytes) -> bytes:
    """The StorageCell of a contract's key."""
    return b"d" + contract + key


def policy_key(name: str) -> bytes:
    """The PolicyRecord of a name."""
    return b"y" + name.encode()


def role_key(role: str) -> bytes:
    """The RoleRecord of a name that is a role."""
    return b"m" + role.encode()


def revocations_key(name: str) -> bytes:
    """The RevocationRecord of a name."""
    return b"g" + name.encode()
