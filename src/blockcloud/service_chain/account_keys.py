"""Who signs for an account: its own key, or so many of several keys (m-of-n). Rotation is 1 of 1, with another key.

The address stays the first public key, so names, policies and payments need not know. An account with its own key alone
has no record here, and its Account says so: a transfer looks nothing up. `SetKeys` is authorised by the present keys,
like anything else on lane 0, and signed by each new key as well. That signature is the proof that somebody holds the
key and agrees: a mistyped key cannot lock the account. It covers chain, account and sequence, so it counts once.

Exactly the keys that are needed sign: `threshold` of the present ones, or more only where more of them stay on. Lanes
have keys of their own. Whoever changes keys because one was stolen does not know which lanes the thief has opened, so a
change ends all lanes that were opened before, unless it says otherwise. DESIGN section 4, ADR 20.
"""

from __future__ import annotations

from collections.abc import Sequence

from blockcloud.service_chain.accounts import Context, Event
from blockcloud.service_chain.operations import SetKeys
from blockcloud.service_chain.records import Account, AccountKeys, Candidate
from blockcloud.service_chain.rejections import CandidateKeepsKey, TooFewSigners, TooManySigners, WrongSigner
from blockcloud.service_chain.state_keys import account_key, account_keys_key, candidate_key
from blockcloud.service_chain.transaction import Transaction
from blockcloud.service_chain.working_state import WorkingState


def apply_set_keys(state: WorkingState, sender: bytes, operation: SetKeys, context: Context) -> Sequence[Event]:
    """Change who signs for the sender. Raises CandidateKeepsKey."""
    source, place = account_key(sender), account_keys_key(sender)
    account = state.get(source, Account)
    assert account is not None, "it has paid the fee"
    candidate = state.get(candidate_key(sender), Candidate)
    if candidate is not None and candidate.at_stake:
        raise CandidateKeepsKey(at_stake=candidate.at_stake)
    before = state.get(place, AccountKeys)
    ended = account.highest_lane
    if operation.keep_lanes:
        ended = before.ended_lanes if before is not None else 0
    rekeyed = bool(ended) or (operation.threshold, operation.keys) != (1, (sender,))
    if rekeyed:
        state.put(place, AccountKeys(operation.threshold, operation.keys, ended))
    elif before is not None:
        state.delete(place)
    if rekeyed != account.rekeyed:
        state.put(source, Account(account.balance, account.sequence, account.highest_lane, rekeyed))
    return [("keys", sender)]


def authorise_keys(state: WorkingState, account: Account, transaction: Transaction) -> None:
    """Whether exactly the keys have signed that may act on lane 0. Raises WrongSigner, TooFewSigners, TooManySigners.

    `account` is the sender's. Keys that a `SetKeys` of this transaction names sign as well, and count only if they are
    among the present ones.
    """
    body = transaction.body
    threshold, present = signing_keys(state, body.sender, account)
    joining = [key for operation in body.operations if isinstance(operation, SetKeys) for key in operation.keys]
    own = 0
    staying = 0
    for key in transaction.signers:
        if key in present:
            own += 1
            staying += key in joining
        elif key not in joining:
            raise WrongSigner(lane=0, key=key.hex()[:16])
    needed = max(threshold, staying)
    if own < needed:
        raise TooFewSigners(signed=own, threshold=threshold)
    if own > needed:
        raise TooManySigners(signed=own, threshold=threshold)


def signing_keys(state: WorkingState, sender: bytes, account: Account) -> tuple[int, tuple[bytes, ...]]:
    """(threshold, keys) of lane 0 of the sender, whose account this is."""
    record = state.get(account_keys_key(sender), AccountKeys) if account.rekeyed else None
    return (record.threshold, record.keys) if record is not None else (1, (sender,))


def ended_lanes(state: WorkingState, sender: bytes) -> int:
    """Lanes of the sender up to this number are over."""
    record = state.get(account_keys_key(sender), AccountKeys)
    return record.ended_lanes if record is not None else 0
